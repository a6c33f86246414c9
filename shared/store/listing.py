"""Lists of jobs by the time they were created, page by page.

Each job stands in exactly one index (tenant, graph, status), so a list is the merge of those that match; within a
thread its own index is read and filtered, and errors are looked for in the records.
"""

from __future__ import annotations

import heapq
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from redis.asyncio import Redis

from shared.records import error_code
from shared.store.errors import store_errors
from shared.store.job_values import StoredJob
from shared.store.keys import digest, key, ref

Position = tuple[int, str]
STATUSES = ("queued", "running", "interrupted", "succeeded", "failed", "cancelled")
# Where few of many jobs match, no call looks at more than about so many: its page is short, and has a cursor.
MAX_EXAMINED = 2000
STRIDE = 500


class BadCursor(ValueError):
    """The cursor is not one that a list gave."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which jobs of a tenant: empty means all. Both times are exclusive."""

    statuses: Sequence[str] = ()
    graphs: Sequence[str] = ()
    error_codes: Sequence[str] = ()
    thread_id: str | None = None
    created_after_ms: int | None = None
    created_before_ms: int | None = None

    def matches(self, record: Mapping[bytes, bytes]) -> bool:
        """Whether a job's record is one of those, but for its thread and time, which the indexes know."""
        return (
            record.keys() >= {b"status", b"graph"}
            and (not self.statuses or record[b"status"].decode() in self.statuses)
            and (not self.graphs or record[b"graph"].decode() in self.graphs)
            and (not self.error_codes or error_code(record) in self.error_codes)
        )


async def list_jobs(
    redis: Redis, tenant: str, wanted: Filter, *,
    limit: int, cursor: str | None = None, oldest_first: bool = False, fields: Sequence[bytes] = (),
) -> tuple[list[StoredJob], str | None]:  # fmt: skip
    """Up to `limit` jobs without their outputs, and the cursor of the next page or None. Raises `BadCursor`.

    Only a page without a cursor is the last: one where few jobs match may be short, or empty. With `fields` the
    records have no others; a filter by error needs `error`, and any list `status` and `graph`.
    """
    start = _read_cursor(cursor) if cursor else None
    found: list[tuple[Position, StoredJob]] = []
    examined, stride = 0, limit + 1
    with store_errors():
        while len(found) <= limit and examined < MAX_EXAMINED:
            positions = await _positions(redis, tenant, wanted, start, stride, oldest_first)
            if not positions:
                start = None
                break
            found += await _load(redis, tenant, wanted, positions, fields)
            start = positions[-1]
            examined += len(positions)
            stride = max(stride, STRIDE)
    if len(found) > limit:
        start = found[limit - 1][0]
    return [job for _, job in found[:limit]], _write_cursor(start) if start else None


async def _positions(
    redis: Redis, tenant: str, wanted: Filter, start: Position | None, limit: int, oldest_first: bool
) -> list[Position]:
    """The next positions in the matching indexes, in order; of one time the smaller id is the older."""
    if wanted.thread_id is not None:
        indexes = [key("index_thread", tenant, digest(wanted.thread_id))]
    else:
        graphs = wanted.graphs or [name.decode() for name in await redis.smembers(key("graphs", tenant))]  # type: ignore[misc]
        indexes = [key("index", tenant, graph, status) for graph in graphs for status in wanted.statuses or STATUSES]
    lowest = -1 if wanted.created_after_ms is None else wanted.created_after_ms
    highest = 2**53 if wanted.created_before_ms is None else wanted.created_before_ms
    low, high = lowest, highest
    if start is not None:
        low, high = (max(low, start[0]), high) if oldest_first else (low, min(high, start[0]))
    pipeline = redis.pipeline(transaction=True)  # of one moment: a job that moves between two indexes is in one of them
    for index in indexes:
        if oldest_first:
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
        return start is None or (at > start if oldest_first else at < start)

    return (heapq.nsmallest if oldest_first else heapq.nlargest)(limit, filter(is_ahead, found))


async def _load(
    redis: Redis, tenant: str, wanted: Filter, positions: list[Position], fields: Sequence[bytes]
) -> list[tuple[Position, StoredJob]]:
    pipeline = redis.pipeline(transaction=False)
    for _, job_id in positions:
        name = key("job", ref(tenant, job_id))
        if fields:
            pipeline.hmget(name, list(fields))
        else:
            pipeline.hgetall(name)
    answers = await pipeline.execute(raise_on_error=False)
    found = []
    for position, answer in zip(positions, answers, strict=True):
        record = answer
        if isinstance(answer, list):
            record = {name: value for name, value in zip(fields, answer, strict=True) if value is not None}
        # A job may have moved on, or gone, since its index was read; one that cannot be read spoils no list.
        if isinstance(record, dict) and wanted.matches(record):
            found.append((position, StoredJob(position[1], record, None)))
    return found


def _write_cursor(position: Position) -> str:
    return urlsafe_b64encode(f"{position[0]}:{position[1]}".encode()).decode().rstrip("=")


def _read_cursor(cursor: str) -> Position:
    try:
        created, _, job_id = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode().partition(":")
        position = int(created), job_id
    except ValueError as error:
        raise BadCursor(cursor) from error
    if not 0 <= position[0] < 2**53 or not job_id or _write_cursor(position) != cursor:
        raise BadCursor(cursor)
    return position
