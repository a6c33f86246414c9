"""Erase and expire: all that belongs to an ended job goes together, and nothing of one that has not ended."""

from __future__ import annotations

import pytest
from redis import Redis as SyncRedis

from shared.store import Filter, list_jobs
from shared.store.keys import key
from shared.webhooks import DeliveryAttempt
from tests.job_queue import RETENTION_SECONDS, TENANT, WEBHOOK, JobQueue

SHARED_KEYS = {
    b"mas:queues", b"mas:graphs:acme", b"mas:turns:default", b"mas:drained:acme:default", b"mas:wake:default:echo",
}  # fmt: skip


def keys_of_jobs(redis: SyncRedis) -> set[bytes]:
    """All keys but the few that belong to queues and tenants."""
    return set(redis.keys("*")) - SHARED_KEYS


async def submit_and_end(queue: JobQueue, job_id: str, **options: object) -> None:
    """A job with all that a job can have: events, output, a thread, a lost worker."""
    await queue.submit(job_id, thread_id=f"thread of {job_id}", **options)
    await queue.take("lost")
    await queue.lose_worker()
    job = await queue.take()
    await queue.store.append("w1", job, [b"{}"])
    await queue.finish("w1", job, output=b'"output"', fields={"usage": b"{}"})


async def test_erase_leaves_nothing_of_an_ended_job(queue: JobQueue, sync_redis: SyncRedis) -> None:
    await submit_and_end(queue, "a")
    assert await queue.store.erase(TENANT, "a") == ("erased", "succeeded")
    assert keys_of_jobs(sync_redis) == set()
    assert await queue.store.erase(TENANT, "a") == ("missing", "")


async def test_erase_leaves_the_deliveries(queue: JobQueue) -> None:
    await submit_and_end(queue, "a", fields=WEBHOOK)
    await queue.store.erase(TENANT, "a")
    assert await queue.delivery_types("a") == ["job.succeeded"]
    (delivery,), _ = await queue.deliveries.claim("w1", lease_seconds=10, limit=10)
    assert (delivery.record[b"status"], delivery.output) == (b"succeeded", b'"output"')


async def test_erase_refuses_a_job_that_has_not_ended(queue: JobQueue) -> None:
    await queue.submit("a")
    assert await queue.store.erase(TENANT, "a") == ("running", "queued")
    job = await queue.take()
    assert await queue.store.erase(TENANT, "a") == ("running", "running")
    await queue.finish("w1", job, "interrupted")
    assert await queue.store.erase(TENANT, "a") == ("running", "interrupted")
    assert await queue.status("a") == "interrupted"


async def test_all_of_a_job_goes_once_its_retention_is_over(queue: JobQueue, sync_redis: SyncRedis) -> None:
    await submit_and_end(queue, "a")
    queue.pass_time(RETENTION_SECONDS - 1)
    assert await queue.store.expire() == (0, 0, 0)
    assert (await list_jobs(queue.redis, TENANT, Filter(), limit=10))[0] != []
    queue.pass_time(1.001)
    assert await queue.store.expire() == (1, 0, 0)
    assert keys_of_jobs(sync_redis) == set()
    assert await list_jobs(queue.redis, TENANT, Filter(), limit=10) == ([], None)
    assert await list_jobs(queue.redis, TENANT, Filter(thread_id="thread of a"), limit=10) == ([], None)


async def test_a_job_that_has_not_ended_never_expires(queue: JobQueue) -> None:
    for job_id, options in [
        ("delayed", {"delay_ms": 10**12}),
        ("holder", {"thread_id": "t"}),
        ("parked", {"thread_id": "t"}),
    ]:
        await queue.submit(job_id, **options)
    await queue.finish("w1", await queue.take(), "interrupted")
    await queue.submit("waiting")
    await queue.submit("running", graph="other")
    await queue.take(graphs=["other"])
    await queue.submit("retried", graph="third")
    await queue.finish("w1", await queue.take(graphs=["third"]), "failed")
    await queue.store.retry(TENANT, "retried")
    queue.pass_time(100 * RETENTION_SECONDS)
    assert await queue.store.expire() == (0, 0, 0)
    statuses = [
        await queue.status(job_id) for job_id in ("delayed", "holder", "parked", "waiting", "running", "retried")
    ]
    assert statuses == ["queued", "interrupted", "queued", "queued", "running", "queued"]


async def test_the_retention_of_a_retried_job_starts_anew(queue: JobQueue) -> None:
    await queue.submit("a")
    await queue.finish("w1", await queue.take(), "failed")
    queue.pass_time(RETENTION_SECONDS - 1)
    await queue.store.retry(TENANT, "a")
    await queue.finish("w1", await queue.take())
    queue.pass_time(RETENTION_SECONDS - 1)
    assert await queue.store.expire() == (0, 0, 0)
    queue.pass_time(2)
    assert await queue.store.expire() == (1, 0, 0)


async def test_no_more_than_the_limit_expire_at_once(queue: JobQueue) -> None:
    for n in range(5):
        await queue.submit(f"a{n}")
        await queue.store.cancel(TENANT, f"a{n}")
    queue.pass_time(RETENTION_SECONDS + 1)
    assert [await queue.store.expire(limit=2) for _ in range(4)] == [(2, 0, 0), (2, 0, 0), (1, 0, 0), (0, 0, 0)]


@pytest.mark.parametrize("outcome", ["delivered", "failed"])
async def test_deliveries_outlive_their_job_and_expire_on_their_own(
    queue: JobQueue, sync_redis: SyncRedis, outcome: str
) -> None:
    await submit_and_end(queue, "a", fields=WEBHOOK)
    queue.pass_time(RETENTION_SECONDS - 1)
    (delivery,), _ = await queue.deliveries.claim("w1", lease_seconds=10, limit=10)
    attempt = DeliveryAttempt.model_validate({"at": "2026-01-31T12:00:00Z", "status_code": 200, "duration_ms": 3})
    await queue.deliveries.finish("w1", delivery, outcome=outcome, attempt=attempt, body=b"{}")
    queue.pass_time(2)
    assert await queue.store.expire() == (1, 0, 0)
    assert await queue.delivery_types("a") == ["job.succeeded"]
    queue.pass_time(RETENTION_SECONDS)
    assert await queue.store.expire() == (0, 1, 0)
    assert keys_of_jobs(sync_redis) == set() | ({b"mas:deliveries-wake"} & keys_of_jobs(sync_redis))


async def test_a_delivery_that_was_never_tried_does_not_expire(queue: JobQueue) -> None:
    await submit_and_end(queue, "a", fields=WEBHOOK)
    queue.pass_time(100 * RETENTION_SECONDS)
    assert await queue.store.expire() == (1, 0, 0)
    assert await queue.delivery_types("a") == ["job.succeeded"]


async def test_what_was_set_aside_goes_with_its_job(queue: JobQueue, sync_redis: SyncRedis) -> None:
    await queue.submit("a")
    sync_redis.set(key("job", f"{TENANT}:a"), "garbage")
    await queue.claim()
    assert sync_redis.get(key("aside", f"{TENANT}:a")) == b"garbage"
    queue.pass_time(RETENTION_SECONDS + 1)
    assert await queue.store.expire() == (1, 0, 0)
    assert keys_of_jobs(sync_redis) == set()
