"""Where a webhook may go: every form of every address that only this service could reach is refused."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.addresses import AddressRefused, check_url, resolve
from shared.settings import Network

LOOPBACK: list[Network] = [ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128")]
PRIVATE: list[Network] = [ipaddress.ip_network("10.0.0.0/8")]

NOT_PUBLIC = [
    "0.0.0.0",
    "10.0.0.5",
    "100.64.0.1",
    "100.100.100.200",
    "127.0.0.1",
    "127.255.255.254",
    "169.254.169.254",
    "172.16.0.1",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "203.0.113.7",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.5",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1",
    "100::1",
    "2001::1",
    "2001:db8::1",
    "2002:7f00:1::1",
    "2002:0808:0808::1",
    "3fff::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fec0::1",
    "ff02::1",
]
PUBLIC = ["1.1.1.1", "8.8.8.8", "93.184.215.14", "2606:4700:4700::1111", "64:ff9b::808:808", "::ffff:8.8.8.8"]


def in_url(address: str) -> str:
    return f"[{address}]" if ":" in address else address


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Let names resolve to the given addresses; gives the list of the names that were looked up."""

    def resolve_to(*addresses: str) -> list[str]:
        asked: list[str] = []

        def getaddrinfo(host: str, port: int, *_: object, **__: object) -> list[tuple[object, ...]]:
            asked.append(host)
            families = {4: socket.AF_INET, 6: socket.AF_INET6}
            return [
                (families[ipaddress.ip_address(address).version], socket.SOCK_STREAM, 6, "", (address, port))
                for address in addresses
            ]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        return asked

    return resolve_to


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_an_address_that_is_not_public_is_refused_at_submit(address: str, scheme: str) -> None:
    with pytest.raises(AddressRefused):
        check_url(f"{scheme}://{in_url(address)}:8443/hook", [])


@pytest.mark.parametrize("address", NOT_PUBLIC)
async def test_a_name_of_an_address_that_is_not_public_is_refused_at_connect(
    address: str, names: Callable[..., list[str]]
) -> None:
    names(address)
    with pytest.raises(AddressRefused, match=r"hooks\.example\.com") as refused:
        await resolve("hooks.example.com", 443, [])
    assert address not in str(refused.value), "the message must not tell what the operator's names mean"


@pytest.mark.parametrize("address", PUBLIC)
async def test_a_public_address_is_good(address: str, names: Callable[..., list[str]]) -> None:
    check_url(f"https://{in_url(address)}/hook", [])
    names(address)
    assert len(await resolve("hooks.example.com", 443, [])) == 1


async def test_one_bad_address_among_good_ones_refuses_the_name(names: Callable[..., list[str]]) -> None:
    names("93.184.215.14", "10.0.0.5")
    with pytest.raises(AddressRefused):
        await resolve("hooks.example.com", 443, [])


async def test_resolved_addresses_come_back_in_order_and_once(names: Callable[..., list[str]]) -> None:
    asked = names("2606:4700::1", "1.1.1.1", "1.1.1.1")
    found = await resolve("hooks.example.com", 443, [])
    assert found == [IPv6Address("2606:4700::1"), IPv4Address("1.1.1.1")]
    assert asked == ["hooks.example.com"]


async def test_an_address_in_the_url_is_not_looked_up(names: Callable[..., list[str]]) -> None:
    asked = names("10.0.0.1")
    assert await resolve("1.1.1.1", 443, []) == [IPv4Address("1.1.1.1")]
    assert asked == []


@pytest.mark.parametrize(
    "host",
    [
        "2130706433",  # 127.0.0.1 as one decimal
        "0x7f000001",
        "017700000001",
        "0177.0.0.1",
        "0x7f.0.0.1",
        "0x7f.1",
        "127.1",
        "127.0.1",
        "127.0.0.01",
        "127.0.0.1.",
        "0",
        "0x",
        "134744072",  # 8.8.8.8: an odd form is refused for a public address too
        "127.0.0.1.5",
        "256.1.1.1",
        "example.com.127",
        "[::ffff:7f00:1]",
        "[::FFFF:127.0.0.1]",
        "[0:0:0:0:0:ffff:127.0.0.1]",
        "[::1%25lo]",
        "[fe80::1%eth0]",
        "[127.0.0.1]",
        "[v1.a]",
        "[::1]evil.com",
        "localhost",
        "LocalHost.",
        "api.localhost",
        "127%2e0.0.1",
        "\uff11\uff12\uff17.0.0.1",
        "127。0。0。1",
        "①②⑦.0.0.1",
    ],
)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_no_spelling_of_a_loopback_address_is_taken(scheme: str, host: str) -> None:
    with pytest.raises(AddressRefused):
        check_url(f"{scheme}://{host}/hook", PRIVATE)


@given(st.ip_addresses(v=4))
def test_every_ipv4_address_is_judged_alike_however_ipv6_wraps_it(address: IPv4Address) -> None:
    def taken(text: str) -> bool:
        try:
            check_url(f"https://{in_url(text)}/", [])
        except AddressRefused:
            return False
        return True

    mapped = str(IPv6Address(f"::ffff:{address}"))
    translated = str(IPv6Address(f"64:ff9b::{address}"))
    assert taken(str(address)) == taken(mapped) == taken(translated)
    assert not (taken(str(address)) and (address.is_private or address.is_multicast or address.is_reserved))


def test_http_is_refused_where_no_network_is_allowed() -> None:
    for url in ("http://example.com/", "http://1.1.1.1/"):
        with pytest.raises(AddressRefused, match="https"):
            check_url(url, [])


def test_http_to_a_public_address_is_refused_whatever_is_allowed() -> None:
    with pytest.raises(AddressRefused, match="https"):
        check_url("http://1.1.1.1/", LOOPBACK)


async def test_http_to_a_name_is_decided_by_what_it_resolves_to(names: Callable[..., list[str]]) -> None:
    check_url("http://hooks.internal/", PRIVATE)
    names("10.1.2.3")
    assert await resolve("hooks.internal", 80, PRIVATE, public=False) == [IPv4Address("10.1.2.3")]
    names("10.1.2.3", "1.1.1.1")
    with pytest.raises(AddressRefused, match="https"):
        await resolve("hooks.internal", 80, PRIVATE, public=False)


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.8.8.8", "[::1]", "[::ffff:127.0.0.1]", "localhost", "localhost:9000"]
)
def test_loopback_is_taken_where_its_networks_are_allowed(scheme: str, host: str) -> None:
    check_url(f"{scheme}://{host}/hook", LOOPBACK)


@pytest.mark.parametrize(("address", "allow"), [("10.0.0.5", LOOPBACK), ("127.0.0.1", PRIVATE), ("::1", PRIVATE)])
async def test_an_allowed_network_opens_no_other(address: str, allow: Sequence[Network]) -> None:
    with pytest.raises(AddressRefused):
        check_url(f"https://{in_url(address)}/", allow)
    with pytest.raises(AddressRefused):
        await resolve(address, 443, allow)


async def test_a_name_without_an_address_is_a_resolver_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", nothing)
    with pytest.raises(socket.gaierror):
        await resolve("nowhere.example.com", 443, [])
