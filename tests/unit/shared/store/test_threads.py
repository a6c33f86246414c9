"""Threads: one job at a time, in order, and never busy without a reason."""

from __future__ import annotations

import pytest
from redis import Redis as SyncRedis

from shared.store.keys import KEYS
from tests.job_queue import LEASE_SECONDS, TENANT, JobQueue

ODD_NAMES = ["*", "mas:thread:*", "line\nbreak", "emoji 🧵", "x" * 512, "a b:c", "\x00nul", "你好"]


def thread_keys(redis: SyncRedis) -> list[bytes]:
    return [*redis.keys(KEYS["thread"] + "*"), *redis.keys(KEYS["line"] + "*")]


@pytest.mark.parametrize("ended", ["succeeded", "failed", "cancelled"])
async def test_jobs_of_a_thread_run_one_at_a_time_and_in_order(
    queue: JobQueue, sync_redis: SyncRedis, ended: str
) -> None:
    for job_id, priority in [("a", 0), ("b", 0), ("c", 9)]:
        await queue.submit(job_id, thread_id="t", priority=priority)
    for expected in "abc":
        job = await queue.take()
        assert job.id == expected
        await queue.finish("w1", job, ended)
    assert thread_keys(sync_redis) == []


async def test_threads_do_not_hold_up_each_other_nor_jobs_without_one(queue: JobQueue) -> None:
    await queue.submit("a", thread_id="t")
    await queue.submit("b", thread_id="t")
    await queue.submit("c", thread_id="u")
    await queue.submit("d", thread_id="t", tenant="other")
    await queue.submit("e")
    assert sorted(await queue.claim_ids()) == ["a", "c", "d", "e"]


@pytest.mark.parametrize("thread_id", ODD_NAMES)
async def test_a_thread_may_have_any_name(queue: JobQueue, sync_redis: SyncRedis, thread_id: str) -> None:
    await queue.submit("a", thread_id=thread_id)
    await queue.submit("b", thread_id=thread_id)
    await queue.submit("c", thread_id=thread_id + "'")
    assert await queue.claim_ids() == ["a", "c"]
    assert (await queue.record("a"))["thread_id"] == thread_id
    assert (await queue.store.cancel(TENANT, "b"))[0] == "cancelled"
    assert all(name.isascii() and name.isprintable() for name in (key.decode() for key in sync_redis.keys("*")))


async def test_the_next_starts_when_the_one_ahead_is_cancelled(queue: JobQueue) -> None:
    await queue.submit("a", thread_id="t")
    await queue.submit("b", thread_id="t")
    await queue.store.cancel(TENANT, "a")
    assert await queue.claim_ids() == ["b"]


async def test_a_parked_job_that_is_cancelled_is_not_started(queue: JobQueue) -> None:
    for job_id in "abc":
        await queue.submit(job_id, thread_id="t")
    job = await queue.take()
    await queue.store.cancel(TENANT, "b")
    await queue.finish("w1", job)
    assert await queue.claim_ids() == ["c"]


async def test_a_backoff_keeps_the_place_in_the_thread(queue: JobQueue) -> None:
    await queue.submit("a", thread_id="t")
    await queue.submit("b", thread_id="t")
    await queue.store.release("w1", await queue.take(), "backoff", delay_seconds=5)
    assert await queue.claim_ids() == []
    queue.pass_time(5)
    job = await queue.take()
    assert job.id == "a"
    await queue.finish("w1", job)
    assert await queue.claim_ids() == ["b"]


async def test_a_hand_back_keeps_the_place_in_the_thread(queue: JobQueue) -> None:
    await queue.submit("a", thread_id="t")
    await queue.submit("b", thread_id="t")
    await queue.store.release("w1", await queue.take(), "hand_back")
    assert await queue.claim_ids() == ["a"]


async def test_a_lost_worker_keeps_the_place_in_the_thread_until_tries_run_out(queue: JobQueue) -> None:
    await queue.submit("a", thread_id="t", max_attempts=2)
    await queue.submit("b", thread_id="t")
    for _ in range(2):
        assert (await queue.take("lost")).id == "a"
        await queue.lose_worker()
    assert await queue.claim_ids() == ["b"]


async def test_a_delayed_job_takes_its_place_when_it_is_due(queue: JobQueue) -> None:
    await queue.submit("later", thread_id="t", delay_ms=5_000)
    await queue.submit("a", thread_id="t")
    job = await queue.take()
    assert job.id == "a"
    queue.pass_time(5)
    assert await queue.claim_ids() == []
    await queue.submit("b", thread_id="t")
    await queue.finish("w1", job)
    job = await queue.take()
    assert job.id == "later"
    await queue.finish("w1", job)
    assert await queue.claim_ids() == ["b"]


