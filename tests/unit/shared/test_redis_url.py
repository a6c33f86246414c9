"""What REDIS_URL may be: a server, or sentinels and the name of the master that they watch."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.redis_url import (
    SentinelAddress,
    check_redis_url,
    is_sentinel_url,
    parse_sentinel_url,
    redis_place,
    shown_address,
)


@pytest.mark.parametrize(
    ("url", "meant"),
    [
        ("redis+sentinel://a/jobs", SentinelAddress((("a", 26379),), "jobs")),
        ("redis+sentinel://a:1,b:2,c/jobs/3", SentinelAddress((("a", 1), ("b", 2), ("c", 26379)), "jobs", 3)),
        (
            "redis+sentinel://user:p%40ss@a/jobs",
            SentinelAddress((("a", 26379),), "jobs", login={"username": "user", "password": "p@ss"}),
        ),
        (
            "redis+sentinel://:p:w@a/jobs?sentinel_user=s&sentinel_password=t%26u",
            SentinelAddress(
                (("a", 26379),),
                "jobs",
                login={"password": "p:w"},
                sentinel_login={"username": "s", "password": "t&u"},
            ),
        ),
        ("rediss+sentinel://a/jobs/", SentinelAddress((("a", 26379),), "jobs", tls={})),
        (
            "rediss+sentinel://a/jobs?ssl_ca_certs=/ca.pem&ssl_check_hostname=true",
            SentinelAddress((("a", 26379),), "jobs", tls={"ssl_ca_certs": "/ca.pem", "ssl_check_hostname": True}),
        ),
        ("redis+sentinel://[::1]:1/jobs", SentinelAddress((("::1", 1),), "jobs")),
    ],
)
def test_a_sentinel_url_is_read_as_it_is_meant(url: str, meant: SentinelAddress) -> None:
    check_redis_url(url)
    assert is_sentinel_url(url)
    assert parse_sentinel_url(url) == meant


@pytest.mark.parametrize(
    "rest",
    [
        "",
        "/jobs",
        "a:26379",
        "a:26379/",
        "a,/jobs",
        "a:port/jobs",
        "a:70000/jobs",
        "a/jobs/first",
        "a/jobs/-1",
        "a/jobs/0/1",
        "a/jobs?password=q-secret",
        "a/jobs?ssl_ca_certs=/ca.pem",
        "a/jobs?sentinel_password",
        "a/jobs?db=1",
    ],
)
def test_a_wrong_form_is_refused_and_no_password_is_told(rest: str) -> None:
    with pytest.raises(ValueError, match=r"\w") as error:
        check_redis_url(f"redis+sentinel://user:q-secret@{rest}")
    assert "q-secret" not in str(error.value)
    assert "sentinel" in str(error.value)


@given(st.text(max_size=40))
def test_whatever_stands_there_it_is_read_or_refused(rest: str) -> None:
    try:
        check_redis_url(f"redis+sentinel://{rest}")
    except ValueError as error:
        assert str(error).startswith(("it has the form", "the name of", "the options"))  # noqa: PT017


def test_what_is_shown_of_an_address_has_no_password() -> None:
    assert shown_address("redis+sentinel://u:q@a:1,b/jobs?sentinel_password=r") == "the master jobs of a:1, b:26379"
    assert shown_address("redis://u:q@a") == "a:6379"
    assert shown_address("unix:///run/redis.sock") == "/run/redis.sock"


def test_passwords_are_not_in_what_a_log_would_have_of_an_address() -> None:
    known = parse_sentinel_url("redis+sentinel://u:q-secret@a/jobs?sentinel_password=r-secret")
    assert "secret" not in repr(known)


@pytest.mark.parametrize(
    ("url", "meant"),
    [
        ("redis://a", (0, "")),
        ("redis://user:pass@a:6379/3", (3, "")),
        ("rediss://a?db=4", (4, "")),
        ("unix:///run/a%20b/redis.sock?db=2", (2, "/run/a b/redis.sock")),
        ("unix://:p%40ss@/run/redis.sock", (0, "/run/redis.sock")),
        ("redis+sentinel://a/jobs/5", (5, "")),
    ],
)
def test_the_place_of_the_data_is_known_from_each_form(url: str, meant: tuple[int, str]) -> None:
    assert redis_place(url) == meant
