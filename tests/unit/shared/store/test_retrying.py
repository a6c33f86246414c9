"""Retry: another round from the last checkpoint or from the start, and what becomes of the thread."""

from __future__ import annotations

import pytest
from redis import Redis as SyncRedis

from shared.store import Claimed
from shared.store.keys import key
from tests.job_queue import LEASE_SECONDS, TENANT, JobQueue


async def step(queue: JobQueue, job: Claimed, checkpoint: str, worker: str = "w1") -> None:
    """Move the head of the job's thread."""
    assert await queue.store.pin(worker, job, [("", checkpoint, "")])


async def failed(queue: JobQueue, job_id: str, checkpoint: str = "", **options: object) -> Claimed:
    """A job of thread `t` that failed, perhaps after a step."""
    await queue.submit(job_id, thread_id="t", **options)
    job = await queue.take()
    if checkpoint:
        await step(queue, job, checkpoint)
    await queue.finish("w1", job, "failed")
    return job


async def head(queue: JobQueue, job: Claimed) -> tuple[str, str]:
    """The checkpoint that the thread stands at, and the job that moved it last."""
    fields = await queue.store.head(job)
    return fields.get(b"h:", b"").decode(), fields.get(b"job", b"").decode().partition(":")[2]


# Jobs without a thread


async def keep(queue: JobQueue) -> Claimed:
    """A job without a thread that failed and has a checkpoint."""
    await queue.submit("a")
    job = await queue.take()
    assert await queue.store.checkpoint("w1", job, {b"c": b"1"}, [])
    await queue.finish("w1", job, "failed")
    return job


async def test_a_retry_goes_on_from_the_checkpoints(queue: JobQueue) -> None:
    job = await keep(queue)
    await queue.store.retry(TENANT, "a")
    assert await queue.store.checkpoints(job) == {b"c": b"1"}
    assert b"fresh" not in (await queue.take()).record


async def test_a_retry_from_the_start_forgets_the_checkpoints(queue: JobQueue) -> None:
    job = await keep(queue)
    await queue.store.retry(TENANT, "a", "start")
    assert await queue.store.checkpoints(job) == {}
    assert (await queue.take()).record[b"fresh"] == b"2"


async def test_many_are_retried_in_one_round_trip_each_for_itself(queue: JobQueue) -> None:
    await failed(queue, "a", "1")
    await failed(queue, "b", "2")
    await queue.submit("c")
    answers = await queue.store.retry_many(TENANT, ["a", "b", "c", "d"])
    assert answers == [("moved_on", "failed"), ("queued", "queued"), ("refused", "queued"), ("missing", "")]


# The place in the thread


async def test_a_job_that_never_took_a_step_joins_at_the_end_of_the_line(queue: JobQueue) -> None:
    await failed(queue, "a")
    await queue.submit("b", thread_id="t")
    await queue.submit("c", thread_id="t")
    assert await queue.store.retry(TENANT, "a") == ("queued", "queued")
    for expected in "bca":
        job = await queue.take()
        assert job.id == expected
        await step(queue, job, expected)
        await queue.finish("w1", job)


@pytest.mark.parametrize("state", ["waits", "runs", "is interrupted", "backs off"])
async def test_a_thread_has_moved_on_while_another_job_is_in_it(queue: JobQueue, state: str) -> None:
    await failed(queue, "a", "1")
    await queue.submit("b", thread_id="t")
    if state != "waits":
        job = await queue.take()
        if state == "is interrupted":
            await queue.finish("w1", job, "interrupted")
        elif state == "backs off":
            await queue.store.release("w1", job, "backoff", delay_seconds=60)
    assert await queue.store.retry(TENANT, "a") == ("moved_on", "failed")
    assert (await queue.record("a"))["round"] == "1"


async def test_a_thread_has_moved_on_once_another_job_has_moved_its_head(queue: JobQueue) -> None:
    await failed(queue, "a", "1")
    await failed(queue, "b", "2")
    assert await queue.store.retry(TENANT, "a") == ("moved_on", "failed")
    assert await queue.store.retry(TENANT, "b") == ("queued", "queued")


