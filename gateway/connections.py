"""The connections of one gateway process, and a limit to all that a client can make one cost.

uvicorn bounds a connection that has been answered (`timeout_keep_alive`), and nothing before that: a client may say
nothing for ever, send its headers byte by byte or without an end, queue up thousands of requests behind a slow one, or
never read its answer. Its `limit_concurrency` counts idle connections, so that a few idle clients shut out all others.
"""

from __future__ import annotations

import asyncio
import resource
import time
from contextlib import suppress
from typing import Any, cast

import structlog
from httptools import HttpParserError
from uuid_utils import uuid7
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from gateway.answer_headers import EVERYWHERE
from gateway.errors import PROBLEM_JSON, Problem
from gateway.outlet import Outlet
from gateway.overload import SURPLUS
from gateway.request_head import malformed, named_host

logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)
MAX_HEAD_BYTES = 65_536
MAX_URL_BYTES = 16_384  # a list's filters, all at their longest, take less
# Chunks of one byte take six; what has more framing than that is not meant well.
FRAMING_PER_BYTE = 8
MAX_PIPELINED = 32
LINGER_SECONDS = 2.0
SLOWEST_READ_BYTES_PER_SECOND = 50_000
UNREAD_AT_ONCE_BYTES = 128_000_000
# Files that are not connections of clients: to Redis, the log, the socket that is served, and the loop's own.
OTHER_FILES = 80
SURPLUS_CONNECTIONS = 16  # for health, and to tell others that there are too many
_SECURITY = b"".join(name + b": " + value + b"\r\n" for name, value in EVERYWHERE)
TOLD_SECONDS = 60.0
LOG_SECONDS = 5.0


class Connections:
    """Those that are open, the idle ones in the order in which they became so. Lives on the event loop."""

    def __init__(self, max_connections: int, request_seconds: float) -> None:
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        room = max(files - OTHER_FILES - SURPLUS_CONNECTIONS, 16)
        self.limit = min(max_connections or room, room)
        self.request_seconds = request_seconds
        self.open: set[BoundedProtocol] = set()
        self.idle: dict[BoundedProtocol, float] = {}
        self.leaving = False
        self._surplus: set[BoundedProtocol] = set()
        self._turned_away_at: float | None = None
        self._logged_at = float("-inf")
        self._unlogged = 0

    def add(self, connection: BoundedProtocol) -> bool:
        """Whether it is one of those allowed: where it is one too many, the longest idle one has to go for it."""
        if len(self.open) >= self.limit and self.idle:
            oldest = next(iter(self.idle))
            self.drop(oldest)
            oldest.transport.close()
        if len(self.open) < self.limit:
            self.open.add(connection)
            self.idle[connection] = time.monotonic()
            return True
        self._turn_away()
        self._surplus.add(connection)
        if len(self._surplus) > SURPLUS_CONNECTIONS:
            connection.transport.abort()
        return False

    def drop(self, connection: BoundedProtocol) -> None:
        self.open.discard(connection)
        self._surplus.discard(connection)
        self.idle.pop(connection, None)

    def leave(self) -> None:
        """From now on each answer is the last one of its connection, and says so."""
        self.leaving = True
        for connection in self.open:
            connection.end_with_the_answer()

    def sweep(self) -> None:
        """Cut those that have had their time. To be called about once a second."""
        now = time.monotonic()
        unread = 0
        for connection in [*self.open, *self._surplus]:
            connection.cut_if_due(now)
            unread += connection.unread_bytes
        if unread > UNREAD_AT_ONCE_BYTES:
            self._cut_slow_readers(unread)

    @property
    def detail(self) -> str | None:
        """What an operator should know; None where all is well."""
        busy = len(self.open) - len(self.idle)
        if self._turned_away_at is not None and time.monotonic() - self._turned_away_at < TOLD_SECONDS:
            return f"Requests were turned away in the last minute: all {self.limit} connections were in use."
        if busy >= self.limit * 0.9:
            return f"{busy} of {self.limit} connections are in use; beyond that, requests are turned away."
        return None

    def _cut_slow_readers(self, unread: int) -> None:
        """Those who have been reading their answers for the longest, until the rest fits."""
        readers = sorted((one for one in self.open if one.unread_bytes), key=lambda one: one.unread_since)
        for reader in readers:
            if unread <= UNREAD_AT_ONCE_BYTES:
                return
            unread -= reader.unread_bytes
            logger.warning("too many answers are not being read: a connection is cut", bytes=reader.unread_bytes)
            reader.transport.abort()

    def _turn_away(self) -> None:
        now = self._turned_away_at = time.monotonic()
        self._unlogged += 1
        if now - self._logged_at > LOG_SECONDS:
            logger.warning(
                "too many connections: turned away (MAX_CONNECTIONS, or the limit of open files)",
                limit=self.limit, turned_away=self._unlogged,
            )  # fmt: skip
            self._logged_at, self._unlogged = now, 0


