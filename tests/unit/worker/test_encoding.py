"""Whatever a graph's state holds comes out as JSON."""

from __future__ import annotations

import dataclasses
import math
from collections import deque, namedtuple
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any
from uuid import UUID

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage
from pydantic import BaseModel

from worker.encoding import to_json


def encoded(value: Any) -> Any:
    return orjson.loads(to_json(value))


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(json_values)
def test_any_json_value_survives(value: Any) -> None:
    assert encoded(value) == value


@given(json_values, st.integers())
def test_an_integer_beyond_64_bits_becomes_a_string_and_the_rest_survives(value: Any, number: int) -> None:
    wanted = number if -(2**63) <= number < 2**64 else str(number)
    assert encoded({"value": value, "number": number}) == {"value": value, "number": wanted}
    huge = 2**64 + abs(number)
    assert encoded([huge, -huge, value]) == [str(huge), str(-huge), value]


class Colour(Enum):
    RED = "red"


class Level(IntEnum):
    HIGH = 3


class Tag(StrEnum):
    A = "a"


@dataclasses.dataclass
class Point:
    x: int
    y: Any = None


class Model(BaseModel):
    name: str
    seen: datetime | None = None


Pair = namedtuple("Pair", "left right")

CASES = [
    (Point(1, {"a": Point(2)}), {"x": 1, "y": {"a": {"x": 2, "y": None}}}),
    (Model(name="n"), {"name": "n", "seen": None}),
    (datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "2026-01-02T03:04:05+00:00"),
    (date(2026, 1, 2), "2026-01-02"),
    (timedelta(seconds=90), "0:01:30"),
    (Decimal("1.10"), "1.10"),
    (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    (PurePosixPath("/a/b"), "/a/b"),
    ({"only"}, ["only"]),
    (frozenset({1}), [1]),
    ((1, (2, 3)), [1, [2, 3]]),
    (Pair(1, 2), [1, 2]),
    (deque([1, 2]), [1, 2]),
    (MappingProxyType({"a": 1}), {"a": 1}),
    (b"\x00\xff", "AP8="),
    (bytearray(b"a"), "YQ=="),
    (Colour.RED, "red"),
    (Level.HIGH, 3),
    (Tag.A, "a"),
    (math.nan, None),
    (math.inf, None),
    ({5: "a", None: "b", True: "c", (1, 2): "d"}, {"5": "a", "null": "b", "true": "c", "(1, 2)": "d"}),
    ("lone \ud800 surrogate", "lone ? surrogate"),
    ({"\ud800": ["\ud800"]}, {"?": ["?"]}),
    (ValueError("no"), "no"),
]


@pytest.mark.parametrize(("value", "wanted"), CASES, ids=lambda case: type(case).__name__)
def test_what_python_has_and_json_has_not_comes_out_sensibly(value: Any, wanted: Any) -> None:
    assert encoded(value) == wanted


@pytest.mark.parametrize(("value", "wanted"), CASES, ids=lambda case: type(case).__name__)
def test_it_comes_out_the_same_beside_a_large_integer(value: Any, wanted: Any) -> None:
    # orjson gives up on the whole of it then, and it is encoded the slow way.
    assert encoded([value, 2**70]) == [wanted, str(2**70)]


def test_messages_come_out_without_empty_fields_and_with_the_nulls_of_their_content() -> None:
    message = AIMessage("", tool_calls=[{"name": "f", "args": {"q": None}, "id": None}], id="m1")
    (out,) = encoded([message])
    assert (out["type"], out["content"], out["id"]) == ("ai", "", "m1")
    assert out["tool_calls"] == [{"name": "f", "args": {"q": None}, "id": None, "type": "tool_call"}]
    assert "name" not in out
    assert encoded(HumanMessage("hi"))["type"] == "human"


class Hostile:
    def __str__(self) -> str:
        raise RuntimeError("not me")


class Unset:
    """A dataclass whose field was never set."""

    __slots__ = ("x",)


def recursive_structures() -> list[Any]:
    many: list[Any] = []
    many += [many, many, many]
    mapping: dict[str, Any] = {}
    mapping["self"] = mapping
    point = Point(1)
    point.y = point
    deep: list[Any] = []
    for _ in range(400):
        deep = [deep]
    return [many, mapping, point, deep]


@pytest.mark.parametrize("value", recursive_structures(), ids=["list", "dict", "dataclass", "deep"])
def test_recursive_and_very_deep_structures_never_raise(value: Any) -> None:
    orjson.loads(to_json({"value": value, "beside": 1}))


@pytest.mark.parametrize(
    "value",
    [
        Hostile(),
        [Hostile(), 2**70],
        {Hostile(): 1},
        dataclasses.dataclass(Unset)(),
        object(),
        type,
        lambda: None,
        iter([]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_encoded_stands_as_text_and_never_raises(value: Any) -> None:
    orjson.loads(to_json(value))
    assert encoded({"beside": 1, "value": value})["beside"] == 1


anything = st.recursive(
    st.none()
    | st.integers()
    | st.floats()
    | st.text(st.characters())
    | st.text(st.characters(categories=["Cs"]))
    | st.binary()
    | st.datetimes()
    | st.decimals()
    | st.complex_numbers()
    | st.sampled_from([Colour.RED, Level.HIGH, HumanMessage("hi"), Model(name="n"), Hostile()]),
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text() | st.integers() | st.none() | st.tuples(st.integers()), inner)
        | inner.map(lambda value: Point(1, value))
    ),
)


@given(anything)
def test_nothing_raises(value: Any) -> None:
    orjson.loads(to_json(value))
