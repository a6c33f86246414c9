"""How a webhook's URL is read: one way, or not at all."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.addresses import AddressRefused, check_url, parse_url
from shared.settings import Network

LOOPBACK: list[Network] = [ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128")]


@pytest.mark.parametrize(
    "url",
    [
        "",
        "hook",
        "/hook",
        "//example.com/hook",
        "https:/example.com",
        "https:example.com",
        "https://",
        "https:///hook",
        "ftp://example.com/",
        "file:///etc/passwd",
        "gopher://example.com/",
        "javascript:alert(1)",
        "https://user@example.com/",
        "https://user:password@example.com/",
        "https://@example.com/",
        "https://example.com@127.0.0.1/",
        "https://example.com\\@127.0.0.1/",
        "https://127.0.0.1\\.example.com/",
        "https://example.com:0/",
        "https://example.com:65536/",
        "https://example.com:99999999999/",
        "https://example.com:-1/",
        "https://example.com:+443/",
        "https://example.com:/",
        "https://example.com:٤٤٣/",
        "https://example.com:80:443/",
        "https://exa mple.com/",
        "https://example.com/a b",
        "https://example.com/a\\b",
        "https://example.com/a\tb",
        "https://example.com/a\r\nHost: evil",
        "https://example.com/\x00",
        " https://example.com/",
        "https://bücher.example/",
        "https://example.com/ü",
        "https://.example.com/",
        "https://example..com/",
        "https://" + "a" * 64 + ".com/",
        "https://" + "a." * 127 + "com/",
        "https://[::1/",
        "https://::1/",
        "https://[]/",
        "https://example.com,evil.com/",
        "https://*.example.com/",
        "https://example.com/" + "a" * 2048,
    ],
)
def test_what_is_no_plain_url_is_refused_with_a_sentence(url: str) -> None:
    with pytest.raises(AddressRefused) as refused:
        check_url(url, LOOPBACK)
    assert len(str(refused.value)) > 15


def test_a_user_name_in_the_url_is_refused_in_words() -> None:
    with pytest.raises(AddressRefused, match="no user name and no password"):
        check_url("https://user:password@example.com/", [])


@given(st.text() | st.text().map(lambda rest: "https://" + rest) | st.text().map(lambda rest: "https://[" + rest))
def test_any_text_is_taken_or_refused(url: str) -> None:
    try:
        check_url(url, [])
    except AddressRefused:
        return
    assert url.lower().startswith("https://")
    assert url.isascii()


def test_a_url_is_taken_apart_once_and_for_all() -> None:
    target = parse_url("HTTPS://Hooks.Example.COM.:8443/a/b?c=d&e#fragment")
    assert (target.scheme, target.host, target.port, target.path) == ("https", "hooks.example.com", 8443, "/a/b?c=d&e")
    assert target.authority == "hooks.example.com:8443"


@pytest.mark.parametrize(
    ("url", "port", "authority"),
    [
        ("https://example.com", 443, "example.com"),
        ("http://example.com/", 80, "example.com"),
        ("https://example.com:443/", 443, "example.com"),
        ("http://example.com:443/", 443, "example.com:443"),
        ("https://[2606:4700:0::1111]/", 443, "[2606:4700::1111]"),
        ("https://[2606:4700::1111]:444/", 444, "[2606:4700::1111]:444"),
        ("https://my_host/", 443, "my_host"),
        ("https://xn--bcher-kva.example/", 443, "xn--bcher-kva.example"),
    ],
)
def test_the_host_header_names_a_port_only_where_it_is_not_the_usual_one(url: str, port: int, authority: str) -> None:
    target = parse_url(url)
    assert (target.port, target.authority, target.path) == (port, authority, "/")


def test_all_spellings_of_one_server_have_one_origin() -> None:
    urls = ("https://example.com/a?b", "HTTPS://Example.COM.:443/other", "https://example.com:0443")
    assert {parse_url(url).origin for url in urls} == {"https://example.com:443"}
    others = ("http://example.com/", "https://example.com:8443/", "https://api.example.com/", "http://example.com:443")
    assert len({parse_url(url).origin for url in (*others, urls[0])}) == 5
    assert parse_url("http://[2606:4700:0::1111]/").origin == "http://[2606:4700::1111]:80"