async def test_a_thread_has_not_moved_on_for_a_job_that_ended_without_a_step(queue: JobQueue) -> None:
    await failed(queue, "a", "1")
    await failed(queue, "b")
    assert await queue.store.retry(TENANT, "a") == ("queued", "queued")


async def test_nor_for_a_job_that_is_not_due_yet(queue: JobQueue) -> None:
    await failed(queue, "a", "1")
    await queue.submit("b", thread_id="t", delay_ms=60_000)
    assert await queue.store.retry(TENANT, "a") == ("queued", "queued")


async def test_a_retry_holds_up_those_that_come_after_it(queue: JobQueue) -> None:
    await failed(queue, "a", "1")
    await queue.store.retry(TENANT, "a")
    await queue.submit("b", thread_id="t")
    assert await queue.claim_ids() == ["a"]


# From the start


async def test_from_the_start_the_thread_goes_back_to_where_the_job_found_it(queue: JobQueue) -> None:
    await queue.submit("before", thread_id="t")
    job = await queue.take()
    await step(queue, job, "0")
    await queue.finish("w1", job)
    job = await failed(queue, "a", "1")
    assert await head(queue, job) == ("1", "a")
    assert await queue.store.retry(TENANT, "a", "start") == ("queued", "queued")
    assert await head(queue, job) == ("0", "before")


async def test_from_the_start_a_thread_that_the_job_found_empty_is_empty_again(queue: JobQueue) -> None:
    job = await failed(queue, "a", "1")
    await queue.store.retry(TENANT, "a", "start")
    assert await queue.store.head(job) == {b"job": b""}, "not unknown: what the database has does not count"


async def test_it_is_not_refused_where_the_thread_has_moved_on_and_goes_on_from_there(queue: JobQueue) -> None:
    await failed(queue, "a", "1")
    job = await failed(queue, "b", "2")
    assert await queue.store.retry(TENANT, "a", "start") == ("queued", "queued")
    assert await head(queue, job) == ("2", "b")


async def test_it_takes_the_head_from_nobody_who_is_in_the_thread(queue: JobQueue) -> None:
    job = await failed(queue, "a", "1")
    await queue.submit("b", thread_id="t")
    assert await queue.store.retry(TENANT, "a", "start") == ("queued", "queued")
    assert await head(queue, job) == ("1", "a")
    for expected in "ba":
        job = await queue.take()
        assert job.id == expected
        await queue.finish("w1", job)


async def test_a_second_retry_from_the_start_goes_back_just_as_far(queue: JobQueue) -> None:
    await queue.submit("before", thread_id="t")
    job = await queue.take()
    await step(queue, job, "0")
    await queue.finish("w1", job)
    await failed(queue, "a", "1")
    for _ in range(2):
        await queue.store.retry(TENANT, "a", "start")
        assert await head(queue, job) == ("0", "before")
        job = await queue.take()
        await step(queue, job, "2")
        await queue.store.release("w1", job, "backoff")
        job = await queue.take()
        await step(queue, job, "3")
        await queue.finish("w1", job, "failed")


async def test_jobs_go_back_one_after_the_other_each_to_where_it_found_the_thread(queue: JobQueue) -> None:
    await queue.submit("before", thread_id="t")
    job = await queue.take()
    await step(queue, job, "0")
    await queue.finish("w1", job)
    await failed(queue, "a", "1")
    job = await failed(queue, "b", "2")
    await queue.store.retry(TENANT, "b", "start")
    assert await head(queue, job) == ("1", "a")
    await queue.store.cancel(TENANT, "b")
    await queue.store.retry(TENANT, "a", "start")
    assert await head(queue, job) == ("0", "before")


async def test_after_a_start_from_the_start_nothing_can_be_gone_on_with(queue: JobQueue) -> None:
    """It has not taken a step since, so it is never refused."""
    await failed(queue, "a", "1")
    await queue.store.retry(TENANT, "a", "start")
    await queue.finish("w1", await queue.take(), "failed")
    await failed(queue, "b", "2")
    assert await queue.store.retry(TENANT, "a") == ("queued", "queued")


