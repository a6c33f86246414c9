"""Cancel and retry: from each state, and never a way back into a lane for a cancelled job."""

from __future__ import annotations

import pytest
from redis import Redis as SyncRedis

from shared.store import KeeperStore
from shared.store.keys import key
from tests.job_queue import GRAPH, TENANT, WEBHOOK, JobQueue
from tests.store_audit import audit


@pytest.mark.parametrize("options", [{}, {"delay_ms": 60_000}, {"priority": 9}])
async def test_cancel_ends_a_waiting_job_at_once(queue: JobQueue, options: dict[str, int]) -> None:
    await queue.submit("a", fields=WEBHOOK, **options)
    assert await queue.store.cancel(TENANT, "a") == ("cancelled", "cancelled", GRAPH)
    assert audit(queue.sync_redis) == []
    queue.pass_time(120)
    assert await queue.claim_ids() == []
    assert await queue.delivery_types("a") == ["job.cancelled"]
    assert await queue.store.cancel(TENANT, "a") == ("ended", "cancelled", GRAPH)


async def test_cancel_ends_a_job_in_its_backoff(queue: JobQueue) -> None:
    await queue.submit("a")
    await queue.store.release("w1", await queue.take(), "backoff", delay_seconds=5)
    assert (await queue.store.cancel(TENANT, "a"))[0] == "cancelled"
    queue.pass_time(5)
    assert await queue.claim_ids() == []


async def test_cancel_ends_an_interrupted_job(queue: JobQueue) -> None:
    await queue.submit("a", thread_id="t", fields=WEBHOOK)
    await queue.submit("b", thread_id="t")
    await queue.finish("w1", await queue.take(), "interrupted")
    assert await queue.store.cancel(TENANT, "a") == ("cancelled", "cancelled", GRAPH)
    assert await queue.delivery_types("a") == ["job.interrupted", "job.cancelled"]
    assert await queue.claim_ids() == ["b"]


async def test_cancel_marks_a_running_job_and_tells_its_worker(queue: JobQueue, sync_redis: SyncRedis) -> None:
    await queue.submit("a")
    job = await queue.take("w1")
    assert await queue.store.cancel(TENANT, "a") == ("cancelling", "running", GRAPH)
    keeper = KeeperStore(sync_redis, "w1")
    assert keeper.wait_for_control(1) == (job.ref, job.attempt)
    assert queue.renew("w1", job) == ["cancel"]
    assert await queue.finish("w1", job, "cancelled") == "done"
    assert await queue.status("a") == "cancelled"


async def test_cancel_of_a_job_that_is_not_there_says_so(queue: JobQueue) -> None:
    assert await queue.store.cancel(TENANT, "a") == ("missing", "", "")


@pytest.mark.parametrize("status", ["succeeded", "failed", "cancelled"])
async def test_an_ended_job_cannot_be_cancelled(queue: JobQueue, status: str) -> None:
    await queue.submit("a")
    await queue.finish("w1", await queue.take(), status)
    assert await queue.store.cancel(TENANT, "a") == ("ended", status, GRAPH)
    assert await queue.status("a") == status


async def test_waiting_for_control_for_no_time_returns_at_once(sync_redis: SyncRedis) -> None:
    assert KeeperStore(sync_redis, "w1").wait_for_control(0) is None


# Retry


@pytest.mark.parametrize("status", ["failed", "cancelled"])
async def test_retry_starts_another_round_with_fresh_tries(queue: JobQueue, sync_redis: SyncRedis, status: str) -> None:
    await queue.submit("a", max_attempts=1)
    fields = {"error": b'{"code":"e"}', "usage": b"{}"}
    await queue.finish("w1", await queue.take(), status, output=b"1", fields=fields)
    assert await queue.store.retry(TENANT, "a") == ("queued", "queued")
    record = await queue.record("a")
    assert (record["status"], record["round"], record["tries"], record["attempt"]) == ("queued", "2", "0", "1")
    assert not record.keys() & {"error", "usage", "started_at", "finished_at", "cancel"}
    assert not sync_redis.exists(key("result", f"{TENANT}:a"))
    assert sync_redis.zcard(key("expiry")) == 0
    job = await queue.take()
    assert (job.attempt, job.record[b"tries"]) == (2, b"1")
    assert await queue.finish("w1", job) == "done"


async def test_a_retried_job_forgets_the_workers_it_lost(queue: JobQueue) -> None:
    await queue.submit("a", max_attempts=1)
    await queue.take("lost")
    await queue.lose_worker()
    await queue.store.retry(TENANT, "a")
    assert (await queue.take()).alone is False


async def test_a_retry_after_a_cancel_runs_to_its_end(queue: JobQueue) -> None:
    await queue.submit("a")
    job = await queue.take("w1")
    await queue.store.cancel(TENANT, "a")
    await queue.store.release("w1", job, "hand_back")
    await queue.store.retry(TENANT, "a")
    again = await queue.take("w1")
    assert queue.renew("w1", again) == ["held"]
    assert await queue.store.release("w1", again, "hand_back") == "queued"


async def test_only_failed_and_cancelled_jobs_can_be_retried(queue: JobQueue) -> None:
    assert await queue.store.retry(TENANT, "a") == ("missing", "")
    await queue.submit("a")
    assert await queue.store.retry(TENANT, "a") == ("refused", "queued")
    job = await queue.take()
    assert await queue.store.retry(TENANT, "a") == ("refused", "running")
    await queue.finish("w1", job, "interrupted")
    assert await queue.store.retry(TENANT, "a") == ("refused", "interrupted")
    await queue.submit("b")
    await queue.finish("w1", await queue.take())
    assert await queue.store.retry(TENANT, "b") == ("refused", "succeeded")


async def test_a_late_write_of_the_round_before_is_refused(queue: JobQueue) -> None:
    await queue.submit("a")
    old = await queue.take("w1")
    await queue.finish("w1", old, "failed")
    await queue.store.retry(TENANT, "a")
    assert await queue.finish("w1", old) == "gone"
    new = await queue.take("w1")
    assert await queue.finish("w1", old) == "gone"
    assert await queue.finish("w1", new) == "done"
