"""arq's own `Job.status()` tells the truth about our jobs, for its key names are kept."""

from __future__ import annotations

from arq.connections import ArqRedis
from arq.jobs import Job, JobStatus

from shared.store.keys import key, ref
from tests.job_queue import GRAPH, TENANT, JobQueue


async def arq_status(queue: JobQueue, job_id: str) -> JobStatus:
    redis = ArqRedis(connection_pool=queue.redis.connection_pool)
    name = await queue.store.arq_queue(TENANT, job_id)
    return await Job(ref(TENANT, job_id), redis, _queue_name=name).status()


async def test_arq_sees_a_job_go_from_queued_to_complete(queue: JobQueue) -> None:
    assert await arq_status(queue, "a") == JobStatus.not_found
    await queue.submit("a", max_attempts=1)
    assert await queue.store.arq_queue(TENANT, "a") == key("lane", "default", GRAPH, TENANT)
    assert await arq_status(queue, "a") == JobStatus.queued
    job = await queue.take()
    assert await arq_status(queue, "a") == JobStatus.in_progress
    await queue.finish("w1", job, "failed")
    assert await arq_status(queue, "a") == JobStatus.complete
    await queue.store.retry(TENANT, "a")
    assert await arq_status(queue, "a") == JobStatus.queued
    await queue.store.cancel(TENANT, "a")
    assert await arq_status(queue, "a") == JobStatus.complete
    await queue.store.erase(TENANT, "a")
    assert await arq_status(queue, "a") == JobStatus.not_found


async def test_arq_sees_a_delayed_job_as_deferred(queue: JobQueue) -> None:
    await queue.submit("a", delay_ms=60_000)
    assert await queue.store.arq_queue(TENANT, "a") == key("due")
    assert await arq_status(queue, "a") == JobStatus.deferred


async def test_arq_sees_a_job_in_its_backoff_as_deferred(queue: JobQueue) -> None:
    await queue.submit("a")
    await queue.store.release("w1", await queue.take(), "backoff", delay_seconds=60)
    assert await arq_status(queue, "a") == JobStatus.deferred


async def test_arq_sees_a_job_parked_behind_its_thread_as_queued(queue: JobQueue) -> None:
    await queue.submit("a", thread_id="t")
    await queue.submit("b", thread_id="t")
    assert await arq_status(queue, "b") == JobStatus.queued


async def test_arq_sees_a_job_that_must_run_alone_as_queued(queue: JobQueue) -> None:
    await queue.submit("a", max_attempts=2)
    await queue.take("lost")
    await queue.lose_worker()
    assert await queue.store.arq_queue(TENANT, "a") == key("solo", "default", GRAPH)
    assert await arq_status(queue, "a") == JobStatus.queued
