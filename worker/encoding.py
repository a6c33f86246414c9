"""Graph state as JSON: messages, models, dataclasses, sets and bytes come out sensibly, and nothing stops the job."""

from __future__ import annotations

import dataclasses
from base64 import b64encode
from collections import deque
from collections.abc import Mapping, Set
from typing import Any

import orjson
from langchain_core.messages import BaseMessage
from pydantic import BaseModel

_OPTIONS = orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY
_LARGEST, _SMALLEST = 2**64 - 1, -(2**63)
_DEEPEST = 200


def to_json(value: Any) -> bytes:
    """Any state as JSON: integers beyond 64 bits become strings, bytes base64, the unknown `str()`. Never raises."""
    try:
        return orjson.dumps(value, default=_encode, option=_OPTIONS)
    except (TypeError, ValueError, RecursionError):
        # orjson asks `default` neither for large integers nor for lone surrogates.
        return orjson.dumps(_plain(value, ()))


def readable(value: Any) -> str:
    """`str(value)` as text that JSON can hold, whatever its `__str__` does."""
    try:
        text = value if isinstance(value, str) else str(value)
        return text.encode("utf-8", "replace").decode()
    except Exception:
        return f"<{type(value).__name__}>"


def _encode(value: Any) -> Any:
    if isinstance(value, BaseMessage):
        return {name: part for name, part in value.model_dump(mode="python").items() if part is not None}
    if isinstance(value, BaseModel):
        return value.model_dump(mode="python")
    if isinstance(value, Set | deque | tuple):
        return list(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return b64encode(bytes(value)).decode()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, float):
        return float(value)
    return str(value)


def _plain(value: Any, within: tuple[int, ...]) -> Any:
    """The same with every part in the form that orjson takes. `within` holds the ids of what is around it."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return readable(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, int):
        return int(value) if _SMALLEST <= value <= _LARGEST else str(value)
    if id(value) in within or len(within) > _DEEPEST:
        return readable(value)
    within = (*within, id(value))
    try:
        if isinstance(value, Mapping):
            return {_key(key): _plain(item, within) for key, item in value.items()}
        if isinstance(value, list | tuple | Set | deque):
            return [_plain(item, within) for item in value]
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {part.name: _plain(getattr(value, part.name), within) for part in dataclasses.fields(value)}
        if isinstance(value, BaseModel):
            return _plain(_encode(value), within)
        return orjson.loads(orjson.dumps(value, default=_encode, option=_OPTIONS))
    except Exception:
        return readable(value)


def _key(key: Any) -> str:
    if key is None or isinstance(key, bool):
        return orjson.dumps(key).decode()
    return readable(key)
