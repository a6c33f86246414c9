"""Back-pressure: what waits is bounded by queue and tenant, and who is refused is told when to come again."""

from __future__ import annotations

from typing import Any

import pytest
from redis import Redis as SyncRedis

from shared.store import DepthLimits, Submitted
from shared.store.keys import key
from tests.job_queue import GRAPH, TENANT, JobQueue
from tests.store_dump import read_all


async def fill(queue: JobQueue, count: int, **options: Any) -> None:
    for number in range(count):
        assert (await queue.submit(f"fill{number}", **options)).outcome == "created"


async def drain(queue: JobQueue, count: int) -> None:
    for _ in range(count):
        await queue.finish("w1", await queue.take(limit=1))


@pytest.mark.parametrize(
    "options",
    [{}, {"delay_ms": 60_000}, {"thread_id": "t"}, {"priority": 9}],
    ids=["ready", "delayed", "in one thread", "urgent"],
)
async def test_a_queue_takes_so_many_jobs_of_a_tenant_whatever_they_wait_for(
    queue: JobQueue, options: dict[str, Any]
) -> None:
    queue.store.limits = DepthLimits(of_queue=3)
    await fill(queue, 3, **options)
    refused = await queue.submit("more", **options)
    assert (refused.outcome, refused.id) == ("queue_full", "")
    assert await queue.record("more") == {}
    assert (await queue.submit("elsewhere", queue="another")).outcome == "created"
    assert (await queue.submit("of another", tenant="other")).outcome == "created"


async def test_nothing_is_stored_of_a_job_that_is_refused(queue: JobQueue, sync_redis: SyncRedis) -> None:
    queue.store.limits = DepthLimits(of_queue=1)
    await fill(queue, 1, thread_id="t")
    before = {name: sync_redis.dump(name) for name in sync_redis.keys("*")}
    refused = await queue.submit("more", thread_id="t", on_busy="cancel", idempotency_key="k", fingerprint="f")
    assert refused.outcome == "queue_full"
    assert {name: sync_redis.dump(name) for name in sync_redis.keys("*")} == before
    queue.store.limits = DepthLimits()
    assert (await queue.submit("more", idempotency_key="k", fingerprint="f")).outcome == "created"


async def test_a_tenant_has_a_limit_over_all_its_queues(queue: JobQueue) -> None:
    queue.store.limits = DepthLimits(of_queue=2, of_tenant=3)
    for number, graph in enumerate(["one", "two", "three"]):
        assert (await queue.submit(f"job{number}", queue=f"queue{number}", graph=graph)).outcome == "created"
    assert (await queue.submit("more", queue="yet another")).outcome == "tenant_full"
    assert (await queue.submit("of another", tenant="other")).outcome == "created"


async def test_there_is_room_again_once_a_job_has_been_claimed_or_cancelled(queue: JobQueue) -> None:
    queue.store.limits = DepthLimits(of_queue=2)
    await fill(queue, 2)
    await queue.take(limit=1)
    assert (await queue.submit("a")).outcome == "created"
    assert (await queue.submit("b")).outcome == "queue_full"
    await queue.store.cancel(TENANT, "a")
    assert (await queue.submit("b")).outcome == "created"


async def test_what_was_accepted_is_never_refused_again(queue: JobQueue) -> None:
    queue.store.limits = DepthLimits(of_queue=1)
    await fill(queue, 1)
    job = await queue.take()
    await queue.submit("a", idempotency_key="k", fingerprint="f")
    assert await queue.store.release("w1", job, "hand_back") == "queued"
    failed = await queue.take(limit=1)
    await queue.finish("w1", failed, "failed")
    assert await queue.store.retry(TENANT, failed.id) == ("queued", "queued")
    assert (await queue.submit("b", idempotency_key="k", fingerprint="f")).outcome == "duplicate"
    assert (await queue.submit("a")).outcome == "created", "its first reply was lost"


async def test_each_job_of_a_batch_that_has_no_room_is_told_so(queue: JobQueue) -> None:
    queue.store.limits = DepthLimits(of_queue=2)
    answers = await queue.store.submit_many([queue.new(name) for name in "abcd"])
    outcomes = [answer.outcome for answer in answers if isinstance(answer, Submitted)]
    assert outcomes == ["created", "created", "queue_full", "queue_full"]


async def test_a_job_whose_record_is_lost_waits_no_longer(queue: JobQueue, sync_redis: SyncRedis) -> None:
    await queue.submit("a", queue="slow", delay_ms=60_000)
    await queue.submit("b")
    await queue.finish("w1", await queue.take(recover=False))
    sync_redis.delete(key("job", f"{TENANT}:a"))
    queue.pass_time(61)
    await queue.claim()
    assert (await queue.status("a"), read_all(sync_redis).sets["waiting"]) == ("failed", {})


async def test_where_nothing_drains_a_minute_is_told(queue: JobQueue) -> None:
    queue.store.limits = DepthLimits(of_queue=1)
    await fill(queue, 1)
    assert (await queue.submit("a")).retry_seconds == 60


@pytest.mark.parametrize(("limit", "a_second", "seconds"), [(100, 4, 1), (200, 2, 8.5), (200, 1, 18.5)])
async def test_a_tenth_of_the_queue_is_free_after_the_seconds_told_at_the_pace_so_far(
    queue: JobQueue, limit: int, a_second: int, seconds: float
) -> None:
    queue.store.limits = DepthLimits(of_queue=limit)
    await fill(queue, limit)
    for _ in range(15):
        await drain(queue, a_second)
        queue.pass_time(1)
    queue.store.limits = DepthLimits(of_queue=limit - 15 * a_second)
    told = (await queue.submit("a")).retry_seconds
    assert told == pytest.approx(seconds, abs=1 + seconds * 0.3)  # the pace is known by windows of ten seconds


async def test_the_pace_of_long_ago_is_forgotten(queue: JobQueue, sync_redis: SyncRedis) -> None:
    queue.store.limits = DepthLimits(of_queue=2)
    await fill(queue, 2)
    await drain(queue, 1)
    await queue.submit("a")
    assert (await queue.submit("b")).retry_seconds <= 20  # at most what two windows last: one may just have ended
    queue.pass_time(21)
    assert (await queue.submit("b")).retry_seconds == 60
    assert 0 < sync_redis.pttl(key("drained", TENANT, "default")) <= 30_000


async def test_nobody_is_told_to_wait_for_longer_than_five_minutes(queue: JobQueue) -> None:
    queue.store.limits = DepthLimits(of_queue=500)
    await fill(queue, 500)
    await drain(queue, 1)
    queue.pass_time(9)
    await queue.submit("a")
    assert (await queue.submit("b")).retry_seconds == 300


async def test_each_tenant_s_pace_is_its_own(queue: JobQueue) -> None:
    queue.store.limits = DepthLimits(of_queue=2)
    await fill(queue, 2, tenant="busy")
    await queue.claim(limit=2)
    await fill(queue, 2, tenant="stuck", graph="unserved")
    refused = await queue.submit("a", tenant="stuck", graph=GRAPH)
    assert (refused.outcome, refused.retry_seconds) == ("queue_full", 60)
