"""What a request's body may be: its size, its time, and JSON that comes out of Redis as it went in."""

from __future__ import annotations

import asyncio
import gc
import json
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Any

import orjson
from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import Problem
from gateway.overload import ByteBudget
from shared.store import StoreUnavailable

# Only Redis can keep a route waiting: when it has not answered by then, the client is told so.
ANSWER_SECONDS = 1.8
SLOWEST_BYTES_PER_SECOND = 50_000
SMALL_BODY_BYTES = 65_536  # the server keeps as many for a connection, whatever is read of it
READ_AT_ONCE_BYTES = 16_000_000
# In the state of a request: the budgets of JSON to be read and of outputs, and what lasts until it is answered.
READING, ANSWERING, UNTIL_ANSWERED = "reading", "answering", "until_answered"
# orjson reads deeper JSON than it writes, and what is accepted must be written for the worker.
MAX_DEPTH = 254
# A small object takes fifty times the memory of its JSON.
MAX_KEYS_OF_OBJECT = 10_000
MAX_KEYS = 200_000
MIN_INTEGER, MAX_INTEGER = -(2**63), 2**64 - 1
_LONG_INTEGER = b"0" * 19
_DIGITS_TO_ZERO = bytes(0x30 if 0x30 <= byte <= 0x39 else 0x20 for byte in range(256))


class BodyLimit:
    """Bounds bodies: one by `max_bytes` and by time, all that a process has at once by `bytes_at_once`. 0: no bound.

    Too large ones are refused by Content-Length before a byte is read, else while reading. A client has `seconds`, and
    as much longer as its bytes come no slower than `SLOWEST_BYTES_PER_SECOND`. Small ones wait for nobody: as many as
    there are connections are bounded by those.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, bytes_at_once: int = 0, seconds: float = 0) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.seconds = seconds
        self.receiving = ByteBudget(max(bytes_at_once, max_bytes)) if bytes_at_once else None
        # What is read out of JSON takes many times its bytes, so that fewer are read than received.
        self.reading = ByteBudget(READ_AT_ONCE_BYTES) if bytes_at_once else None
        self.answering = ByteBudget(bytes_at_once) if bytes_at_once else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        declared = -1
        for name, value in scope["headers"]:
            if name == b"content-length" and value.isdigit():
                declared = int(value) if len(value) <= 18 else 10**18
        if self.max_bytes and declared > self.max_bytes:
            return await self.too_large().response()(scope, receive, send)
        async with AsyncExitStack() as until_answered:
            state = scope.setdefault("state", {})
            state |= {READING: self.reading, ANSWERING: self.answering, UNTIL_ANSWERED: until_answered}
            body = _Body(self, receive, declared, until_answered)
            return await self.app(scope, body.receive, send)

    def too_large(self) -> Problem:
        detail = f"The body is larger than the {self.max_bytes} bytes that this service takes (MAX_BODY_BYTES)."
        # The rest of the body is not read, so the connection cannot be used again.
        return Problem("body_too_large", detail, headers={"Connection": "close"})


class _Body:
    """One body on its way in. What it takes of the budget it keeps until its request is answered."""

    def __init__(self, limit: BodyLimit, receive: Receive, declared: int, until_answered: AsyncExitStack) -> None:
        self.limit = limit
        self._receive = receive
        self._until_answered = until_answered
        self._declared = declared
        self._size = 0
        self._counted = limit.receiving is None
        self._since: float | None = None
        self._complete = False

    async def receive(self) -> Message:
        """The next part of it. Raises `Problem` where there is too much of it, or it comes too slowly."""
        if self._complete:  # what comes now is that the client has gone
            return await self._receive()
        if not self._counted and max(self._declared, self._size) > SMALL_BODY_BYTES:
            await self._count()
        message = await self._next()
        self._complete = not message.get("more_body", False)
        self._size += len(message.get("body", b""))
        if self.limit.max_bytes and self._size > self.limit.max_bytes:
            raise self.limit.too_large()
        return message

    async def _count(self) -> None:
        """Take its part of the budget, in one go: two that each wait for what the other has would wait forever."""
        self._counted = True
        budget = self.limit.receiving
        if budget is not None:
            size = self._declared if self._declared >= 0 else self.limit.max_bytes or budget.size
            waiting_since = time.monotonic()
            await self._until_answered.enter_async_context(budget.share(size))
            if self._since is not None:
                self._since += time.monotonic() - waiting_since

    async def _next(self) -> Message:
        if not self.limit.seconds:
            return await self._receive()
        now = time.monotonic()
        if self._since is None:
            self._since = now
        left = self._since + self.limit.seconds + self._size / SLOWEST_BYTES_PER_SECOND - now
        try:
            async with asyncio.timeout(left):
                return await self._receive()
        except TimeoutError:
            detail = "The body came too slowly (REQUEST_SECONDS)."
            raise Problem("request_timeout", detail, headers={"Connection": "close"}) from None


@asynccontextmanager
async def _turn_to_be_read(request: Request, size: int) -> AsyncIterator[None]:
    reading: ByteBudget | None = request.scope.get("state", {}).get(READING)
    if reading is None or size <= SMALL_BODY_BYTES:
        yield
        return
    async with reading.share(size):
        yield


class JSONRequest(Request):
    """A request whose body is read by orjson, and refused where it would not come back from Redis as it was sent."""

    async def body(self) -> bytes:
        """The raw body. Raises `Problem` where there is one that does not say it is JSON."""
        if hasattr(self, "_body"):
            return self._body
        self._body = body = await self._whole()
        media_type = self.headers.get("content-type", "").partition(";")[0].strip().lower()
        if body and media_type != "application/json":
            raise Problem(
                "unsupported_media_type", "Send the body as JSON, with the header Content-Type: application/json."
            )
        return body

    async def _whole(self) -> bytes:
        parts = []
        more = True
        while more:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise Problem("bad_request", "The body broke off.")
            parts.append(message.get("body", b""))
            more = message.get("more_body", False)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def json(self) -> Any:
        """The body's JSON, parsed once. Raises `Problem`."""
        if not hasattr(self, "_json"):
            self._json = parse_json(await self.body())
        return self._json


