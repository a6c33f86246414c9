"""One try to deliver a webhook over HTTP, to a receiver that may be hostile.

aiohttp does the work: its parser is in C, and a resolver of our own decides which addresses a connection may go to.
What has no place here is switched off: redirects, cookies, decompression; it does not look for proxies by itself.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

import aiohttp
import certifi
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from shared.addresses import AddressRefused, Target, parse_url, resolve
from shared.settings import Network
from worker.delivery_answer import Answer

BODY_KEPT_BYTES = 1024
BODY_READ_BYTES = 64 * 1024  # read this much of an answer to keep its connection; a longer one costs the connection
KEEP_ALIVE_SECONDS = 2.0  # less than any common server's, so that no try is lost to a connection closed meanwhile
CONNECT_SECONDS = 4.0  # TLS included; a dead address delays the next by a quarter of a second
MAX_ADDRESSES = 4
_OUR_OWN = {errno.EMFILE, errno.ENFILE}  # too many open files here: it says nothing about the receiver


class DeliveryClient:
    """Sends POST requests to checked addresses only. Use it as `async with`."""

    def __init__(
        self, allow: Sequence[Network], *, timeout_seconds: float, ssl_context: ssl.SSLContext | None = None
    ) -> None:
        self._allow = allow
        self._timeout_seconds = timeout_seconds
        self._ssl_context = ssl_context or _trusting_system_and_certifi()
        self._sessions: dict[str, aiohttp.ClientSession] = {}

    async def __aenter__(self) -> Self:
        # Plain http reaches only the allowed networks, so each scheme has connections of its own.
        self._sessions = {scheme: self._session(public=scheme == "https") for scheme in ("http", "https")}
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for session in self._sessions.values():
            await session.close()

    def _session(self, *, public: bool) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            resolver=CheckedResolver(self._allow, public=public),
            use_dns_cache=False,
            ssl=self._ssl_context,
            limit=0,  # the sender has its own
            keepalive_timeout=KEEP_ALIVE_SECONDS,
        )
        return aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent"),
        )

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Send `body` once, within `timeout_seconds` from look-up to the end; what goes wrong stands in the answer."""
        status: int | None = None
        retry_after: str | None = None
        abort = False
        kept = bytearray()
        error: str | None = None
        try:
            target = parse_url(url)
            async with (
                asyncio.timeout(self._timeout_seconds),
                self._sessions[target.scheme].post(
                    await self._checked_url(target), data=body, headers={"Host": target.authority, **headers},
                    allow_redirects=False,
                ) as response,
            ):  # fmt: skip
                status, retry_after = response.status, response.headers.get("Retry-After")
                abort = _asks_to_abort(response)
                await _read_start(response, kept)
        except AddressRefused as refusal:
            return Answer(error=f"refused: {refusal}", reason="refused")
        except aiohttp.ConnectionTimeoutError as failure:
            error = _describe(failure)
        except TimeoutError:
            missing = "answer" if status is None else "end of the answer"
            error = f"no {missing} within {self._timeout_seconds:g} s"
        except (aiohttp.ClientError, OSError) as failure:
            if _errno(failure) in _OUR_OWN:
                return Answer(error="could not be sent: this worker has too many open files", reason="unready")
            error = _describe(failure)
        return Answer(status, retry_after, None if status is None else kept.decode(errors="replace"), error, abort)

    async def _checked_url(self, target: Target) -> URL:
        """The URL to connect to. A name is looked up and checked by the resolver, an address here."""
        host = target.host
        if target.is_address:
            (address,) = await resolve(host, target.port, self._allow, public=target.scheme == "https")
            host = str(address)
        host = f"[{host}]" if ":" in host else host
        return URL(f"{target.scheme}://{host}:{target.port}{target.path}", encoded=True)


class CheckedResolver(AbstractResolver):
    """Names to the very addresses that `shared.addresses.resolve` found good; TLS still verifies the name."""

    def __init__(self, allow: Sequence[Network], *, public: bool) -> None:
        self._allow = allow
        self._public = public

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The addresses to connect to, in order. Raises what `shared.addresses.resolve` raises."""
        addresses = await resolve(host, port, self._allow, public=self._public)
        return [
            ResolveResult(
                hostname=host, host=str(address), port=port, proto=socket.IPPROTO_TCP, flags=socket.AI_NUMERICHOST,
                family=socket.AF_INET if address.version == 4 else socket.AF_INET6,
            )
            for address in addresses[:MAX_ADDRESSES]
        ]  # fmt: skip

    async def close(self) -> None:
        """Nothing is held."""


async def _read_start(response: aiohttp.ClientResponse, kept: bytearray) -> None:
    read = 0
    while read <= BODY_READ_BYTES and (chunk := await response.content.readany()):
        kept += chunk[: BODY_KEPT_BYTES - len(kept)]
        read += len(chunk)


def _asks_to_abort(response: aiohttp.ClientResponse) -> bool:
    tokens = (token for value in response.headers.getall("webhook-delivery", ()) for token in value.split(","))
    return any(token.strip().lower() == "abort-message" for token in tokens)


def _trusting_system_and_certifi() -> ssl.SSLContext:
    context = ssl.create_default_context()  # honours SSL_CERT_FILE, for a private authority
    context.load_verify_locations(certifi.where())
    return context


def _errno(error: BaseException) -> int | None:
    """The number of the innermost reason, where it is the system's."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error.errno if isinstance(error, OSError) else None


def _describe(error: BaseException) -> str:
    """The innermost reason, as a person would put it. aiohttp's own words may repeat the URL, which may be a secret."""
    if isinstance(error, aiohttp.ClientResponseError):
        return "the answer is not HTTP, or its head is too long"
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "the receiver disconnected without an answer"
    if isinstance(error, aiohttp.ClientPayloadError):
        return "the answer broke off"
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return f"no connection within {CONNECT_SECONDS:g} s"
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, socket.gaierror):
        return f"the host name does not resolve: {error.strerror}"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate was refused: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {error.reason or type(error).__name__}"
    if isinstance(error, OSError) and error.errno:
        return f"the connection failed: {os.strerror(error.errno)}"  # asyncio puts addresses into error.strerror
    return f"the connection failed: {type(error).__name__}"
