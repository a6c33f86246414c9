"""Lists of jobs, newest first, page by page.

Each job stands in exactly one index (tenant, graph, status), so a list is the merge of those that match; within a
thread its own index is read and filtered.
"""

from __future__ import annotations

import heapq
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from dataclasses import dataclass

from redis.asyncio import Redis

from shared.store.errors import store_errors
from shared.store.jobs import StoredJob
from shared.store.keys import digest, key, ref

Position = tuple[int, str]
STATUSES = ("queued", "running", "interrupted", "succeeded", "failed", "cancelled")


class BadCursor(ValueError):
    """The cursor is not one that a list gave."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which jobs of a tenant: empty means all. `created_after_ms` is exclusive."""

    statuses: Sequence[str] = ()
    graphs: Sequence[str] = ()
    thread_id: str | None = None
    created_after_ms: int | None = None


async def list_jobs(
    redis: Redis, tenant: str, wanted: Filter, *, limit: int, cursor: str | None = None
) -> tuple[list[StoredJob], str | None]:
    """Up to `limit` jobs without their outputs, and the cursor of the next page or None. Raises `BadCursor`."""
    before = _read_cursor(cursor) if cursor else None
    found: list[tuple[Position, StoredJob]] = []
    with store_errors():
        while len(found) <= limit:
            positions = await _positions(redis, tenant, wanted, before, limit + 1)
            if not positions:
                break
            found += await _load(redis, tenant, wanted, positions)
            before = positions[-1]
    jobs = [job for _, job in found[:limit]]
    return jobs, _write_cursor(found[limit - 1][0]) if len(found) > limit else None


async def _positions(redis: Redis, tenant: str, wanted: Filter, before: Position | None, limit: int) -> list[Position]:
    """The next positions in the matching indexes, newest first; at one time the larger id is the newer."""
    if wanted.thread_id is not None:
        indexes = [key("index_thread", tenant, digest(wanted.thread_id))]
    else:
        graphs = wanted.graphs or [name.decode() for name in await redis.smembers(key("graphs", tenant))]  # type: ignore[misc]
        indexes = [key("index", tenant, graph, status) for graph in graphs for status in wanted.statuses or STATUSES]
    oldest = "-inf" if wanted.created_after_ms is None else f"({wanted.created_after_ms}"
    pipeline = redis.pipeline(transaction=True)  # of one moment: a job that moves between two indexes is in one of them
    for index in indexes:
        newest = "+inf" if before is None else f"({before[0]}"
        pipeline.zrevrangebyscore(index, newest, oldest, start=0, num=limit, withscores=True)
        if before is not None:
            pipeline.zrangebyscore(index, before[0], before[0], withscores=True)
    answers = await pipeline.execute() if indexes else []
    found = {(int(score), member.decode()) for answer in answers for member, score in answer}
    after = -1 if wanted.created_after_ms is None else wanted.created_after_ms
    return heapq.nlargest(limit, (at for at in found if at[0] > after and (before is None or at < before)))


async def _load(
    redis: Redis, tenant: str, wanted: Filter, positions: list[Position]
) -> list[tuple[Position, StoredJob]]:
    pipeline = redis.pipeline(transaction=False)
    for _, job_id in positions:
        pipeline.hgetall(key("job", ref(tenant, job_id)))
    records = await pipeline.execute(raise_on_error=False)
    # A job may have moved on, or gone, since its index was read; one that cannot be read spoils no list.
    return [
        (position, StoredJob(position[1], record, None))
        for position, record in zip(positions, records, strict=True)
        if isinstance(record, dict)
        and record.keys() >= {b"status", b"graph"}
        and (not wanted.statuses or record[b"status"].decode() in wanted.statuses)
        and (not wanted.graphs or record[b"graph"].decode() in wanted.graphs)
    ]


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