async def test_a_job_delayed_for_a_week_blocks_nobody(queue: JobQueue, sync_redis: SyncRedis) -> None:
    await queue.submit("next week", thread_id="t", delay_ms=7 * 86_400_000)
    await queue.submit("a", thread_id="t", on_busy="reject")
    await queue.finish("w1", await queue.take())
    assert thread_keys(sync_redis) == []
    queue.pass_time(7 * 86_400)
    assert await queue.claim_ids() == ["next week"]


async def test_a_retried_job_joins_its_thread_at_the_end(queue: JobQueue) -> None:
    await queue.submit("a", thread_id="t")
    await queue.finish("w1", await queue.take(), "failed")
    await queue.submit("b", thread_id="t")
    await queue.submit("c", thread_id="t")
    await queue.store.retry(TENANT, "a")
    for expected in "bca":
        job = await queue.take()
        assert job.id == expected
        await queue.finish("w1", job)


async def test_a_thread_of_several_graphs_is_one_thread(queue: JobQueue) -> None:
    await queue.submit("a", thread_id="t", graph="x")
    await queue.submit("b", thread_id="t", graph="y")
    assert await queue.claim_ids(graphs=["y"]) == []
    await queue.finish("w1", await queue.take(graphs=["x"]))
    assert await queue.claim_ids(graphs=["y"]) == ["b"]


# on_busy


async def test_on_busy_reject_refuses_a_job_of_a_busy_thread(queue: JobQueue) -> None:
    await queue.submit("a", thread_id="t")
    for _ in range(2):  # while it waits, and while it runs
        refused = await queue.submit("b", thread_id="t", on_busy="reject")
        assert (refused.outcome, refused.id) == ("busy", "a")
        jobs = (await queue.claim()).jobs
    assert await queue.record("b") == {}
    assert jobs == []


async def test_on_busy_reject_accepts_a_job_of_a_free_thread(queue: JobQueue) -> None:
    await queue.submit("a", thread_id="t", on_busy="reject")
    await queue.finish("w1", await queue.take())
    assert (await queue.submit("b", thread_id="t", on_busy="reject")).outcome == "created"


async def test_on_busy_queue_waits_in_line(queue: JobQueue) -> None:
    await queue.submit("a", thread_id="t", on_busy="queue")
    await queue.submit("b", thread_id="t", on_busy="queue")
    assert await queue.claim_ids() == ["a"]


@pytest.mark.parametrize("state", ["waiting", "backing off", "interrupted"])
async def test_on_busy_cancel_ends_the_one_ahead_at_once_where_it_does_not_run(queue: JobQueue, state: str) -> None:
    await queue.submit("a", thread_id="t")
    if state == "backing off":
        await queue.store.release("w1", await queue.take(), "backoff", delay_seconds=60)
    elif state == "interrupted":
        await queue.finish("w1", await queue.take(), "interrupted")
    assert (await queue.submit("b", thread_id="t", on_busy="cancel")).outcome == "created"
    assert await queue.status("a") == "cancelled"
    assert await queue.claim_ids() == ["b"]
    queue.pass_time(LEASE_SECONDS - 1)
    assert await queue.claim_ids() == []


@pytest.mark.parametrize("state", ["running", "waiting", "interrupted"])
async def test_on_busy_cancel_tells_the_graph_of_the_job_that_it_ended(queue: JobQueue, state: str) -> None:
    await queue.submit("a", thread_id="t", graph="of-a")
    if state != "waiting":
        job = await queue.take(graphs=["of-a"])
        if state == "interrupted":
            await queue.finish("w1", job, "interrupted")
    answer = await queue.submit("b", thread_id="t", on_busy="cancel")
    assert answer.ended_graph == ("" if state == "running" else "of-a")
    assert (await queue.submit("c", thread_id="free", on_busy="cancel")).ended_graph == ""


async def test_on_busy_cancel_starts_the_next_when_the_running_one_has_ended_and_not_before(queue: JobQueue) -> None:
    await queue.submit("a", thread_id="t")
    job = await queue.take()
    await queue.submit("b", thread_id="t", on_busy="cancel")
    assert queue.renew("w1", job) == ["cancel"]
    assert await queue.claim_ids("w2") == []
    await queue.finish("w1", job, "cancelled")
    assert await queue.claim_ids("w2") == ["b"]


async def test_on_busy_cancel_keeps_the_order_of_those_in_line(queue: JobQueue) -> None:
    for job_id in "abc":
        await queue.submit(job_id, thread_id="t")
    await queue.submit("d", thread_id="t", on_busy="cancel")
    assert await queue.status("a") == "cancelled"
    for expected in "bcd":
        job = await queue.take()
        assert job.id == expected
        await queue.finish("w1", job)
