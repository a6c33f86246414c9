"""Lists of jobs by the time they were created, page by page.

Each job stands in exactly one index (tenant, graph, status), so a list is the merge of those that match; within a
thread its own index is read and filtered, and errors are looked for in the records.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from redis.asyncio import Redis

from shared.records import error_code
from shared.store.errors import store_errors
from shared.store.job_values import StoredJob
from shared.store.keys import digest, key, ref
from shared.store.paging import Position, Span, read_page

STATUSES = ("queued", "running", "interrupted", "succeeded", "failed", "cancelled")


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
    """A page of jobs without their outputs (see `read_page`). Raises `BadCursor`.

    With `fields` the records have no others; a filter by error needs `error`, and any list `status` and `graph`.
    """

    async def load(positions: list[Position]) -> list[tuple[Position, StoredJob]]:
        return await _load(redis, tenant, wanted, positions, fields)

    span = Span(wanted.created_after_ms, wanted.created_before_ms, oldest_first)
    return await read_page(redis, await _indexes(redis, tenant, wanted), span, load, limit=limit, cursor=cursor)


async def _indexes(redis: Redis, tenant: str, wanted: Filter) -> list[str]:
    if wanted.thread_id is not None:
        return [key("index_thread", tenant, digest(wanted.thread_id))]
    graphs = list(wanted.graphs)
    if not graphs:
        with store_errors():
            graphs = [name.decode() for name in await redis.smembers(key("graphs", tenant))]  # type: ignore[misc]
    return [key("index", tenant, graph, status) for graph in graphs for status in wanted.statuses or STATUSES]


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
