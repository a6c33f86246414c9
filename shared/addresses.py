"""May a webhook go there? Nobody may use this service to reach what only this service can reach (OWASP: SSRF).

A name can resolve to one address now and to another later. So a URL is checked twice: `check_url` refuses at submit
what can never be right, and `resolve` gives, at each connect, the addresses that were found good: connect to those.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from urllib.parse import urlsplit

from shared.settings import Network

Address = IPv4Address | IPv6Address

MAX_URL_LENGTH = 2048
DEFAULT_PORTS = {"http": 80, "https": 443}

_PRINTABLE_ASCII = re.compile(r"[\x21-\x7e]+")
_AUTHORITY = re.compile(r"(?:\[(?P<ipv6>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9._-]+))(?::(?P<port>[0-9]{1,5}))?")
_LABEL = re.compile(r"[A-Za-z0-9_-]{1,63}")
# A host whose last label is a number is an IPv4 address to browsers and the C library (WHATWG URL, "ends in a number").
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")

_GLOBAL_UNICAST = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")
# Not for everyone either, though `is_global` says so, always or in older Pythons.
_SPECIAL: tuple[Network, ...] = (
    IPv4Network("192.0.0.0/24"),  # IETF protocol assignments, a cloud's metadata among them
    IPv4Network("192.88.99.0/24"),  # 6to4 relays, retired by RFC 7526
    IPv6Network("2002::/16"),  # 6to4: carries any IPv4 address
    IPv6Network("3fff::/20"),  # documentation, RFC 9637
)


class AddressRefused(ValueError):
    """A webhook may not go there; the message is a sentence for whoever gave the URL."""


@dataclass(frozen=True, slots=True)
class Target:
    """A receiver's URL in its parts: `http` or `https`, a lower-case name or bare address, port, path and query."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """Host and port as the `Host` header has them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def is_address(self) -> bool:
        """Whether the host is an address, and no name."""
        return _literal(self.host) is not None

    @property
    def origin(self) -> str:
        """Scheme, host and port, which name the server that is asked."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def parse_url(url: str) -> Target:
    """Take a receiver's URL apart. Raises `AddressRefused` for all that clients disagree on how to read."""
    if len(url) > MAX_URL_LENGTH:
        raise AddressRefused(f"a webhook URL has at most {MAX_URL_LENGTH} characters")
    if not _PRINTABLE_ASCII.fullmatch(url) or "\\" in url:
        raise AddressRefused("a webhook URL is plain ASCII: percent-encode its path, write its host name in punycode")
    try:
        parts = urlsplit(url)
    except ValueError:
        raise AddressRefused("this is not a URL") from None
    if parts.scheme not in DEFAULT_PORTS:
        raise AddressRefused("a webhook URL begins with https://")
    if "@" in parts.netloc:
        raise AddressRefused("a webhook URL holds no user name and no password")
    match = _AUTHORITY.fullmatch(parts.netloc)
    if match is None:
        raise AddressRefused("a webhook URL has a host name or an address, and at most a port from 1 to 65535")
    port = int(match["port"] or DEFAULT_PORTS[parts.scheme])
    if not 1 <= port <= 65535:
        raise AddressRefused("a webhook URL's port is from 1 to 65535")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(parts.scheme, _read_ipv6(match["ipv6"]) if match["ipv6"] else _read_name(match["name"]), port, path)


def check_url(url: str, allow: Sequence[Network]) -> None:
    """Refuse, without asking the DNS, a URL that no webhook could ever be sent to. Raises `AddressRefused`."""
    target = parse_url(url)
    address = _literal(target.host)
    if target.host == "localhost" or target.host.endswith(".localhost"):  # RFC 6761: loopback, whatever the DNS says
        address = IPv4Address("127.0.0.1")
    if address is not None:
        _check_address(target.host, address, allow, public=target.scheme == "https")
    elif target.scheme == "http" and not allow:
        raise AddressRefused("a webhook URL begins with https://, except to a network in WEBHOOK_ALLOW_NETWORKS")


async def resolve(host: str, port: int, allow: Sequence[Network], *, public: bool = True) -> list[Address]:
    """The addresses of `host`, each of them good to connect to; connect to one of these, not to the name.

    Good is what lies in `allow`, and with `public` also what the whole internet can reach. Raises `AddressRefused`
    where any of them is not good, and `socket.gaierror` where the name has none.
    """
    literal = _literal(host)
    if literal is not None:
        found = [literal]
    else:
        answers = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        found = list(dict.fromkeys(ip_address(answer[4][0]) for answer in answers))
    return [_check_address(host, address, allow, public=public) for address in found]


def _check_address(host: str, address: Address, allow: Sequence[Network], *, public: bool) -> Address:
    address = getattr(address, "ipv4_mapped", None) or address  # ::ffff:127.0.0.1 connects to 127.0.0.1
    if any(address in network for network in allow):
        return address
    # The message keeps the address to itself: it would tell clients what names mean inside the operator's network.
    if not _is_public(address):
        raise AddressRefused(f"{host} is not a public address, nor does it lie in WEBHOOK_ALLOW_NETWORKS")
    if not public:
        raise AddressRefused(f"a webhook to {host} needs https: http is only for WEBHOOK_ALLOW_NETWORKS")
    return address


def _is_public(address: Address) -> bool:
    if any(address in network for network in _SPECIAL):
        return False
    if isinstance(address, IPv4Address):
        return address.is_global and not address.is_multicast
    if address in _NAT64:
        return _is_public(IPv4Address(int(address) & 0xFFFFFFFF))
    return address in _GLOBAL_UNICAST and address.is_global


def _literal(host: str) -> Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def _read_ipv6(text: str) -> str:
    try:
        return str(IPv6Address(text))
    except ValueError:
        raise AddressRefused("a webhook URL has an IPv6 address in its brackets") from None


def _read_name(text: str) -> str:
    name = text.lower().removesuffix(".")
    labels = name.split(".")
    if _NUMBER.fullmatch(labels[-1]):
        try:
            return str(IPv4Address(name))
        except ValueError:
            raise AddressRefused("an IPv4 address in a webhook URL has four decimal numbers, as 203.0.113.7") from None
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise AddressRefused("a webhook URL has a host name of at most 253 characters, in labels of 1 to 63")
    return name
