"""A model provider on a loopback port that speaks OpenAI's chat-completions protocol over real HTTP.

    with ModelServer() as server:
        server.script(Fail(429, retry_after=0.1), Say("Hello"))
        ...  # point a client at server.url
        assert [request.api_key for request in server.requests] == ["the-key", "the-key"]

Each request takes the next step of the script; when that is used up, `server.otherwise` answers, which repeats the last
user message. Any step is sent as JSON or as server-sent events, as the request asks. Like the real ones, the server
refuses a request without a key (401), and tool calls that are not followed by their results (400).
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Say:
    """Answer with `text`, streamed word by word."""

    text: str


@dataclass(frozen=True)
class Call:
    """Call a tool; streamed, its arguments come in pieces of five characters. A str is sent as it is, JSON or not."""

    tool: str
    arguments: dict[str, Any] | str = field(default_factory=dict)


@dataclass(frozen=True)
class Fail:
    """Answer with an HTTP error; `retry_after` in seconds."""

    status: int
    retry_after: float | None = None
    message: str = "scripted failure"


@dataclass(frozen=True)
class Drop:
    """Cut the connection: before the response, or within the answer, after so many words of it."""

    after_words: int | None = None
    text: str = "this answer will never be complete"


@dataclass(frozen=True)
class Hang:
    """Take the request and answer nothing for so long."""

    seconds: float


Step = Say | Call | Fail | Drop | Hang


@dataclass(frozen=True)
class ModelRequest:
    """One request as it came over the wire; `at` is `time.monotonic()`."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    at: float

    @property
    def api_key(self) -> str:
        return self.headers.get("authorization", "").removeprefix("Bearer ")

    @property
    def model(self) -> str:
        return str(self.body.get("model"))

    @property
    def messages(self) -> list[dict[str, Any]]:
        return list(self.body.get("messages", []))

    @property
    def tools(self) -> list[str]:
        """Names of the offered tools."""
        return [tool["function"]["name"] for tool in self.body.get("tools", [])]

    @property
    def last_user_text(self) -> str:
        return next((str(each["content"]) for each in reversed(self.messages) if each["role"] == "user"), "")


def repeat(request: ModelRequest) -> Step:
    """What a server without a script answers."""
    return Say(f"You said: {request.last_user_text}")


class ModelServer:
    """A context manager; while open it listens at `url`, the `base_url` of a client."""

    def __init__(self, otherwise: Step | Callable[[ModelRequest], Step] = repeat) -> None:
        self.requests: list[ModelRequest] = []
        self.otherwise = otherwise
        self.closing = threading.Event()
        self._script: deque[Step] = deque()
        self._http = _HTTPServer(self)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), name="model-server", daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}/v1"

    def script(self, *steps: Step) -> None:
        """Answer the next requests with `steps`, one each."""
        self._script.extend(steps)

    def take(self, request: ModelRequest) -> Step:
        """Record the request and say how to answer it."""
        self.requests.append(request)
        refusal = _refusal(request)
        if refusal is not None:
            return refusal
        try:
            return self._script.popleft()
        except IndexError:
            return self.otherwise(request) if callable(self.otherwise) else self.otherwise

    def __enter__(self) -> ModelServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join(5)


def _refusal(request: ModelRequest) -> Fail | None:
    if request.path != "/v1/chat/completions":
        return Fail(404, message=f"no such path: {request.path}")
    if not request.api_key:
        return Fail(401, message="You didn't provide an API key.")
    if request.body.get("stream_options") and not request.body.get("stream"):
        return Fail(400, message="stream_options is only allowed when stream is enabled")
    waiting: set[str] = set()
    for message in request.messages:
        if message["role"] == "tool":
            waiting.discard(message["tool_call_id"])
        elif waiting:
            return Fail(400, message="tool_calls must be followed by tool messages responding to each tool_call_id")
        waiting |= {call["id"] for call in message.get("tool_calls") or []}
    return Fail(400, message="tool_calls without results") if waiting else None


