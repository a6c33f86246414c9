"""Calls of clients that are sent again after a broken connection: the second changes nothing."""

from __future__ import annotations

from tests.job_queue import TENANT, JobQueue


async def test_a_retry_sent_twice_starts_one_round(queue: JobQueue) -> None:
    """Between the two a worker is quick, and the job fails again."""
    await queue.submit("a")
    await queue.finish("w1", await queue.take(), "failed")
    assert await queue.store.retry(TENANT, "a") == ("queued", "queued")
    sent = queue.store.sent
    await queue.finish("w1", await queue.take(), "failed")
    assert await queue.store.send(sent) == [b"queued", b"failed"]
    record = await queue.record("a")
    assert (record["round"], record["status"]) == ("2", "failed")
    assert await queue.store.retry(TENANT, "a") == ("queued", "queued")


async def test_a_resume_sent_twice_answers_one_question(queue: JobQueue) -> None:
    """Between the two a worker is quick, and the job asks something else."""
    await queue.submit("a")
    await queue.finish("w1", await queue.take(), "interrupted")
    assert await queue.store.resume(TENANT, "a", b'"first"') == ("queued", "queued")
    sent = queue.store.sent
    await queue.finish("w1", await queue.take(), "interrupted")
    assert await queue.store.send(sent) == [b"queued", b"interrupted"]
    record = await queue.record("a")
    assert (record["round"], record["status"]) == ("2", "interrupted")
    assert await queue.store.resume(TENANT, "a", b'"second"') == ("queued", "queued")
    assert (await queue.take()).answer == b'"second"'


async def test_an_answer_to_a_round_that_is_over_is_refused(queue: JobQueue) -> None:
    await queue.submit("a")
    await queue.finish("w1", await queue.take(), "interrupted")
    assert await queue.store.resume(TENANT, "a", b"1", round_=1) == ("queued", "queued")
    await queue.finish("w1", await queue.take(), "interrupted")
    assert await queue.store.resume(TENANT, "a", b"1", round_=1) == ("refused", "interrupted")
    assert await queue.store.resume(TENANT, "a", b"1", round_=2) == ("queued", "queued")