class BoundedProtocol(HttpToolsProtocol):
    """One connection. `Connections` asks it each second to cut itself where it is due."""

    bounds: Connections

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.bounds = self.app_state["connections"]
        self._message_since: float | None = None  # a request is on its way in
        self._head_complete = False
        self._raw_bytes = self._body_bytes = self._piece_bytes = self._first_bytes = 0
        self._answered_at: float | None = None
        self._closing_since: float | None = None  # the answer is out, and what the client still sends is thrown away
        self.unread_bytes = 0  # of answers
        self.unread_since = 0.0
        self._unread_before: tuple[int, float] | None = None
        self._refusal: Problem | None = None
        self._running: RequestResponseCycle | None = None
        self._resting_since = time.monotonic()
        self._allowed = self.bounds.add(self)
        if not self._allowed:
            self.app_state = {**self.app_state, SURPLUS: True}

    def connection_lost(self, exc: Exception | None) -> None:
        self.bounds.drop(self)
        super().connection_lost(exc)
        if self._running is not None and not self._running.response_complete:  # others wait behind it
            self._running.disconnected = True
            self._running.message_event.set()

    def data_received(self, data: bytes) -> None:
        if self._closing_since is not None:
            return
        self._piece_bytes = len(data)
        self._raw_bytes += self._piece_bytes
        super().data_received(data)
        if (
            self._message_since is not None
            and self._raw_bytes > MAX_HEAD_BYTES + FRAMING_PER_BYTE * self._body_bytes
            and self._closing_since is None
        ):
            self._refuse(_head_too_large())

    def on_message_begin(self) -> None:
        self._message_since = time.monotonic()
        self._head_complete = False
        self._raw_bytes = self._body_bytes = 0  # counted from the next piece on
        self._first_bytes = self._piece_bytes  # of the piece that it begins in
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > MAX_URL_BYTES:
            self._refusal = Problem("url_too_long", f"The address has more than {MAX_URL_BYTES} bytes.")
            raise HttpParserError("too long an address")

    def on_headers_complete(self) -> None:
        if len(self.pipeline) >= MAX_PIPELINED:
            raise HttpParserError("too many requests at once")
        if self._first_bytes + self._raw_bytes > MAX_HEAD_BYTES and self._head_bytes > MAX_HEAD_BYTES:
            self._refusal = _head_too_large()
            raise HttpParserError("too large a head")
        if wrong := malformed(self.parser.get_http_version(), self.url, self.headers):
            self._refusal = Problem("bad_request", f"This is not a valid HTTP request: {wrong}.")
            raise HttpParserError(wrong)
        if (host := named_host(self.url)) is not None:  # RFC 9112, 3.2.2: the Host header is not looked at then
            self.headers[:] = [(b"host", host), *(header for header in self.headers if header[0] != b"host")]
        self._head_complete = True
        self.bounds.idle.pop(self, None)
        super().on_headers_complete()
        self.cycle.transport = cast(asyncio.Transport, Outlet(self))
        if self.bounds.leaving:
            self.end_with_the_answer()

    def _unsupported_upgrade_warning(self) -> None:
        pass  # an upgrade is an offer: the request is answered as it is

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._message_since = None
        super().on_message_complete()

    def on_response_complete(self) -> None:
        if self._running is not None:
            cast(Outlet, self._running.transport).flush()
        self._answered_at = time.monotonic()
        if self._closing_since is not None:  # nothing more is answered here
            self.server_state.total_requests += 1
            self.flow.resume_reading()
            return
        super().on_response_complete()
        self._resting_since = self._answered_at
        if self._resting and self._allowed and not self.transport.is_closing():
            self.bounds.idle[self] = self._resting_since

    def send_400_response(self, msg: str) -> None:
        self._refuse(self._refusal or Problem("bad_request", "This is not a valid HTTP request."))

    def cut_if_due(self, now: float) -> None:
        """Close the connection where the client has had its time for what it is doing."""
        if self._stuck(now):
            self.transport.abort()
        elif self.transport.is_closing():
            return
        elif self._closing_since is not None:
            if now - self._closing_since > LINGER_SECONDS:
                self.transport.close()
        elif not self._resting:
            return  # the request is under way: its body, and its answer, have limits of their own
        elif self._message_since is None:
            if now - self._resting_since > self._silence_seconds:
                self.transport.close()
        elif self._head_complete:  # it was answered before its end
            if now - max(self._answered_at or now, self._message_since) > LINGER_SECONDS:
                self.transport.close()
        elif self.bounds.request_seconds and now - self._message_since > self.bounds.request_seconds:
            self._refuse(Problem("request_timeout", "The headers came too slowly (REQUEST_SECONDS)."))

    def end_with_the_answer(self) -> None:
        """Keep the connection no longer than the request that is under way; where there is none, this does nothing."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False  # uvicorn writes `Connection: close` then

    def close_when_heard(self) -> None:
        """Close once the client has stopped sending, or soon: before that it might lose the answer."""
        if self._message_since is None or self.transport.is_closing():
            self.transport.close()
        elif self._closing_since is None:
            self._closing_since = time.monotonic()
            self.bounds.idle.pop(self, None)
            self.flow.resume_reading()
            with suppress(OSError, RuntimeError):  # the client is gone
                self.transport.write_eof()

    @property
    def _head_bytes(self) -> int:
        return len(self.url) + sum(len(name) + len(value) for name, value in self.headers)

    @property
    def _silence_seconds(self) -> float:
        if not self._allowed:
            return LINGER_SECONDS
        if self._answered_at is None and self.bounds.request_seconds:
            return self.bounds.request_seconds
        return self.timeout_keep_alive

    @property
    def _resting(self) -> bool:
        """Whether there is nothing to answer."""
        return (self.cycle is None or self.cycle.response_complete) and not self.pipeline

    def _refuse(self, problem: Problem) -> None:
        """Answer on the server's own account: no application has seen this request, or no longer reads it."""
        if not self._resting:  # the answer would stand in the middle of another
            self.transport.abort()
            return
        body = problem.response()
        lines = [f"HTTP/1.1 {problem.status_code} {problem.document()['title']}", f"content-type: {PROBLEM_JSON}"]
        lines += [f"content-length: {len(body.body)}", f"x-request-id: {uuid7().hex}", "connection: close", ""]
        self.transport.write("\r\n".join(lines).encode() + _SECURITY + b"\r\n" + bytes(body.body))
        self._message_since = self._message_since or time.monotonic()
        self.close_when_heard()

    def _stuck(self, now: float) -> bool:
        """Whether the client has not been reading its answer for a while."""
        unread = self.transport.get_write_buffer_size()
        if unread and not self.unread_bytes:
            self.unread_since = now
        self.unread_bytes = unread
        if not unread:
            self._unread_before = None
        elif self._unread_before is None:
            self._unread_before = unread, now
        elif (seconds := self.bounds.request_seconds) and now - self._unread_before[1] > seconds:
            if unread > self._unread_before[0] - seconds * SLOWEST_READ_BYTES_PER_SECOND:
                return True
            self._unread_before = unread, now
        return False


def _head_too_large() -> Problem:
    return Problem("headers_too_large", f"The request has more than {MAX_HEAD_BYTES} bytes of headers or framing.")