class JSONRoute(APIRoute):
    """A route that reads JSON by orjson, and answers 503 in time when Redis does not.

    Routes that have more to say then, or that wait on purpose, are plain ones and use `answered_in_time` themselves.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        reads_body = self.body_field is not None

        async def handle_in_time(request: Request) -> Response:
            request = JSONRequest(request.scope, request.receive)
            size = len(await request.body()) if reads_body else 0  # a slow client's time is its own
            async with _turn_to_be_read(request, size), answered_in_time():
                return await handle(request)

        return handle_in_time


@asynccontextmanager
async def answered_in_time() -> AsyncIterator[None]:
    """Raises `StoreUnavailable` where the block takes longer than `ANSWER_SECONDS`."""
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            yield
    except TimeoutError:
        raise StoreUnavailable(f"no answer within {ANSWER_SECONDS} s") from None


def parse_json(body: bytes) -> Any:
    """The value of a JSON text. Raises `Problem` for what is not JSON, or is but cannot be kept as it is."""
    if _LONG_INTEGER in body.translate(_DIGITS_TO_ZERO):
        _refuse_large_integers(body)
    try:
        with _no_collecting():
            value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Problem("invalid_json", f"The body is not valid JSON: {error.msg}, at character {error.pos}.") from None
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH:
        _refuse_deep_nesting(value)
    if body.count(b":") > MAX_KEYS_OF_OBJECT:
        _refuse_many_keys(value)
    return value


@contextmanager
def _no_collecting() -> Iterator[None]:
    """Of garbage: a million small lists would each have all the others looked through, and JSON has no cycles."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _refuse_large_integers(body: bytes) -> None:
    # orjson would turn them into floats without a word.
    def check(digits: str) -> int:
        if len(digits) > 20 or not MIN_INTEGER <= int(digits) <= MAX_INTEGER:
            raise Problem(
                "integer_too_large",
                f"The integer {digits[:30]} does not fit 64 bits. Send it as a string, or as a float.",
            )
        return 0

    try:
        json.loads(body, parse_int=check)
    except RecursionError:
        raise _too_deep() from None
    except ValueError:
        pass  # not JSON: orjson says where


def _refuse_deep_nesting(value: Any) -> None:
    try:
        orjson.dumps(value)
    except TypeError:
        raise _too_deep() from None


def _refuse_many_keys(value: Any) -> None:
    total = 0
    to_look_at = [value]
    while to_look_at:
        part = to_look_at.pop()
        if isinstance(part, dict):
            total += len(part)
            if len(part) > MAX_KEYS_OF_OBJECT or total > MAX_KEYS:
                detail = (
                    f"An object may have {MAX_KEYS_OF_OBJECT} keys, and the whole body {MAX_KEYS}. "
                    "Use lists, or several jobs."
                )
                raise Problem("too_many_keys", detail)
            part = part.values()
        elif not isinstance(part, list):
            continue
        to_look_at += [inner for inner in part if isinstance(inner, dict | list)]


def _too_deep() -> Problem:
    return Problem(
        "too_deeply_nested", f"The body has objects or arrays nested more than {MAX_DEPTH} deep. Flatten it."
    )
