"""What is wrong with the head of a request that the parser lets through, and proxies may understand otherwise."""

from __future__ import annotations

import re
from collections.abc import Sequence

HOST = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]*)(?::[0-9]{0,5})?")
"""A Host header (RFC 9110, 7.2)."""
_NAMED_HOST = re.compile(rb"https?://([^/?#]*)", re.IGNORECASE)


def malformed(version: str, url: bytes, headers: Sequence[tuple[bytes, bytes]]) -> str:
    """Why this is no valid request of HTTP/1.0 or 1.1; empty where it is one. Header names are in lower case."""
    host: bytes | None = None
    for name, value in headers:
        if name == b"host":
            if host is not None:
                return "it has two Host headers"
            host = value
        elif name == b"transfer-encoding" and value.strip().lower() != b"chunked":
            return "chunked is the only Transfer-Encoding there is here"
    if version not in ("1.1", "1.0"):
        return "its version is neither HTTP/1.1 nor HTTP/1.0"
    if host is None:
        if version == "1.1":
            return "it has no Host header"
    elif not HOST.fullmatch(host):
        return "its Host header is no host name"
    named = None if url.startswith(b"/") else named_host(url)
    if named is not None and not (named and HOST.fullmatch(named)):
        return "its address has no host name, or more than that"
    return ""


def named_host(url: bytes) -> bytes | None:
    """The host name and port of an address that is a whole URL (`GET http://host/path`)."""
    match = None if url.startswith(b"/") else _NAMED_HOST.match(url)
    return match[1] if match else None
