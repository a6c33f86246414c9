"""The job store as tests drive it: short calls with defaults, and a clock that is moved by hand."""

from __future__ import annotations

from typing import Any

from redis import Redis as SyncRedis
from redis.asyncio import Redis

from shared.store import (
    Claim,
    Claimed,
    DeliveryLog,
    DeliveryStore,
    EndpointStore,
    JobStore,
    KeeperStore,
    NewJob,
    Submitted,
    TenantStore,
)
from shared.store.connection import run

TENANT = "acme"
GRAPH = "echo"
RETENTION_SECONDS = 3600
LEASE_SECONDS = 10.0
WEBHOOK = {"webhook_url": "https://example.com/hook"}


class RecordedStore(JobStore):
    """A `JobStore` that can send a call once more, to the letter: the reply to the first was lost."""

    sent: tuple[Any, ...]

    async def _call(self, script: Any, *args: Any) -> Any:
        self.sent = (script, self.clock_offset_ms, *args)
        return await self.send(self.sent)

    async def send(self, sent: tuple[Any, ...]) -> Any:
        """Send what `sent` was at some time. Gives the raw answer."""
        return await run(self.redis, *sent)


class JobQueue:
    """The stores of jobs, deliveries and endpoints on one server; jobs are named by their ids."""

    def __init__(self, redis: Redis, sync_redis: SyncRedis) -> None:
        self.redis = redis
        self.sync_redis = sync_redis
        self.store = RecordedStore(redis, result_ttl_seconds=RETENTION_SECONDS)
        self.deliveries = DeliveryStore(redis, ttl_seconds=RETENTION_SECONDS)
        self.log = DeliveryLog(redis)
        self.endpoints = EndpointStore(redis)
        self.tenants = TenantStore(redis)

    def pass_time(self, seconds: float) -> None:
        """Move the clock of all scripts."""
        self.store.clock_offset_ms += round(seconds * 1000)
        for store in (self.deliveries, self.log, self.endpoints):
            store.clock_offset_ms = self.store.clock_offset_ms

    def new(self, job_id: str, **options: Any) -> NewJob:
        options = {"tenant": TENANT, "graph": GRAPH, "payload": b"{}", "max_attempts": 3, **options}
        return NewJob(id=job_id, **options)

    async def submit(self, job_id: str, **options: Any) -> Submitted:
        """Submit at least a millisecond after the one before, so that ranks follow the order of the calls."""
        self.pass_time(0.001)
        return await self.store.submit(self.new(job_id, **options))

    async def claim(self, worker: str = "w1", **options: Any) -> Claim:
        wanted = {"limit": 10, "max_bytes": 1_000_000, "recover": True, "queues": ["default"], "graphs": [GRAPH]}
        return await self.store.claim(worker, lease_seconds=LEASE_SECONDS, **{**wanted, **options})

    async def claim_ids(self, worker: str = "w1", **options: Any) -> list[str]:
        """The ids of what a claim brings, in its order."""
        return [job.id for job in (await self.claim(worker, **options)).jobs]

    async def take(self, worker: str = "w1", **options: Any) -> Claimed:
        """Claim the one job that is ready."""
        (job,) = (await self.claim(worker, **options)).jobs
        return job

    async def finish(self, worker: str, job: Claimed, status: Any = "succeeded", **options: Any) -> str:
        return await self.store.finish(worker, job, status, **options)

    async def lose_worker(self) -> None:
        """Let all leases run out and have another worker, which has no free slot, put their jobs back."""
        self.pass_time(LEASE_SECONDS + 0.001)
        await self.claim("another", limit=0)

    def renew(self, worker: str, *jobs: Claimed) -> list[str]:
        keeper = KeeperStore(self.sync_redis, worker, clock_offset_ms=self.store.clock_offset_ms)
        return keeper.renew(LEASE_SECONDS, [(job.ref, job.attempt) for job in jobs])

    async def record(self, job_id: str, tenant: str = TENANT) -> dict[str, str]:
        """The raw record as text; empty where there is none."""
        job = await self.store.get(tenant, job_id)
        return {} if job is None else {name.decode(): value.decode() for name, value in job.record.items()}

    async def status(self, job_id: str, tenant: str = TENANT) -> str | None:
        return (await self.record(job_id, tenant)).get("status")

    async def delivery_types(self, job_id: str) -> list[str]:
        """The types of a job's webhook messages, oldest first."""
        return [delivery["type"] for delivery in await self.log.of_job(TENANT, job_id)]
