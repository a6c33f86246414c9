"""Puts the text of a script together: what it needs of what the transitions share, its own text, and the keys' names.

A run makes each function of its script anew, so a script has only the shared definitions that its text reaches by name,
through others too: found by looking, so that none can be left out. A key's name stands in the text as a literal.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from shared.store.keys import KEYS

SHARED = ("prelude", "tenants", "depth", "deliveries", "ends")
_DEFINITION = re.compile(r"local (?:function (\w+)|([\w, ]+?) *(?:=|$))")
_CONTINUES = re.compile(r"\s|--|end$|\}|$")
_TOKEN = re.compile(r"--[^\n]*|'(?:\\.|[^'\\\n])*'|\"(?:\\.|[^\"\\\n])*\"|(?<![^.]\.)\b[A-Za-z_]\w*")
_KEY = re.compile(r"\bKEY\.(\w+)")
_FOLDER = Path(__file__).parent
Source = Callable[[str], str]


@dataclass(frozen=True)
class _Definition:
    """Something shared: the names that it gives, and the names in its text."""

    names: frozenset[str]
    words: frozenset[str]
    text: str


@cache
def read_part(name: str) -> str:
    """The text of a file of this folder, by its name without `.lua`."""
    return (_FOLDER / f"{name}.lua").read_text("utf-8")


def assemble(name: str, source: Source = read_part) -> str:
    """The text of the transition `name`, to be run alone or many times in one call (calls.lua)."""
    body, calls = source(name), source("calls")
    needed, reached = [], words_of(body) | words_of(calls)
    for definition in reversed([one for part in SHARED for one in _definitions(part, source(part))]):
        if definition.names & reached:  # one reaches only what stands before it
            needed.append(definition.text)
            reached |= definition.words
    text = "\n".join((*reversed(needed), f"local function transition(ARGV)\n{body}end", calls))
    return _KEY.sub(lambda match: f"'{KEYS[match[1]]}'", text)


@cache
def words_of(text: str) -> frozenset[str]:
    """The names in a Lua text, but those of fields, in strings and in comments."""
    return frozenset(word for word in _TOKEN.findall(text) if word[0] not in "-'\"")


@cache
def _definitions(part: str, text: str) -> list[_Definition]:
    """The definitions of a shared file: each begins with `local` at the margin."""
    blocks: list[list[str]] = []
    for line in text.splitlines():
        if line.startswith("local "):
            blocks.append([])
        elif not _CONTINUES.match(line):
            raise ValueError(f"{part}.lua: what is shared is local: {line}")
        if blocks and not line.startswith("--"):
            blocks[-1].append(line)
    return [_definition(part, "\n".join(block).rstrip()) for block in blocks]


def _definition(part: str, text: str) -> _Definition:
    match = _DEFINITION.match(text)
    if not match:
        raise ValueError(f"{part}.lua: not a definition: {text}")
    names = frozenset(re.findall(r"\w+", match[1] or match[2]))
    return _Definition(names, words_of(text), text)
