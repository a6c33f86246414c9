"""A script has all that it needs of what the transitions share, and no more."""

from __future__ import annotations

import re

import pytest

from shared.store import scripts
from shared.store.keys import KEYS
from shared.store.scripts.assembly import SHARED, assemble, read_part, words_of

KNOWN = [script for script in vars(scripts).values() if isinstance(script, scripts.Script)]
LUA = frozenset(
    re.findall(
        r"\w+",
        "and break do else elseif end false for function if in local nil not or repeat return then true until while "
        "ARGV redis math string table tonumber tostring type unpack pairs ipairs next pcall",
    )
)
_LOCAL = re.compile(r"\blocal ([\w, ]+?) *(?:=|''|\n|$)|\bfor ([\w, ]+?) (?:=|in\b)|\bfunction *(\w*)\(([\w, .]*)\)")
_FIELD = re.compile(r"[{,]\s*(\w+) = ")


def without_strings(text: str) -> str:
    return re.sub(r"--[^\n]*|'(?:\\.|[^'\\\n])*'|\"(?:\\.|[^\"\\\n])*\"", "''", text)


def names_given(text: str) -> set[str]:
    given = [name for match in _LOCAL.findall(without_strings(text)) for group in match for name in group.split(",")]
    return {name.strip() for name in given}


@pytest.mark.parametrize("script", KNOWN, ids=lambda script: script.name)
def test_a_script_uses_no_name_that_it_does_not_define(script: scripts.Script) -> None:
    """Lua itself would say so only when it gets there."""
    fields = set(_FIELD.findall(without_strings(script.text)))
    assert words_of(script.text) - names_given(script.text) - LUA - fields == set()


@pytest.mark.parametrize("script", KNOWN, ids=lambda script: script.name)
def test_it_has_no_shared_definition_that_it_does_not_use(script: scripts.Script) -> None:
    text = without_strings(script.text).partition("local function transition(ARGV)")[0]
    for name in re.findall(r"^local (?:function )?(\w+)", text, re.MULTILINE):
        assert len(re.findall(rf"\b{name}\b", without_strings(script.text))) > 1, name


def test_a_definition_comes_with_what_it_needs_itself() -> None:
    def source(part: str) -> str:
        return {"ends": "local a = 1\nlocal function b() return a end\nlocal function c() return b() end\n"}.get(
            part, ""
        )

    def text_of(body: str) -> str:
        return assemble("body", lambda part: body if part == "body" else source(part))

    assert text_of("return c()\n").startswith("local a = 1\nlocal function b() return a end\nlocal function c()")
    assert text_of("return a\n").startswith("local a = 1\nlocal function transition")
    assert text_of("return x.b, 'c' -- a\n").startswith("local function transition")
    assert text_of("return '' ..b()\n").startswith("local a = 1\nlocal function b()")


def test_what_is_shared_is_local() -> None:
    with pytest.raises(ValueError, match=r"prelude\.lua: what is shared is local: function a"):
        assemble("body", lambda part: "function a() end\n" if part == "prelude" else "")


def test_a_key_that_is_not_in_the_table_is_an_error_at_once() -> None:
    with pytest.raises(KeyError, match="nothing"):
        assemble("body", lambda part: "return KEY.nothing\n" if part == "body" else "")


def test_keys_stand_in_a_script_by_their_names() -> None:
    for script in KNOWN:
        assert "KEY." not in without_strings(script.text)
    assert f"'{KEYS['running']}' .. ref" in scripts.APPEND.text
    assert "KEY.running" in "".join(read_part(part) for part in SHARED)
