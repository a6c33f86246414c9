"""Webhook deliveries as clients see them: by job, by page, and sent again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson
from redis.asyncio import Redis

from shared.jobs import rfc3339
from shared.store import scripts
from shared.store.connection import Argument, run, run_many
from shared.store.errors import store_errors
from shared.store.keys import key, ref
from shared.store.paging import Position, Span, read_page

STATUSES = ("pending", "delivered", "failed", "held")
RedeliverOutcome = Literal["queued", "sending", "disabled", "missing"]
_FIELDS = (
    "type", "job", "target", "url", "status", "detail", "created_at", "changed_at", "next_at",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class DeliveryFilter:
    """Which deliveries of a tenant: empty means all. The times are about the last change.

    That is when a delivery got to where it stands: created, tried last, or sent again. `since_ms` is inclusive.
    """

    statuses: Sequence[str] = ()
    endpoint: str | None = None
    types: Sequence[str] = ()
    since_ms: int | None = None
    until_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Backlog:
    """Deliveries that are due and not sent yet, the age of the oldest, and how many addresses are disabled."""

    waiting: int
    oldest_seconds: float
    disabled: int


class DeliveryLog:
    """What clients do. Documents are as `shared.webhooks.Delivery` has them, ready for orjson."""

    def __init__(self, redis: Redis, *, wait_replicas: int = 0, clock_offset_ms: int = 0) -> None:
        self.redis = redis
        self.wait_replicas = wait_replicas
        self.clock_offset_ms = clock_offset_ms

    async def of_job(self, tenant: str, job_id: str) -> list[dict[str, Any]]:
        """The deliveries of a job, oldest first; empty where there are none."""
        with store_errors():
            ids = await self.redis.lrange(key("deliveries", ref(tenant, job_id)), 0, -1)  # type: ignore[misc]
            return [document for _, document in await self._load(tenant, [(0, name.decode()) for name in ids])]

    async def get(self, tenant: str, delivery_id: str) -> dict[str, Any] | None:
        """One delivery, or None."""
        with store_errors():
            found = await self._load(tenant, [(0, delivery_id)])
        return found[0][1] if found else None

    async def page(
        self, tenant: str, wanted: DeliveryFilter, *, limit: int, cursor: str | None = None, oldest_first: bool = False
    ) -> tuple[list[dict[str, Any]], str | None]:
        """A page of deliveries by the time of their last change (see `read_page`). Raises `BadCursor`."""

        async def load(positions: list[Position]) -> list[tuple[Position, dict[str, Any]]]:
            return [
                (at, document)
                for at, document in await self._load(tenant, positions)
                if (not wanted.types or document["type"] in wanted.types)
                and (not wanted.statuses or document["status"] in wanted.statuses)
            ]

        since = None if wanted.since_ms is None else wanted.since_ms - 1
        span = Span(since, wanted.until_ms, oldest_first)
        return await read_page(
            self.redis, await self._indexes(tenant, wanted), span, load, limit=limit, cursor=cursor
        )  # fmt: skip

    async def redeliver(self, tenant: str, delivery_id: str) -> RedeliverOutcome:
        """Send a delivery again, now and with a fresh schedule."""
        args: list[Argument] = [self.clock_offset_ms, ref(tenant, delivery_id)]
        answer = await run(self.redis, scripts.REDELIVER, *args, replicas=self.wait_replicas)
        return answer.decode()  # type: ignore[no-any-return]

    async def redeliver_many(self, tenant: str, delivery_ids: Sequence[str]) -> list[RedeliverOutcome | Exception]:
        """Send several deliveries again in one round trip, each for itself."""
        calls: list[list[Argument]] = [[self.clock_offset_ms, ref(tenant, name)] for name in delivery_ids]
        answers = await run_many(self.redis, scripts.REDELIVER, calls, replicas=self.wait_replicas)
        return [answer if isinstance(answer, Exception) else answer.decode() for answer in answers]

    async def now_ms(self) -> int:
        """What Redis' clock says, by which deliveries change."""
        with store_errors():
            seconds, microseconds = await self.redis.time()
        return int(seconds) * 1000 + int(microseconds) // 1000 + self.clock_offset_ms

    async def backlog(self) -> Backlog:
        """How far the senders are behind, over all tenants."""
        with store_errors():
            hosts = [name.decode() for name in await self.redis.zrange(key("hosts"), 0, -1)]
            pipeline = self.redis.pipeline(transaction=False)
            pipeline.time()
            pipeline.zcard(key("disabled"))
            (seconds, microseconds), disabled = await pipeline.execute()
            now = seconds * 1000 + microseconds // 1000 + self.clock_offset_ms
            for host in hosts:
                pipeline.zcount(key("host_line", host), "-inf", now)
                pipeline.zrange(key("host_line", host), 0, 0, withscores=True)
            answers = await pipeline.execute() if hosts else []
        oldest = min((head[0][1] for head in answers[1::2] if head), default=now)
        return Backlog(sum(answers[::2]), max(0.0, now - oldest) / 1000, int(disabled))

    async def _indexes(self, tenant: str, wanted: DeliveryFilter) -> list[str]:
        targets = [wanted.endpoint] if wanted.endpoint else []
        if not targets:
            with store_errors():
                targets = [name.decode() for name in await self.redis.smembers(key("targets", tenant))]  # type: ignore[misc]
        statuses = wanted.statuses or STATUSES
        return [key("deliveries_index", tenant, target, status) for target in targets for status in statuses]

    async def _load(self, tenant: str, positions: Sequence[Position]) -> list[tuple[Position, dict[str, Any]]]:
        """The documents of those that are still there."""
        pipeline = self.redis.pipeline(transaction=False)
        for _, delivery_id in positions:
            pipeline.hmget(key("delivery", ref(tenant, delivery_id)), list(_FIELDS))
            pipeline.lrange(key("delivery_attempts", ref(tenant, delivery_id)), 0, -1)
        answers = await pipeline.execute() if positions else []
        return [
            (at, _document(at[1], dict(zip(_FIELDS, fields, strict=True)), attempts))
            for at, fields, attempts in zip(positions, answers[::2], answers[1::2], strict=True)
            if fields[0] is not None
        ]


def _document(delivery_id: str, fields: Mapping[str, bytes | None], attempts: list[bytes]) -> dict[str, Any]:
    text = {name: None if value is None else value.decode() for name, value in fields.items()}
    job, target, next_at = text["job"], text["target"], text["next_at"]
    return {
        "id": delivery_id,
        "type": text["type"],
        "job_id": job.partition(":")[2] if job else None,
        "endpoint": None if target == "job" else target,
        "url": text["url"],
        "status": text["status"],
        "detail": text["detail"],
        "created_at": rfc3339(int(text["created_at"] or 0)),
        "changed_at": rfc3339(int(text["changed_at"] or 0)),
        "next_attempt_at": rfc3339(int(next_at)) if next_at else None,
        "attempts": [orjson.Fragment(attempt) for attempt in attempts],
    }