# The head, under the fence


@pytest.mark.parametrize("worker", ["w1", "w2"])
async def test_a_lost_attempt_moves_no_head_and_keeps_no_checkpoint(queue: JobQueue, worker: str) -> None:
    await queue.submit("a", thread_id="t")
    old = await queue.take("w1")
    await step(queue, old, "1")
    await queue.lose_worker()
    for _ in range(2):  # while nobody runs it, and while another attempt does
        assert await queue.store.pin("w1", old, [("", "late", "")]) is False
        assert await queue.store.checkpoint("w1", old, {b"late": b""}, []) is False
        await queue.claim(worker)
    assert await head(queue, old) == ("1", "a")
    assert await queue.store.checkpoints(old) == {}


async def test_an_ended_attempt_neither(queue: JobQueue) -> None:
    job = await failed(queue, "a", "1")
    assert await queue.store.pin("w1", job, [("", "late", "")]) is False
    assert await queue.store.checkpoint("w1", job, {b"late": b""}, []) is False
    assert await head(queue, job) == ("1", "a")


async def test_checkpoints_change_field_by_field(queue: JobQueue) -> None:
    await queue.submit("a")
    job = await queue.take()
    assert await queue.store.checkpoint("w1", job, {b"1": b"a", b"2": b"\x00\xff"}, [])
    assert await queue.store.checkpoint("w1", job, {b"3": b"c"}, [b"1", b"unknown"])
    assert await queue.store.checkpoints(job) == {b"2": b"\x00\xff", b"3": b"c"}


@pytest.mark.parametrize(("ended", "kept"), [("succeeded", False), ("failed", True), ("interrupted", True)])
async def test_checkpoints_are_kept_while_something_can_go_on_from_them(
    queue: JobQueue, ended: str, kept: bool
) -> None:
    await queue.submit("a")
    job = await queue.take()
    await queue.store.checkpoint("w1", job, {b"c": b"1"}, [])
    await queue.store.release("w1", job, "hand_back")
    await queue.finish("w1", await queue.take(), ended)
    assert bool(await queue.store.checkpoints(job)) is kept


async def test_all_that_is_kept_for_a_retry_goes_with_the_job(queue: JobQueue, sync_redis: SyncRedis) -> None:
    await queue.submit("before", thread_id="t")
    job = await queue.take()
    await step(queue, job, "0")
    await queue.finish("w1", job)
    await keep(queue)
    await failed(queue, "b", "1")
    assert sync_redis.exists(key("checkpoints", f"{TENANT}:a"), key("head_before", f"{TENANT}:b")) == 2
    await queue.store.erase(TENANT, "a")
    await queue.store.erase(TENANT, "b")
    assert sync_redis.exists(key("checkpoints", f"{TENANT}:a"), key("head_before", f"{TENANT}:b")) == 0


async def test_what_a_job_found_is_forgotten_once_it_has_succeeded(queue: JobQueue, sync_redis: SyncRedis) -> None:
    await failed(queue, "a", "0")
    await queue.submit("b", thread_id="t")
    job = await queue.take()
    await step(queue, job, "1")
    name = key("head_before", job.ref)
    assert sync_redis.exists(name)
    await queue.finish("w1", job)
    assert not sync_redis.exists(name)


async def test_a_head_is_moved_through_a_takeover_without_losing_what_was_found(queue: JobQueue) -> None:
    await failed(queue, "a", "0")
    await queue.submit("b", thread_id="t")
    await step(queue, await queue.take("w1"), "1", "w1")
    queue.pass_time(LEASE_SECONDS + 1)
    job = await queue.take("w2")
    await step(queue, job, "2", "w2")
    await queue.finish("w2", job, "failed")
    await queue.store.retry(TENANT, "b", "start")
    assert await head(queue, job) == ("0", "a")
