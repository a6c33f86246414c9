"""An HTTP client that costs the load little: a connection that stays open, one request on it at a time.

The load shares the cores with what is measured, and a client made for everyone costs as much as the gateway.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple
from urllib.parse import urlsplit

import httptools


class Answer(NamedTuple):
    status: int
    body: bytes


class Connection(asyncio.Protocol):
    """One connection. `to(base)` opens it; `base` is a URL such as `http://127.0.0.1:8000/api/v1`."""

    def __init__(self, host: str, path: str) -> None:
        self._host = host.encode()
        self._path = path.encode()
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._answer: asyncio.Future[Answer] | None = None

    @classmethod
    @asynccontextmanager
    async def to(cls, base: str) -> AsyncIterator[Connection]:
        url = urlsplit(base)
        loop = asyncio.get_running_loop()
        transport, connection = await loop.create_connection(lambda: cls(url.netloc, url.path), url.hostname, url.port)
        try:
            yield connection
        finally:
            transport.close()

    def request(self, method: str, path: str, body: bytes = b"", **headers: str) -> bytes:
        """A request as it goes over the wire, made once for all the times that it is sent."""
        lines = [b"%s %s%s HTTP/1.1" % (method.encode(), self._path, path.encode()), b"host: " + self._host]
        if body:
            lines += [b"content-type: application/json", b"content-length: %d" % len(body)]
        lines += [b"%s: %s" % (name.encode(), value.encode()) for name, value in headers.items()]
        return b"\r\n".join([*lines, b"", body])

    def send(self, request: bytes) -> asyncio.Future[Answer]:
        """The answer to come. Fails with `ConnectionError` where the connection is closed before."""
        if self._answer is not None:
            raise RuntimeError("one request at a time")
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._answer

    # Called by the event loop and the parser

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionError("closed before the answer"))

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        answer, self._answer = self._answer, None
        body, self._body = b"".join(self._body), []
        if answer is not None and not answer.done():
            answer.set_result(Answer(self._parser.get_status_code(), body))
