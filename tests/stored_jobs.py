"""Jobs as the gateway would store them, for tests of workers that need none."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import orjson

from shared.records import job_document
from shared.store import JobStore, NewJob, Registry, connect
from tests.conditions import until

TENANT = "acme"


class Jobs:
    """Submits jobs straight to the store, and reads their records."""

    def __init__(self, url: str) -> None:
        self.redis = connect(url, connections=100, answer_within=10, tries=2)
        self.store = JobStore(self.redis, result_ttl_seconds=600)
        self.registry = Registry(self.redis)

    async def submit(self, graph: str, input_: Any, *, tenant: str = TENANT, **options: Any) -> str:
        payload = orjson.dumps({"input": input_, **options.pop("request", {})})
        job_id = str(uuid4())
        options = {"max_attempts": 3, **options}
        await self.store.submit(NewJob(tenant=tenant, id=job_id, graph=graph, payload=payload, **options))
        return job_id

    async def get(self, job_id: str, tenant: str = TENANT) -> dict[str, Any]:
        """The record as clients see it."""
        job = await self.store.get(tenant, job_id)
        assert job is not None
        return dict(orjson.loads(orjson.dumps(job_document(job_id, job.record, job.output))))

    async def times(self, job_id: str) -> tuple[float, float]:
        """When a job was ready and when it was first started, in seconds."""
        job = await self.store.get(TENANT, job_id)
        assert job is not None
        ready = job.record.get(b"run_at", job.record[b"created_at"])
        return int(ready) / 1000, int(job.record[b"started_at"]) / 1000

    async def wait(self, job_id: str, *statuses: str, within: float = 15, tenant: str = TENANT) -> dict[str, Any]:
        """The record, once its status is one of these; by default, once it has ended."""
        wanted = statuses or ("succeeded", "failed", "cancelled")

        async def arrived() -> dict[str, Any] | None:
            record = await self.get(job_id, tenant)
            return record if record["status"] in wanted else None

        return await until(arrived, within)  # type: ignore[return-value]

    async def run(self, graph: str, input_: Any, *, tenant: str = TENANT, **options: Any) -> dict[str, Any]:
        return await self.wait(await self.submit(graph, input_, tenant=tenant, **options), tenant=tenant)
