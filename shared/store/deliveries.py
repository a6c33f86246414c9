"""Webhook deliveries in Redis: leased to senders, kept with their attempts beyond the job's own retention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import orjson
from redis.asyncio import Redis

from shared.jobs import DeliveryAttempt, rfc3339
from shared.store import scripts
from shared.store.connection import run
from shared.store.errors import store_errors
from shared.store.keys import key, ref


@dataclass(frozen=True, slots=True)
class ClaimedDelivery:
    """A delivery leased to a sender; (worker, `attempt`) is its fence, `step` its place in the schedule."""

    ref: str
    id: str
    tenant: str
    attempt: int
    step: int
    type: str
    url: str
    secret: str | None
    created_at: int
    job_id: str
    record: dict[bytes, bytes]
    output: bytes | None
    output_too_large: bool
    body: bytes | None


class DeliveryStore:
    """What senders and clients do to deliveries. A delivery is kept `ttl_seconds` after its last try."""

    def __init__(
        self, redis: Redis, *, ttl_seconds: int, blocking: Redis | None = None, clock_offset_ms: int = 0
    ) -> None:
        self.redis = redis
        self.blocking = blocking or redis
        self.ttl_ms = ttl_seconds * 1000
        self.clock_offset_ms = clock_offset_ms

    async def claim(
        self, worker_id: str, *, lease_seconds: float, limit: int
    ) -> tuple[list[ClaimedDelivery], float | None]:
        """Lease up to `limit` due deliveries. Also gives the seconds until the next is due, None where none waits."""
        wait_ms, taken = await run(
            self.redis, scripts.DELIVERY_CLAIM, self.clock_offset_ms, worker_id, int(lease_seconds * 1000), limit
        )
        deliveries = [
            _claimed(name.decode(), _pairs(flat), _pairs(record), output) for name, flat, record, output in taken
        ]
        return deliveries, None if int(wait_ms) < 0 else int(wait_ms) / 1000

    async def finish(
        self, worker_id: str, delivery: ClaimedDelivery, *, outcome: Literal["delivered", "retry", "failed"],
        attempt: DeliveryAttempt, delay_seconds: float = 0, body: bytes,
    ) -> bool:  # fmt: skip
        """Record a try and what comes next. False: the lease was lost, nothing is written."""
        answer = await run(
            self.redis, scripts.DELIVERY_FINISH, self.clock_offset_ms,
            worker_id, delivery.ref, delivery.attempt, outcome,
            attempt.model_dump_json(), int(delay_seconds * 1000), body, self.ttl_ms,
        )  # fmt: skip
        return int(answer) == 1

    async def wait(self, timeout: float) -> None:  # noqa: ASYNC109
        """Return when a delivery may be due, or after `timeout` seconds."""
        if timeout <= 0:  # to Redis 0 is forever
            return
        with store_errors():
            await self.blocking.blpop([key("deliveries_wake")], timeout=timeout)  # type: ignore[arg-type, misc]

    async def of_job(self, tenant: str, job_id: str) -> list[dict[str, Any]]:
        """The deliveries of a job, oldest first, as `shared.jobs.Delivery` documents; empty where there are none."""
        with store_errors():
            ids = await self.redis.lrange(key("deliveries", ref(tenant, job_id)), 0, -1)  # type: ignore[misc]
            pipeline = self.redis.pipeline(transaction=False)
            for delivery_id in ids:
                name = ref(tenant, delivery_id.decode())
                pipeline.hgetall(key("delivery", name))
                pipeline.lrange(key("delivery_attempts", name), 0, -1)
            answers = await pipeline.execute() if ids else []
        return [
            _document(delivery_id.decode(), fields, attempts)
            for delivery_id, fields, attempts in zip(ids, answers[::2], answers[1::2], strict=True)
            if fields
        ]

    async def redeliver(self, tenant: str, job_id: str, delivery_id: str) -> Literal["queued", "sending", "missing"]:
        """Send a delivery of this job again, now and with a fresh schedule."""
        if not delivery_id.startswith(f"{job_id}."):
            return "missing"
        answer = await run(self.redis, scripts.REDELIVER, self.clock_offset_ms, ref(tenant, delivery_id))
        return answer.decode()  # type: ignore[no-any-return]


def _claimed(name: str, fields: dict[bytes, bytes], record: dict[bytes, bytes], output: bytes) -> ClaimedDelivery:
    tenant, _, delivery_id = name.partition(":")
    secret = fields.get(b"secret")
    return ClaimedDelivery(
        ref=name,
        id=delivery_id,
        tenant=tenant,
        attempt=int(fields[b"attempt"]),
        step=int(fields[b"step"]),
        type=fields[b"type"].decode(),
        url=fields[b"url"].decode(),
        secret=secret.decode() if secret else None,
        created_at=int(fields[b"created_at"]),
        job_id=fields[b"job"].decode().partition(":")[2],
        record=record,
        output=output or None,
        output_too_large=b"output_too_large" in fields,
        body=fields.get(b"body"),
    )


def _document(delivery_id: str, fields: dict[bytes, bytes], attempts: list[bytes]) -> dict[str, Any]:
    next_at = fields.get(b"next_at")
    return {
        "id": delivery_id,
        "type": fields[b"type"].decode(),
        "url": fields[b"url"].decode(),
        "status": fields[b"status"].decode(),
        "created_at": rfc3339(int(fields[b"created_at"])),
        "next_attempt_at": rfc3339(int(next_at)) if next_at else None,
        "attempts": [orjson.Fragment(attempt) for attempt in attempts],
    }


def _pairs(flat: list[bytes]) -> dict[bytes, bytes]:
    return dict(zip(flat[::2], flat[1::2], strict=True))