class _HTTPServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256

    def __init__(self, model_server: ModelServer) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.model_server = model_server

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _HTTPServer

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: tests read `ModelServer.requests`."""

    def do_POST(self) -> None:
        server = self.server.model_server
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = ModelRequest(self.path, headers, body, time.monotonic())
        step = server.take(request)
        if isinstance(step, Fail):
            self._send_error(step)
        elif isinstance(step, Hang):
            server.closing.wait(step.seconds)
            self._cut()
        elif isinstance(step, Drop) and step.after_words is None:
            self._cut()
        elif body.get("stream"):
            self._stream(step, request, len(server.requests))
        else:
            self._send_completion(step, request, len(server.requests))

    def _send_error(self, step: Fail) -> None:
        error = {"message": step.message, "type": "scripted", "param": None, "code": None}
        headers = {} if step.retry_after is None else {"Retry-After": str(step.retry_after)}
        self._send_json(step.status, {"error": error}, headers)

    def _send_completion(self, step: Say | Call | Drop, request: ModelRequest, number: int) -> None:
        message: dict[str, Any] = {"role": "assistant", "content": None, "refusal": None}
        if isinstance(step, Call):
            function = {"name": step.tool, "arguments": _arguments(step)}
            message["tool_calls"] = [{"id": f"call_{number}", "type": "function", "function": function}]
        else:
            message["content"] = step.text
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _finish_reason(step)}
        completion = _head("chat.completion", request, number)
        completion |= {"choices": [choice], "usage": _usage(step, request)}
        self._send_json(200, completion, {}, cut=isinstance(step, Drop))

    def _send_json(self, status: int, document: dict[str, Any], headers: dict[str, str], *, cut: bool = False) -> None:
        body = json.dumps(document, ensure_ascii=False).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if cut else body)
        if cut:
            self._cut()

    def _stream(self, step: Say | Call | Drop, request: ModelRequest, number: int) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        head = _head("chat.completion.chunk", request, number)
        for delta in _deltas(step, number):
            self._send_event({**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
        if isinstance(step, Drop):
            self._cut()
            return
        self._send_event({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": _finish_reason(step)}]})
        if (request.body.get("stream_options") or {}).get("include_usage"):
            self._send_event({**head, "choices": [], "usage": _usage(step, request)})
        self._send_chunk(b"data: [DONE]\n\n")
        self.wfile.write(b"0\r\n\r\n")

    def _send_event(self, document: dict[str, Any]) -> None:
        self._send_chunk(b"data: " + json.dumps(document, ensure_ascii=False).encode() + b"\n\n")

    def _send_chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def _cut(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)


def _head(kind: str, request: ModelRequest, number: int) -> dict[str, Any]:
    return {"id": f"chatcmpl-{number}", "object": kind, "created": int(time.time()), "model": request.model}


def _deltas(step: Say | Call | Drop, number: int) -> Iterator[dict[str, Any]]:
    if isinstance(step, Call):
        function = {"name": step.tool, "arguments": ""}
        call = {"index": 0, "id": f"call_{number}", "type": "function", "function": function}
        yield {"role": "assistant", "content": None, "tool_calls": [call]}
        arguments = _arguments(step)
        for start in range(0, len(arguments), 5):
            yield {"tool_calls": [{"index": 0, "function": {"arguments": arguments[start : start + 5]}}]}
        return
    yield {"role": "assistant", "content": ""}
    words = step.text.split(" ")
    for index, word in enumerate(words[: step.after_words if isinstance(step, Drop) else None]):
        yield {"content": word if index == 0 else f" {word}"}


def _finish_reason(step: Step) -> str:
    return "tool_calls" if isinstance(step, Call) else "stop"


def _arguments(step: Call) -> str:
    return step.arguments if isinstance(step.arguments, str) else json.dumps(step.arguments, ensure_ascii=False)


def _usage(step: Say | Call | Drop, request: ModelRequest) -> dict[str, Any]:
    """Tokens are words."""
    read = sum(len(str(message.get("content") or "").split()) for message in request.messages)
    written = len((_arguments(step) if isinstance(step, Call) else step.text).split())
    return {
        "prompt_tokens": read,
        "completion_tokens": written,
        "total_tokens": read + written,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }
