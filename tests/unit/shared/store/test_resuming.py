"""Resume: the answer of a person starts another round, and is there for as long as that round needs it."""

from __future__ import annotations

import pytest
from redis import Redis as SyncRedis

from shared.store import Claimed
from shared.store.keys import key
from tests.job_queue import GRAPH, LEASE_SECONDS, TENANT, WEBHOOK, JobQueue

ANSWER = b'{"approved":true}'


async def interrupt(queue: JobQueue, job_id: str = "a", **options: object) -> Claimed:
    """A job that waits for a person, and its attempt."""
    await queue.submit(job_id, **options)
    job = await queue.take()
    await queue.finish("w1", job, "interrupted", fields={"interrupts": b'[{"id":"q"}]', "usage": b"{}"})
    return job


async def resumed(queue: JobQueue, **options: object) -> Claimed:
    """A job that runs with its answer."""
    await interrupt(queue, **options)
    assert await queue.store.resume(TENANT, "a", ANSWER) == ("queued", "queued")
    return await queue.take()


def answer_kept(redis: SyncRedis) -> bytes | None:
    value: bytes | None = redis.get(key("resume", f"{TENANT}:a"))
    return value


async def test_a_resume_starts_a_round_with_the_answer_and_nothing_of_the_last_round(queue: JobQueue) -> None:
    await interrupt(queue, max_attempts=1)
    await queue.store.resume(TENANT, "a", ANSWER)
    record = await queue.record("a")
    assert (record["status"], record["round"], record["tries"], record["attempt"]) == ("queued", "2", "0", "1")
    assert not record.keys() & {"interrupts", "usage", "finished_at", "started_at"}
    job = await queue.take()
    assert (job.answer, job.round, job.attempt) == (ANSWER, 2, 2)


async def test_the_questions_that_were_open_are_kept_with_the_answer(queue: JobQueue) -> None:
    assert (await resumed(queue)).record[b"asked"] == b'[{"id":"q"}]'


async def test_a_first_attempt_has_no_answer(queue: JobQueue) -> None:
    await queue.submit("a")
    assert (await queue.take()).answer == b""


@pytest.mark.parametrize("how", ["hand back", "back off", "lost worker", "disowned"])
async def test_each_attempt_of_the_round_is_given_the_answer(queue: JobQueue, how: str) -> None:
    job = await resumed(queue)
    if how == "lost worker":
        await queue.lose_worker()
    elif how == "disowned":
        await queue.store.disown("w1", 1, [])
    else:
        await queue.store.release("w1", job, "hand_back" if how == "hand back" else "backoff")
    assert (await queue.take("w2", number=2)).answer == ANSWER


@pytest.mark.parametrize("ended", ["failed", "cancelled"])
async def test_a_retry_from_the_last_checkpoint_is_given_the_answer_again(queue: JobQueue, ended: str) -> None:
    await queue.finish("w1", await resumed(queue), ended)
    assert await queue.store.retry(TENANT, "a") == ("queued", "queued")
    assert (await queue.take()).answer == ANSWER


async def test_a_retry_from_the_start_is_not(queue: JobQueue, sync_redis: SyncRedis) -> None:
    await queue.finish("w1", await resumed(queue), "failed")
    await queue.store.retry(TENANT, "a", "start")
    assert answer_kept(sync_redis) is None
    job = await queue.take()
    assert job.answer == b""
    assert not job.record.keys() & {b"resumed", b"asked"}


@pytest.mark.parametrize(
    ("ended", "kept"), [("interrupted", False), ("succeeded", False), ("failed", True), ("cancelled", True)]
)
async def test_an_answer_is_gone_once_it_has_been_used(
    queue: JobQueue, sync_redis: SyncRedis, ended: str, kept: bool
) -> None:
    job = await resumed(queue)
    assert answer_kept(sync_redis) == ANSWER
    await queue.finish("w1", job, ended)
    assert answer_kept(sync_redis) == (ANSWER if kept else None)


async def test_the_next_question_gets_its_own_answer(queue: JobQueue) -> None:
    await queue.finish("w1", await resumed(queue), "interrupted")
    await queue.store.resume(TENANT, "a", b'"another"')
    assert (await queue.take()).answer == b'"another"'


async def test_the_answer_goes_with_the_job(queue: JobQueue, sync_redis: SyncRedis) -> None:
    await queue.finish("w1", await resumed(queue), "failed")
    await queue.store.erase(TENANT, "a")
    assert answer_kept(sync_redis) is None


async def test_only_an_interrupted_job_can_be_resumed(queue: JobQueue, sync_redis: SyncRedis) -> None:
    assert await queue.store.resume(TENANT, "a", ANSWER) == ("missing", "")
    await queue.submit("a")
    assert await queue.store.resume(TENANT, "a", ANSWER) == ("refused", "queued")
    job = await queue.take()
    assert await queue.store.resume(TENANT, "a", ANSWER) == ("refused", "running")
    await queue.finish("w1", job, "failed")
    assert await queue.store.resume(TENANT, "a", ANSWER) == ("refused", "failed")
    assert answer_kept(sync_redis) is None


async def test_a_resumed_job_has_kept_its_thread_and_its_rank(queue: JobQueue) -> None:
    await interrupt(queue, thread_id="t")
    await queue.submit("b", thread_id="t")
    await queue.submit("c")
    assert await queue.claim_ids() == ["c"]
    await queue.store.resume(TENANT, "a", ANSWER)
    await queue.submit("d")
    claim = await queue.claim("w2")
    assert [job.id for job in claim.jobs] == ["a", "d"]
    await queue.finish("w2", claim.jobs[0])
    assert await queue.claim_ids() == ["b"]


async def test_each_round_has_its_delivery(queue: JobQueue) -> None:
    job = await resumed(queue, fields=WEBHOOK)
    await queue.finish("w1", job)
    ids = [delivery["id"] for delivery in await queue.log.of_job(TENANT, "a")]
    assert ids == ["a_1_interrupted", "a_2_succeeded"]


async def test_a_late_end_of_the_interrupted_attempt_changes_nothing(queue: JobQueue) -> None:
    old = await interrupt(queue)
    await queue.store.resume(TENANT, "a", ANSWER)
    assert await queue.finish("w1", old, "interrupted") == "gone"
    new = await queue.take("w2")
    assert await queue.finish("w1", old) == "gone"
    assert await queue.finish("w2", new) == "done"


# A cancel instead of an answer


@pytest.mark.parametrize("how", ["cancel", "on_busy"])
async def test_a_cancel_of_an_interrupted_job_ends_a_round_of_its_own(queue: JobQueue, how: str) -> None:
    await interrupt(queue, thread_id="t", fields=WEBHOOK)
    if how == "cancel":
        assert await queue.store.cancel(TENANT, "a") == ("cancelled", "cancelled", GRAPH)
    else:
        assert (await queue.submit("b", thread_id="t", on_busy="cancel")).ended_graph == GRAPH
    record = await queue.record("a")
    assert (record["status"], record["round"]) == ("cancelled", "2")
    ids = [delivery["id"] for delivery in await queue.log.of_job(TENANT, "a")]
    assert ids == ["a_1_interrupted", "a_2_cancelled"]


async def test_a_cancelled_job_that_waited_for_an_answer_can_be_retried_and_asks_again(queue: JobQueue) -> None:
    await interrupt(queue, thread_id="t")
    await queue.store.cancel(TENANT, "a")
    assert await queue.store.retry(TENANT, "a") == ("queued", "queued")
    job = await queue.take()
    assert (job.round, job.answer) == (3, b"")
    queue.pass_time(LEASE_SECONDS - 1)
    assert await queue.finish("w1", job, "interrupted") == "done"
