"""A claim whose reply was lost: what it took is handed back, and costs no try."""

from __future__ import annotations

import pytest
from redis import Redis as SyncRedis

from shared.store.keys import key
from tests.job_queue import GRAPH, TENANT, WEBHOOK, JobQueue


async def test_what_the_worker_does_not_know_is_handed_back_at_its_old_rank(queue: JobQueue) -> None:
    for job_id in "abc":
        await queue.submit(job_id, max_attempts=1)
    await queue.claim("w1", limit=2)
    handed_back = await queue.store.disown("w1", 1, [])
    assert sorted((job.ref, job.graph, job.status) for job in handed_back) == [
        ("acme:a", GRAPH, "queued"), ("acme:b", GRAPH, "queued"),
    ]  # fmt: skip
    assert (await queue.record("a"))["tries"] == "0"
    claim = await queue.claim("w2")
    assert [(job.id, job.attempt, job.record[b"tries"]) for job in claim.jobs] == [
        ("a", 2, b"1"), ("b", 2, b"1"), ("c", 1, b"1"),
    ]  # fmt: skip


async def test_the_attempt_that_nobody_knew_of_has_no_lease_any_more(queue: JobQueue) -> None:
    await queue.submit("a")
    unknown = await queue.take("w1")
    await queue.store.disown("w1", 1, [])
    assert queue.renew("w1", unknown) == ["gone"]
    assert await queue.finish("w1", unknown) == "gone"
    assert await queue.store.append("w1", unknown, [b"{}"]) is False


async def test_what_the_worker_knows_is_not_touched(queue: JobQueue) -> None:
    await queue.submit("a")
    known = await queue.take("w1")
    await queue.submit("b")
    await queue.take("w1", number=2)
    (disowned,) = await queue.store.disown("w1", 2, [(known.ref, known.attempt)])
    assert disowned.ref == "acme:b"
    assert queue.renew("w1", known) == ["held"]
    assert await queue.finish("w1", known) == "done"


async def test_an_earlier_attempt_that_the_worker_knows_does_not_stand_for_a_later_one(queue: JobQueue) -> None:
    await queue.submit("a")
    old = await queue.take("w1")
    await queue.lose_worker()
    assert (await queue.take("w1", number=2)).attempt == 2
    (disowned,) = await queue.store.disown("w1", 2, [(old.ref, old.attempt)])
    assert disowned.ref == old.ref


async def test_jobs_of_other_workers_are_not_touched(queue: JobQueue) -> None:
    await queue.submit("a")
    job = await queue.take("w2")
    assert await queue.store.disown("w1", 9, []) == []
    assert queue.renew("w2", job) == ["held"]


async def test_a_job_that_was_to_be_cancelled_is_cancelled(queue: JobQueue) -> None:
    await queue.submit("a", fields=WEBHOOK)
    await queue.claim("w1")
    await queue.store.cancel(TENANT, "a")
    (disowned,) = await queue.store.disown("w1", 1, [])
    assert disowned.status == "cancelled"
    assert await queue.status("a") == "cancelled"
    assert await queue.claim_ids("w2") == []
    assert await queue.delivery_types("a") == ["job.cancelled"]


async def test_a_claim_that_arrives_after_it_takes_nothing(queue: JobQueue) -> None:
    await queue.submit("a", delay_ms=1)
    await queue.submit("b")
    queue.pass_time(1)
    await queue.store.disown("w1", 2, [])
    claim = await queue.claim("w1", number=2)
    assert (claim.jobs, claim.ended, claim.hold) == ([], [], False)
    assert (await queue.claim("w1", number=1)).jobs == []
    assert await queue.claim_ids("w1", number=3) == ["a", "b"]


async def test_nor_does_it_put_back_the_jobs_of_lost_workers(queue: JobQueue) -> None:
    await queue.submit("a")
    job = await queue.take("lost")
    await queue.store.disown("w1", 1, [])
    queue.pass_time(60)
    await queue.claim("w1", number=1)
    assert queue.renew("lost", job) == ["held"]


async def test_claims_of_other_workers_are_not_void(queue: JobQueue) -> None:
    await queue.submit("a")
    await queue.store.disown("w1", 9, [])
    assert await queue.claim_ids("w2", number=1) == ["a"]


async def test_the_void_number_is_forgotten_in_time(queue: JobQueue, sync_redis: SyncRedis) -> None:
    await queue.store.disown("w1", 1, [])
    assert 0 < sync_redis.pttl(key("claims", "w1")) <= 3_600_000


async def test_a_job_that_must_run_alone_still_must(queue: JobQueue) -> None:
    await queue.submit("killer", max_attempts=2)
    await queue.take("lost")
    await queue.lose_worker()
    assert (await queue.take("w1")).alone
    await queue.store.disown("w1", 1, [])
    await queue.submit("b")
    claim = await queue.claim("w1", number=2)
    assert [(job.id, job.alone) for job in claim.jobs] == [("killer", True)]


async def test_a_job_keeps_its_place_in_its_thread(queue: JobQueue) -> None:
    await queue.submit("a", thread_id="t")
    await queue.submit("b", thread_id="t")
    await queue.claim("w1")
    await queue.store.disown("w1", 1, [])
    assert await queue.claim_ids("w2") == ["a"]


@pytest.mark.parametrize("times", [1, 2])
async def test_it_may_be_sent_twice(queue: JobQueue, times: int) -> None:
    await queue.submit("a")
    await queue.claim("w1")
    answers = [await queue.store.disown("w1", 1, []) for _ in range(times)]
    assert [len(answer) for answer in answers] == [1, 0][:times]
    assert (await queue.record("a"))["tries"] == "0"
