"""Pages of what stands in sorted sets by time: a list is the merge of several indexes, read page by page.

A position is (time in ms, id); of one time the smaller id is the older. A cursor is the position that a page ended at.
"""

from __future__ import annotations

import heapq
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from redis.asyncio import Redis

from shared.store.errors import store_errors

Position = tuple[int, str]
Item = TypeVar("Item")
# Where few of many match, no call looks at more than about so many: its page is short, and has a cursor.
MAX_EXAMINED = 2000
STRIDE = 500


class BadCursor(ValueError):
    """The cursor is not one that a list gave."""


@dataclass(frozen=True, slots=True)
class Span:
    """Which part of the indexes is meant, and in which order. Both times are exclusive, in ms."""

    after_ms: int | None = None
    before_ms: int | None = None
    oldest_first: bool = False


async def read_page(
    redis: Redis, indexes: Sequence[str], span: Span,
    load: Callable[[list[Position]], Awaitable[list[tuple[Position, Item]]]], *,
    limit: int, cursor: str | None,
) -> tuple[list[Item], str | None]:  # fmt: skip
    """Up to `limit` items, and the cursor of the next page or None. Raises `BadCursor`.

    `load` gives those of some positions that match. Only a page without a cursor is the last: one where few match may
    be short, or empty.
    """
    start = _read_cursor(cursor) if cursor else None
    found: list[tuple[Position, Item]] = []
    examined, stride = 0, limit + 1
    with store_errors():
        while len(found) <= limit and examined < MAX_EXAMINED:
            positions = await _positions(redis, indexes, span, start, stride)
            if not positions:
                start = None
                break
            found += await load(positions)
            start = positions[-1]
            examined += len(positions)
            stride = max(stride, STRIDE)
    if len(found) > limit:
        start = found[limit - 1][0]
    return [item for _, item in found[:limit]], _write_cursor(start) if start else None


async def _positions(
    redis: Redis, indexes: Sequence[str], span: Span, start: Position | None, limit: int
) -> list[Position]:
    """The next positions, in order."""
    lowest = -1 if span.after_ms is None else span.after_ms
    highest = 2**53 if span.before_ms is None else span.before_ms
    low, high = lowest, highest
    if start is not None:
        low, high = (max(low, start[0]), high) if span.oldest_first else (low, min(high, start[0]))
    pipeline = redis.pipeline(transaction=True)  # of one moment: what moves between two indexes is in one of them
    for index in indexes:
        if span.oldest_first:
            pipeline.zrangebyscore(index, f"({low}", f"({high}", start=0, num=limit, withscores=True)
        else:
            pipeline.zrevrangebyscore(index, f"({high}", f"({low}", start=0, num=limit, withscores=True)
        if start is not None:
            pipeline.zrangebyscore(index, start[0], start[0], withscores=True)
    answers = await pipeline.execute() if indexes else []
    found = {(int(score), member.decode()) for answer in answers for member, score in answer}

    def is_ahead(at: Position) -> bool:
        if not lowest < at[0] < highest:
            return False
        return start is None or (at > start if span.oldest_first else at < start)

    return (heapq.nsmallest if span.oldest_first else heapq.nlargest)(limit, filter(is_ahead, found))


def _write_cursor(position: Position) -> str:
    return urlsafe_b64encode(f"{position[0]}:{position[1]}".encode()).decode().rstrip("=")


def _read_cursor(cursor: str) -> Position:
    try:
        at, _, name = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode().partition(":")
        position = int(at), name
    except ValueError as error:
        raise BadCursor(cursor) from error
    if not 0 <= position[0] < 2**53 or not name or _write_cursor(position) != cursor:
        raise BadCursor(cursor)
    return position
