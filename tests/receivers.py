"""A webhook receiver on loopback that answers as a test tells it to, over http or https, and remembers what it got."""

from __future__ import annotations

import select
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Literal, Self

CHUNK = b"x" * 65_536
DRIP_SECONDS = 0.1


@dataclass(frozen=True)
class Reply:
    """How one request is answered. `size` stands for a body of that many bytes."""

    status: int = 204
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    size: int = 0
    delay: float = 0.0  # seconds before the answer
    drop: bool = False  # close the connection instead
    stall: bool = False  # send the head, then nothing until the receiver closes
    drip: Literal["head", "body"] | None = None  # send this part byte by byte, without end


@dataclass(frozen=True)
class Received:
    """One request as it came in; header names are lower case."""

    at: float
    path: str
    headers: dict[str, str]
    body: bytes
    at_once: int = 1  # how many requests were being answered then, this one too


class Receiver:
    """Answers with the queued replies in their order, then with `default`. Use it as `with Receiver() as receiver:`."""

    def __init__(
        self, *, tls: ssl.SSLContext | None = None, address: str = "127.0.0.1", port: int = 0,
        default: Reply | None = None,
    ) -> None:  # fmt: skip
        self.tls = tls
        self.default = default or Reply()
        self.replies: deque[Reply] = deque()
        self.requests: list[Received] = []
        self.server_names: list[str | None] = []  # as asked for in the TLS handshake (SNI)
        self.bytes_sent = 0
        self.connections = 0  # accepted so far
        self.closing = threading.Event()
        self._answering = 0
        self._changed = threading.Condition()
        server = _Server if ":" not in address else _ServerV6
        self._server = server((address, port), self)
        if tls is not None:
            tls.sni_callback = lambda _socket, name, _context: self.server_names.append(name)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        address = str(self._server.server_address[0])
        host = f"[{address}]" if ":" in address else address
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}/hook"

    def reply(self, *replies: Reply) -> None:
        """Queue answers for the next requests."""
        self.replies.extend(replies)

    def wait_for(self, count: int, timeout: float = 10.0) -> list[Received]:
        """The requests so far, once there are `count`. Raises `AssertionError` where they do not come in time."""
        with self._changed:
            arrived = self._changed.wait_for(lambda: len(self.requests) >= count, timeout)
        assert arrived, f"{len(self.requests)} of {count} requests came within {timeout} s"
        return list(self.requests)

    def note(self, path: str, headers: dict[str, str], body: bytes) -> Reply:
        with self._changed:
            self._answering += 1
            self.requests.append(Received(time.time(), path, headers, body, self._answering))
            self._changed.notify_all()
            return self.replies.popleft() if self.replies else self.default

    def note_end(self) -> None:
        with self._changed:
            self._answering -= 1

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


class _Server(ThreadingHTTPServer):
    request_queue_size = 256

    def __init__(self, address: tuple[str, int], receiver: Receiver) -> None:
        self.receiver = receiver
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.receiver.connections += 1
        super().process_request(request, client_address)

    def finish_request(self, request: Any, client_address: Any) -> None:
        # The handshake is made in the connection's own thread, so that a bad one holds up nobody else.
        if self.receiver.tls is not None:
            request = self.receiver.tls.wrap_socket(request, server_side=True)
        try:
            super().finish_request(request, client_address)
        finally:
            request.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Stay silent: senders that break off are what the tests are about."""


class _ServerV6(_Server):
    address_family = socket.AF_INET6


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30
    server: _Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        reply = self.server.receiver.note(self.path, headers, body)
        try:
            self._answer(reply)
        finally:
            self.server.receiver.note_end()

    def _answer(self, reply: Reply) -> None:
        self._wait(reply.delay)
        if reply.drop:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        if reply.drip == "head":
            self._drip(b"HTTP/1.1 200 OK\r\nx-slow: ")
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        length = reply.size or len(reply.body) or (1000 if reply.stall or reply.drip else 0)
        if reply.status != 204:
            self.send_header("content-length", str(length))
        self.end_headers()
        if reply.stall:
            self._wait(30)
        if reply.drip == "body":
            self._drip()
        self.wfile.write(reply.body)
        for _ in range(0, reply.size, len(CHUNK)):
            self.wfile.write(CHUNK)
            self.server.receiver.bytes_sent += len(CHUNK)

    def _drip(self, start: bytes = b"") -> None:
        for byte in start + b"x" * 1000:
            self.wfile.write(bytes([byte]))
            self._wait(DRIP_SECONDS)

    def _wait(self, seconds: float) -> None:
        """Wait, unless the receiver closes or the sender, who has nothing more to say, goes away."""
        poll = select.poll()
        poll.register(self.connection, select.POLLIN)
        ends = time.monotonic() + seconds
        while not self.server.receiver.closing.is_set() and (left := ends - time.monotonic()) > 0:
            if poll.poll(min(left, 0.05) * 1000):
                raise ConnectionError("the sender went away")
        if seconds > 0 and self.server.receiver.closing.is_set():
            raise ConnectionError("the receiver closes")

    def log_message(self, format: str, *args: Any) -> None:
        """Stay silent."""
