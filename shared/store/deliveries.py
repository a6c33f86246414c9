"""Webhook deliveries as senders see them: leased one try at a time, fenced by (worker, attempt), and settled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from redis.asyncio import Redis

from shared.store import scripts
from shared.store.connection import run
from shared.store.errors import store_errors
from shared.store.keys import key
from shared.webhooks import DeliveryAttempt

HOST_CONCURRENCY = 16
HostState = Literal["ok", "busy", "silent"]
AddressState = Literal["well", "ill", "gone", "none"]


@dataclass(frozen=True, slots=True)
class ClaimedDelivery:
    """A delivery leased to a sender; (worker, `attempt`) is its fence, `step` its place in the schedule.

    `secrets` are sealed; without any the tenant's default secret signs. `body` is what an earlier try sent, or a ping.
    """

    ref: str
    id: str
    tenant: str
    attempt: int
    step: int
    type: str
    url: str
    host: str
    secrets: tuple[str, ...]
    created_at: int
    job_id: str
    record: dict[bytes, bytes]
    output: bytes | None
    output_too_large: bool
    body: bytes | None


@dataclass(frozen=True, slots=True)
class Recorded:
    """What came of recording a try.

    `delay_seconds`: from the job's end to the first success, where this try was it. `disabled`: why the address is
    disabled from now on.
    """

    delay_seconds: float | None
    disabled: Literal["failing", "gone"] | None


class DeliveryStore:
    """What senders do. A delivery is kept `ttl_seconds` after its last try.

    To one host `host_concurrency` deliveries are sent at once, over all senders.
    """

    def __init__(
        self, redis: Redis, *, ttl_seconds: int, host_concurrency: int = HOST_CONCURRENCY,
        blocking: Redis | None = None, clock_offset_ms: int = 0,
    ) -> None:  # fmt: skip
        self.redis = redis
        self.blocking = blocking or redis
        self.ttl_ms = ttl_seconds * 1000
        self.host_concurrency = host_concurrency
        self.clock_offset_ms = clock_offset_ms

    async def claim(
        self, worker_id: str, *, lease_seconds: float, limit: int, recover: bool = True
    ) -> tuple[list[ClaimedDelivery], float | None]:
        """Lease up to `limit` due deliveries. Also gives the seconds until there may be more, None where none waits.

        `recover`: also put those of lost senders back.
        """
        wait_ms, taken = await run(
            self.redis, scripts.DELIVERY_CLAIM, self.clock_offset_ms, worker_id, int(lease_seconds * 1000), limit,
            self.host_concurrency, int(recover), self.ttl_ms,
        )  # fmt: skip
        deliveries = [
            _claimed(name.decode(), _pairs(flat), _pairs(record), output, secrets)
            for name, flat, record, output, secrets in taken
        ]
        return deliveries, None if int(wait_ms) < 0 else int(wait_ms) / 1000

    async def finish(
        self, worker_id: str, delivery: ClaimedDelivery, *, outcome: Literal["delivered", "retry", "failed"],
        attempt: DeliveryAttempt, body: bytes, delay_seconds: float = 0,
        host: HostState = "ok", address: AddressState = "none",
    ) -> Recorded | None:  # fmt: skip
        """Record a try and what comes next. None: the lease was lost, nothing is written."""
        recorded, delay_ms, disabled = await run(
            self.redis, scripts.DELIVERY_FINISH, self.clock_offset_ms,
            worker_id, delivery.ref, delivery.attempt, outcome, attempt.model_dump_json(), int(delay_seconds * 1000),
            body, self.ttl_ms, host, address, self.host_concurrency,
        )  # fmt: skip
        if recorded != b"1":
            return None
        return Recorded(None if int(delay_ms) < 0 else int(delay_ms) / 1000, disabled.decode() or None)

    async def release(self, worker_id: str, delivery: ClaimedDelivery) -> bool:
        """Hand back a delivery whose try was broken off. False: the lease was lost."""
        answer = await run(
            self.redis, scripts.DELIVERY_RELEASE, self.clock_offset_ms, worker_id, delivery.ref, delivery.attempt
        )
        return int(answer) == 1

    async def wait(self, timeout: float) -> None:  # noqa: ASYNC109
        """Return when a delivery may be due, or after `timeout` seconds."""
        if timeout <= 0:  # to Redis 0 is forever
            return
        with store_errors():
            await self.blocking.blpop([key("deliveries_wake")], timeout=timeout)  # type: ignore[arg-type, misc]


def _claimed(
    name: str, fields: dict[bytes, bytes], record: dict[bytes, bytes], output: bytes, secrets: Sequence[bytes]
) -> ClaimedDelivery:
    tenant, _, delivery_id = name.partition(":")
    return ClaimedDelivery(
        ref=name,
        id=delivery_id,
        tenant=tenant,
        attempt=int(fields[b"attempt"]),
        step=int(fields[b"step"]),
        type=fields[b"type"].decode(),
        url=fields[b"url"].decode(),
        host=fields[b"host"].decode(),
        secrets=tuple(secret.decode() for secret in secrets),
        created_at=int(fields[b"created_at"]),
        job_id=fields.get(b"job", b"").decode().partition(":")[2],
        record=record,
        output=output or None,
        output_too_large=b"output_too_large" in fields,
        body=fields.get(b"body"),
    )


def _pairs(flat: list[bytes]) -> dict[bytes, bytes]:
    return dict(zip(flat[::2], flat[1::2], strict=True))
