"""Whose word is taken for where a request comes from: that of trusted proxies, and what they cannot have been told."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.proxies import REQUEST_ID, Forwarded
from tests.unit.gateway.conftest import MakeGateway, problem

TRUSTED = [ipaddress.ip_network(network) for network in ("10.0.0.0/8", "192.0.2.7/32", "fd00::/8")]
PROXY, STRANGER = "10.1.2.3", "198.51.100.9"
HEADERS = st.lists(
    st.tuples(
        st.sampled_from([b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-request-id", b"host"]),
        st.binary(max_size=40) | st.sampled_from([b"https", b"203.0.113.5", b"10.0.0.1", b"a.example", b"id-1", b""]),
    ),
    max_size=8,
)
addresses = st.ip_addresses().map(str)
outside = addresses.filter(lambda text: not _is_trusted(text))
proxies = st.sampled_from(
    ["10.0.0.1", "10.255.0.9", "192.0.2.7", "fd00::1", "[fd00::2]:443", "10.9.9.9:80", "::ffff:10.1.1.1"]
)


def _is_trusted(text: str) -> bool:
    ip: Any = ipaddress.ip_address(text)
    ip = getattr(ip, "ipv4_mapped", None) or ip
    return any(ip in network for network in TRUSTED)


async def believed(peer: str | None, *headers: tuple[bytes, bytes]) -> dict[str, Any]:
    """The scope that the application sees of a request from this peer."""
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)

    client = None if peer is None else (peer, 5000)
    scope = {"type": "http", "client": client, "scheme": "http", "headers": list(headers), "state": {}}
    await Forwarded(app, TRUSTED)(scope, None, None)  # type: ignore[arg-type]
    return dict(seen[0])


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "client"),
    [
        (PROXY, "203.0.113.5", "203.0.113.5"),
        (PROXY, "1.1.1.1, 203.0.113.5", "203.0.113.5"),
        (PROXY, "1.1.1.1, 203.0.113.5, 10.7.7.7,192.0.2.7", "203.0.113.5"),
        (PROXY, "203.0.113.5:61234", "203.0.113.5"),
        (PROXY, "[2001:db8::5]:61234", "2001:db8::5"),
        (PROXY, "2001:DB8:0::5", "2001:db8::5"),
        (PROXY, "::ffff:203.0.113.5", "203.0.113.5"),
        ("::ffff:10.1.2.3", "203.0.113.5", "203.0.113.5"),
        ("fd00::9", "203.0.113.5", "203.0.113.5"),
        (PROXY, "10.0.0.5, 10.0.0.6", "10.0.0.5"),
        (PROXY, "203.0.113.5, 10.0.0.6, unknown", PROXY),
        (PROXY, "203.0.113.5, garbage, 10.0.0.6", "10.0.0.6"),
        (PROXY, "203.0.113.5,", PROXY),
        (PROXY, "", PROXY),
        (PROXY, "fe80::1%eth0", PROXY),
        (PROXY, "300.1.1.1", PROXY),
        (PROXY, "203.0.113.5:99999999", PROXY),
        (STRANGER, "203.0.113.5", STRANGER),
        ("192.0.2.8", "10.0.0.1", "192.0.2.8"),
    ],
)
async def test_the_client_is_the_last_address_that_is_no_trusted_proxy(
    peer: str, forwarded_for: str, client: str
) -> None:
    scope = await believed(peer, (b"x-forwarded-for", forwarded_for.encode()))
    assert scope["client"][0] == client


async def test_several_headers_are_one_list() -> None:
    scope = await believed(PROXY, (b"x-forwarded-for", b"1.1.1.1"), (b"x-forwarded-for", b"203.0.113.5, 10.0.0.6"))
    assert scope["client"] == ("203.0.113.5", 0)


@given(st.lists(st.text(max_size=20), max_size=4), outside, st.lists(proxies, max_size=4))
async def test_what_a_client_writes_before_its_address_changes_nothing(
    invented: list[str], client: str, passed: list[str]
) -> None:
    text = ", ".join([*invented, client, *passed])
    expected: Any = ipaddress.ip_address(client)
    expected = str(getattr(expected, "ipv4_mapped", None) or expected)
    assert Forwarded(None, TRUSTED).client(PROXY, text) == expected  # type: ignore[arg-type]


@given(st.text(max_size=80))
async def test_whatever_is_forwarded_the_client_is_an_address(text: str) -> None:
    found = Forwarded(None, TRUSTED).client(PROXY, text)  # type: ignore[arg-type]
    assert str(ipaddress.ip_address(found)) == found


@given(outside | st.none() | st.just("a-unix-socket"), HEADERS)
async def test_nothing_of_anybody_else_is_believed(peer: str | None, headers: list[tuple[bytes, bytes]]) -> None:
    scope = await believed(peer, *headers)
    assert (scope["client"], scope["scheme"], scope["headers"], scope["state"]) == (
        None if peer is None else (peer, 5000), "http", headers, {},
    )  # fmt: skip


@given(HEADERS)
async def test_whatever_a_proxy_says_only_what_is_well_formed_is_taken(headers: list[tuple[bytes, bytes]]) -> None:
    scope = await believed(PROXY, *headers)
    ipaddress.ip_address(scope["client"][0])
    assert scope["scheme"] in ("http", "https")
    request_id = scope["state"].get(REQUEST_ID, "-")
    assert request_id.isascii()
    assert 1 <= len(request_id) <= 128
    assert not set(request_id) & set("\r\n\"'<>{}\\ ,;")
    taken = {value for name, value in scope["headers"] if name == b"host"}
    assert all(not set(value) & set(b"\r\n/@<> ,") for value in taken - {value for _, value in headers})


@pytest.mark.parametrize(
    ("name", "value", "taken"),
    [
        (b"x-forwarded-proto", b"https", "https"),
        (b"x-forwarded-proto", b"http, HTTPS", "https"),
        (b"x-forwarded-proto", b"https, http", "http"),
        (b"x-forwarded-proto", b"javascript", "http"),
    ],
)
async def test_the_scheme_is_the_last_proxy_s_word(name: bytes, value: bytes, taken: str) -> None:
    assert (await believed(PROXY, (name, value)))["scheme"] == taken


@pytest.mark.parametrize(
    ("said", "taken"),
    [
        (b"jobs.example.com:8443", b"jobs.example.com:8443"),
        (b"evil.test, jobs.example.com", b"jobs.example.com"),
        (b"user@jobs.example.com", b"inner"),
        (b"jobs.example.com/path", b"inner"),
        (b"", b"inner"),
    ],
)
async def test_the_host_name_is_the_last_proxy_s_word(said: bytes, taken: bytes) -> None:
    scope = await believed(PROXY, (b"host", b"inner"), (b"x-forwarded-host", said))
    assert [value for name, value in scope["headers"] if name == b"host"] == [taken]


async def test_a_request_id_is_taken_from_a_trusted_proxy_only_and_only_where_it_is_plain(
    make_gateway: MakeGateway,
) -> None:
    networks = [ipaddress.ip_network("127.0.0.0/8")]  # where the test's requests come from
    bad = [b"", b"two words", b"x" * 129, b"a\tb", b"\xff", b"<b>", b"a,b", b'"q"']
    async with make_gateway(trusted_proxies=networks) as gateway:
        for request_id in (b"a", b"Root=1-67891233-abcdef012345678912345678", b"x" * 128):
            answer = await gateway.http.get("/nowhere", headers=[(b"x-request-id", request_id)])
            assert answer.headers["x-request-id"].encode() == request_id
        for request_id in bad:
            answer = await gateway.http.get("/nowhere", headers=[(b"x-request-id", request_id)])
            assert len(answer.headers["x-request-id"]) == 32
            assert answer.headers["x-request-id"].encode() != request_id
        two = await gateway.http.get("/nowhere", headers=[(b"x-request-id", b"a"), (b"x-request-id", b"b")])
        assert len(two.headers.get_list("x-request-id")) == 1
        assert len(two.headers["x-request-id"]) == 32
    async with make_gateway(trusted_proxies=[ipaddress.ip_network("10.0.0.0/8")]) as gateway:
        assert (await gateway.http.get("/nowhere", headers={"x-request-id": "a"})).headers["x-request-id"] != "a"


async def test_wrong_keys_are_counted_by_the_client_s_address_behind_a_proxy(make_gateway: MakeGateway) -> None:
    networks = [ipaddress.ip_network("127.0.0.0/8")]
    async with make_gateway(auth_required=True, trusted_proxies=networks) as gateway:

        async def attempt(address: str) -> int:
            headers = {"x-api-key": "wrong", "x-forwarded-for": address}
            return (await gateway.http.get("/api/v1/jobs", headers=headers)).status_code

        for number in range(30):
            last = await attempt(f"1.1.1.{number}, 203.0.113.5")
        assert last == 429, "an invented address before his own helps nobody"
        assert await attempt("203.0.113.6") == 401


async def test_the_host_name_that_a_proxy_was_asked_for_is_the_one_that_is_checked(make_gateway: MakeGateway) -> None:
    options: dict[str, Any] = {"allowed_hosts": ["jobs.example.com"]}
    headers = {"host": "10.1.1.1:8000", "x-forwarded-host": "jobs.example.com"}
    async with make_gateway(trusted_proxies=[ipaddress.ip_network("127.0.0.0/8")], **options) as gateway:
        assert (await gateway.http.get("/api/v1/graphs", headers=headers)).status_code == 200
    async with make_gateway(**options) as gateway:
        problem(await gateway.http.get("/api/v1/graphs", headers=headers), 400, "host_not_allowed")
