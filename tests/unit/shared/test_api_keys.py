"""API keys: known by their looks, kept as hashes."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.api_keys import ApiKey, id_of, new_key, read_key

NOW = 1_700_000_000_000
SCANNED = re.compile(r"mas_[0-9a-z]{12}_[0-9A-Za-z]{38}")


def make(**options: int) -> tuple[str, ApiKey]:
    return new_key("acme", "ci", ["jobs:read"], now_ms=NOW, **options)


def test_a_key_is_what_scanners_look_for_and_names_its_id() -> None:
    for _ in range(200):
        text, kept = make()
        assert SCANNED.fullmatch(text)
        assert id_of(text) == kept.id
        assert kept.allows(text, NOW)


def test_no_two_keys_are_the_same() -> None:
    made = [make() for _ in range(200)]
    assert len({text for text, _ in made}) == len({kept.id for _, kept in made}) == 200


def test_nothing_that_is_kept_gives_the_key_away() -> None:
    text, kept = make()
    secret = text.rpartition("_")[2]
    assert secret.encode() not in kept.dump()
    assert read_key(kept.dump()) == kept


@pytest.mark.parametrize("place", range(4, 55))
def test_a_key_with_one_other_character_is_none(place: int) -> None:
    text, kept = make()
    other = "A" if text[place] != "A" else "B"
    wrong = text[:place] + other + text[place + 1 :]
    assert id_of(wrong) is None
    assert not kept.allows(wrong, NOW)


@given(st.text() | st.from_regex(SCANNED, fullmatch=True))
def test_whatever_is_sent_is_no_key(text: str) -> None:
    _, kept = make()
    assert id_of(text) is None
    assert not kept.allows(text, NOW)


def test_a_key_is_good_until_it_expires() -> None:
    text, kept = make(expires_at_ms=NOW + 1000)
    assert kept.allows(text, NOW + 999)
    assert not kept.allows(text, NOW + 1000)


@pytest.mark.parametrize("content", [b"", b"x", b"[]", b"{}", b'{"id": "a"}', b"null", b'{"scopes": 1}'])
def test_a_key_that_cannot_be_read_lets_nobody_in(content: bytes) -> None:
    assert read_key(content) is None


def test_a_scope_that_this_version_does_not_know_allows_nothing() -> None:
    _, kept = make()
    newer = kept.dump().replace(b'["jobs:read"]', b'["jobs:read","jobs:all"]')
    known = read_key(newer)
    assert known is not None
    assert known.scopes == ("jobs:read",)
