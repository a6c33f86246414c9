"""One try to deliver a webhook over HTTP, to a receiver that may be hostile.

This stands on httpcore, httpx's lower half, because it has none of what would have to be switched off (proxies from the
environment, redirects, cookies, decompression) and lets us decide which address a connection goes to.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self

import certifi
import httpcore

from shared.addresses import AddressRefused, Target, parse_url, resolve
from shared.settings import Network

BODY_KEPT_BYTES = 1024
BODY_READ_BYTES = 64 * 1024  # read this much of an answer to keep its connection; a longer one costs the connection
KEEP_ALIVE_SECONDS = 2.0  # less than any common server's, so that no try is lost to a connection closed meanwhile
CONNECT_SECONDS = 4.0  # for each address, so that a dead one leaves time for the next
MAX_ADDRESSES = 4


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a try: the answer's status, the first 1 KB of its body, and what went wrong with it.

    `status_code` and `body` are None where no answer came, and `error` then says why, in words. `reason` says it to the
    program, and means nothing where there is a status: the receiver was `silent` (no connection, no TLS, no status
    line), our own check `refused` the address, or the message could not be made ready (`unready`).
    `abort`: the answer's header asks for no more tries of this message.
    """

    status_code: int | None = None
    retry_after: str | None = None
    body: str | None = None
    error: str | None = None
    abort: bool = False
    reason: Literal["silent", "refused", "unready"] = "silent"


class DeliveryClient:
    """Sends POST requests to checked addresses only. For one event loop; close it, or use it as `async with`."""

    def __init__(
        self, allow: Sequence[Network], *, timeout_seconds: float, ssl_context: ssl.SSLContext | None = None
    ) -> None:
        ssl_context = ssl_context or _trusting_system_and_certifi()
        self._timeout_seconds = timeout_seconds
        # Plain http reaches only the allowed networks, so each scheme has a pool that connects by its own rule.
        self._pools = {
            scheme: httpcore.AsyncConnectionPool(
                ssl_context=ssl_context,
                max_connections=None,
                keepalive_expiry=KEEP_ALIVE_SECONDS,
                network_backend=CheckedBackend(allow, public=scheme == "https"),
            )
            for scheme in ("http", "https")
        }

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections."""
        for pool in self._pools.values():
            await pool.aclose()

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Send `body` once, within `timeout_seconds` from look-up to the end; what goes wrong stands in the answer."""
        status: int | None = None
        retry_after: str | None = None
        abort = False
        kept = bytearray()
        error: str | None = None
        try:
            target = parse_url(url)
            async with asyncio.timeout(self._timeout_seconds):
                request = self._pools[target.scheme].stream(
                    "POST", _httpcore_url(target), headers=[("Host", target.authority), *headers.items()], content=body
                )
                async with request as response:
                    status, retry_after = response.status, next(_headers(response, b"retry-after"), None)
                    abort = _asks_to_abort(response)
                    await _read_start(response, kept)
        except AddressRefused as refusal:
            return Answer(error=f"refused: {refusal}", reason="refused")
        except TimeoutError:
            missing = "answer" if status is None else "end of the answer"
            error = f"no {missing} within {self._timeout_seconds:g} s"
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, OSError) as failure:
            error = _describe(failure)
        return Answer(status, retry_after, None if status is None else kept.decode(errors="replace"), error, abort)


class CheckedBackend(httpcore.AsyncNetworkBackend):
    """Connects a name to the very addresses that `shared.addresses.resolve` found good; TLS still verifies the name."""

    def __init__(self, allow: Sequence[Network], *, public: bool) -> None:
        self._allow = allow
        self._public = public
        self._tcp = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature; each address gets CONNECT_SECONDS instead
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first address of `host` that lets us. Raises what `resolve` raises, or the last failure."""
        addresses = await resolve(host, port, self._allow, public=self._public)
        failure: Exception = httpcore.ConnectError(f"{host} has no address")
        for address in addresses[:MAX_ADDRESSES]:
            try:
                stream = await self._tcp.connect_tcp(str(address), port, CONNECT_SECONDS, local_address, socket_options)
                return _ClosingStream(stream)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure


class _ClosingStream(httpcore.AsyncNetworkStream):
    """A connection that is closed when its TLS handshake is cancelled; httpcore's own stays open, one for each try."""

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> httpcore.AsyncNetworkStream:
        try:
            return await self._stream.start_tls(ssl_context, server_hostname, timeout)
        except asyncio.CancelledError:
            await self._stream.aclose()
            raise

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        return await self._stream.read(max_bytes, timeout)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


async def _read_start(response: httpcore.Response, kept: bytearray) -> None:
    read = 0
    async for chunk in response.aiter_stream():
        kept += chunk[: BODY_KEPT_BYTES - len(kept)]
        read += len(chunk)
        if read > BODY_READ_BYTES:
            break


def _headers(response: httpcore.Response, name: bytes) -> Iterator[str]:
    return (value.decode("latin-1") for key, value in response.headers if key.lower() == name)


def _asks_to_abort(response: httpcore.Response) -> bool:
    tokens = (token for value in _headers(response, b"webhook-delivery") for token in value.split(","))
    return any(token.strip().lower() == "abort-message" for token in tokens)


def _httpcore_url(target: Target) -> httpcore.URL:
    return httpcore.URL(scheme=target.scheme, host=target.host, port=target.port, target=target.path)


def _trusting_system_and_certifi() -> ssl.SSLContext:
    context = ssl.create_default_context()  # honours SSL_CERT_FILE, for a private authority
    context.load_verify_locations(certifi.where())
    return context


def _describe(error: BaseException) -> str:
    """The innermost reason, as a person would put it."""
    while True:
        inner = error.__cause__ or next((arg for arg in error.args if isinstance(arg, BaseException)), None)
        if inner is None:
            break
        error = inner
    if isinstance(error, socket.gaierror):
        return f"the host name does not resolve: {error.strerror}"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate was refused: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {error.reason or error}"
    if isinstance(error, httpcore.ConnectTimeout | TimeoutError):
        return f"no connection within {CONNECT_SECONDS:g} s"
    if isinstance(error, OSError) and error.errno:
        return f"the connection failed: {os.strerror(error.errno)}"  # asyncio puts addresses into error.strerror
    return str(error) or type(error).__name__
