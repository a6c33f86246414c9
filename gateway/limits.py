"""What a request's body may be: its size, and JSON that comes out of Redis as it went in."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import orjson
from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import Problem
from shared.store import StoreUnavailable

# Only Redis can keep a route waiting: when it has not answered by then, the client is told so.
ANSWER_SECONDS = 1.8
# orjson reads deeper JSON than it writes, and what is accepted must be written for the worker.
MAX_DEPTH = 254
MIN_INTEGER, MAX_INTEGER = -(2**63), 2**64 - 1
_LONG_INTEGER = b"0" * 19
_DIGITS_TO_ZERO = bytes(0x30 if 0x30 <= byte <= 0x39 else 0x20 for byte in range(256))


class BodyLimit:
    """Refuses bodies over `max_bytes` (0: any will do): by Content-Length before a byte is read, else while reading."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not self.max_bytes:
            return await self.app(scope, receive, send)
        for name, value in scope["headers"]:
            if name == b"content-length" and value.isdigit() and (len(value) > 18 or int(value) > self.max_bytes):
                return await self._problem().response()(scope, receive, send)
        size = 0

        async def receive_counted() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self.max_bytes:
                raise self._problem()
            return message

        return await self.app(scope, receive_counted, send)

    def _problem(self) -> Problem:
        detail = f"The body is larger than the {self.max_bytes} bytes that this service takes (MAX_BODY_BYTES)."
        # The rest of the body is not read, so the connection cannot be used again.
        return Problem("body_too_large", detail, headers={"Connection": "close"})


class JSONRequest(Request):
    """A request whose body is read by orjson, and refused where it would not come back from Redis as it was sent."""

    async def body(self) -> bytes:
        """The raw body. Raises `Problem` where there is one that does not say it is JSON."""
        if hasattr(self, "_body"):
            return self._body
        try:
            body = await super().body()
        except ClientDisconnect:
            raise Problem("bad_request", "The body broke off.") from None
        media_type = self.headers.get("content-type", "").partition(";")[0].strip().lower()
        if body and media_type != "application/json":
            raise Problem(
                "unsupported_media_type", "Send the body as JSON, with the header Content-Type: application/json."
            )
        return body

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
            if reads_body:
                await request.body()  # a slow client's time is its own
            async with answered_in_time():
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
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Problem("invalid_json", f"The body is not valid JSON: {error.msg}, at character {error.pos}.") from None
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH:
        _refuse_deep_nesting(value)
    return value


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


def _too_deep() -> Problem:
    return Problem(
        "too_deeply_nested", f"The body has objects or arrays nested more than {MAX_DEPTH} deep. Flatten it."
    )
