"""What proxies say of a request that they pass on. Only those of TRUSTED_PROXIES are believed.

uvicorn's own layer for this takes whatever text stands in `X-Forwarded-For` as the client's address, does not know IPv4
addresses written as IPv6, and reads neither `X-Forwarded-Host` nor `X-Request-Id`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from functools import lru_cache

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.request_head import HOST
from shared.settings import Network

REQUEST_ID = "request_id"  # in the state of a request: the one that it came with
MAX_ADDRESS = 64
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
_PORT = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+))(?::[0-9]{1,5})?")
_FORWARDED = (b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-request-id")


class Forwarded:
    """Puts the client's address, scheme and host name, and the id of the request, in place of the proxy's.

    Of several proxies each adds to the end of what it was sent, so the end is what can be believed: the client is the
    last address that is no trusted proxy, scheme and host name are the last ones. What is malformed is ignored.
    """

    def __init__(self, app: ASGIApp, trusted: Sequence[Network]) -> None:
        self.app = app
        self._trusted = tuple(trusted)
        self._trusts = lru_cache(4096)(self._look)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope.get("client") and self._trusts(scope["client"][0]):
            scope = self._believing(scope)
        await self.app(scope, receive, send)

    def client(self, peer: str, forwarded_for: str) -> str:
        """The address of the client behind this peer, which is trusted. `forwarded_for` is the header, all of it."""
        client = peer
        for text in reversed(forwarded_for.split(",")):
            address = _address(text.strip())
            if address is None:  # what stands before it may be anyone's invention
                return client
            client = address
            if not self._trusts(address):
                break
        return client

    def _believing(self, scope: Scope) -> Scope:
        said: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            if name in _FORWARDED:
                said.setdefault(name, []).append(value)
        if not said:
            return scope
        scope = {**scope, "state": scope.get("state", {})}
        if addresses := said.get(b"x-forwarded-for"):
            peer, port = scope["client"]
            client = self.client(peer, b",".join(addresses).decode("latin-1"))
            scope["client"] = (client, port if client == peer else 0)
        if (scheme := _last(said.get(b"x-forwarded-proto")).lower()) in (b"http", b"https"):
            scope["scheme"] = scheme.decode()
        host = _last(said.get(b"x-forwarded-host"))
        if host and HOST.fullmatch(host):
            scope["headers"] = [(b"host", host), *(header for header in scope["headers"] if header[0] != b"host")]
        request_ids = said.get(b"x-request-id", ())
        if len(request_ids) == 1 and _REQUEST_ID.fullmatch(request_ids[0]):
            scope["state"][REQUEST_ID] = request_ids[0].decode()
        return scope

    def _look(self, address: str) -> bool:
        known = _address(address)
        if known is None:
            return False
        ip = ipaddress.ip_address(known)
        return any(ip in network for network in self._trusted)


def _address(text: str) -> str | None:
    """An address as it is usually written, without its port; None where it is none."""
    if len(text) > MAX_ADDRESS or "%" in text:  # a zone is this machine's word, and may be any text
        return None
    match = _PORT.fullmatch(text)
    try:
        ip = ipaddress.ip_address((match[1] or match[2]) if match else text)
    except ValueError:
        return None
    return str(getattr(ip, "ipv4_mapped", None) or ip)


def _last(values: Sequence[bytes] | None) -> bytes:
    return values[-1].rpartition(b",")[2].strip() if values else b""
