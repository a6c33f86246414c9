"""Leases: a lost worker's jobs come back, its late writes do not, and a job that may be a killer runs alone."""

from __future__ import annotations

import json

import pytest
from redis import Redis as SyncRedis
from redis.asyncio import Redis

from shared.store.keys import key
from tests.job_queue import GRAPH, LEASE_SECONDS, TENANT, WEBHOOK, JobQueue
from tests.store_audit import audit


async def test_jobs_of_a_lost_worker_are_first_in_line_at_their_old_rank(queue: JobQueue) -> None:
    for job_id in "abc":
        await queue.submit(job_id)
    assert await queue.claim_ids("lost", limit=2) == ["a", "b"]
    rank = (await queue.record("a"))["rank"]
    queue.pass_time(LEASE_SECONDS - 1)
    assert await queue.claim_ids("w2", limit=0) == []
    assert await queue.status("a") == "running"
    queue.pass_time(1.001)
    await queue.submit("d")
    claim = await queue.claim("w2")
    assert [(job.id, job.attempt) for job in claim.jobs] == [("a", 2), ("b", 2), ("c", 1), ("d", 1)]
    assert (await queue.record("a"))["rank"] == rank
    assert (await queue.record("a"))["tries"] == "2"


async def test_a_worker_that_has_just_connected_leaves_expired_leases_alone(queue: JobQueue) -> None:
    await queue.submit("a")
    job = await queue.take()
    queue.pass_time(LEASE_SECONDS + 60)
    assert await queue.claim_ids("w2", recover=False) == []
    assert queue.renew("w1", job) == ["held"]
    assert await queue.claim_ids("w2", recover=True) == []


async def test_a_lost_attempt_can_write_nothing_more(queue: JobQueue, sync_redis: SyncRedis) -> None:
    await queue.submit("a", fields=WEBHOOK)
    old = await queue.take("w1")
    await queue.lose_worker()
    before = await queue.record("a")
    events = sync_redis.lrange(key("events", old.ref), 0, -1)

    assert await queue.store.append("w1", old, [b'{"late":1}']) is False
    assert await queue.finish("w1", old, output=b'"late"', events=[b"late"]) == "gone"
    assert await queue.finish("w1", old, "interrupted", events=[b"late"]) == "gone"
    assert await queue.store.release("w1", old, "hand_back", events=[b"late"]) == "gone"
    assert await queue.store.release("w1", old, "backoff", delay_seconds=5, events=[b"late"]) == "gone"
    assert queue.renew("w1", old) == ["gone"]
    assert await queue.record("a") == before
    assert sync_redis.lrange(key("events", old.ref), 0, -1) == events


@pytest.mark.parametrize("worker", ["w1", "w2"])
async def test_nor_while_another_attempt_runs_on_whichever_worker(queue: JobQueue, worker: str) -> None:
    await queue.submit("a")
    old = await queue.take("w1")
    await queue.lose_worker()
    new = await queue.take(worker)
    assert new.attempt == old.attempt + 1
    assert await queue.store.append("w1", old, [b"late"]) is False
    assert await queue.finish("w1", old) == "gone"
    assert await queue.store.release("w1", old, "hand_back") == "gone"
    assert queue.renew("w1", old) == ["gone"]
    assert await queue.finish("impostor", new) == "gone"
    assert queue.renew(worker, new) == ["held"]
    assert await queue.finish(worker, new, output=b'"ours"') == "done"


async def test_nor_after_the_job_has_ended_without_it(queue: JobQueue) -> None:
    await queue.submit("a", max_attempts=1)
    old = await queue.take("w1")
    await queue.lose_worker()
    assert await queue.status("a") == "failed"
    assert await queue.finish("w1", old, output=b'"late"') == "gone"
    assert await queue.store.release("w1", old, "hand_back") == "gone"
    assert await queue.status("a") == "failed"


async def test_a_job_that_loses_its_workers_as_often_as_allowed_fails(queue: JobQueue) -> None:
    await queue.submit("a", max_attempts=2, fields=WEBHOOK)
    for attempt in (1, 2):
        assert (await queue.take(f"w{attempt}")).attempt == attempt
        await queue.lose_worker()
    record = await queue.record("a")
    assert record["status"] == "failed"
    error = json.loads(record["error"])
    assert (error["code"], error["retryable"]) == ("worker_lost", True)
    assert await queue.delivery_types("a") == ["job.failed"]
    assert await queue.claim_ids() == []


async def test_a_claim_names_the_jobs_that_it_ended(queue: JobQueue) -> None:
    await queue.submit("a", max_attempts=1)
    await queue.submit("b")
    await queue.claim("lost")
    await queue.store.cancel(TENANT, "b")
    queue.pass_time(LEASE_SECONDS + 1)
    claim = await queue.claim("w2")
    assert sorted((ended.ref, ended.graph, ended.status) for ended in claim.ended) == [
        ("acme:a", GRAPH, "failed"), ("acme:b", GRAPH, "cancelled"),
    ]  # fmt: skip


async def test_a_lost_job_that_was_to_be_cancelled_is_cancelled(queue: JobQueue) -> None:
    await queue.submit("a", fields=WEBHOOK)
    old = await queue.take("lost")
    await queue.store.cancel(TENANT, "a")
    await queue.lose_worker()
    assert await queue.status("a") == "cancelled"
    assert await queue.claim_ids() == []
    assert await queue.delivery_types("a") == ["job.cancelled"]
    assert await queue.finish("lost", old) == "gone"


# Renewal


async def test_renewal_lengthens_the_lease(queue: JobQueue) -> None:
    await queue.submit("a")
    job = await queue.take("w1")
    for _ in range(3):
        queue.pass_time(LEASE_SECONDS - 1)
        assert queue.renew("w1", job) == ["held"]
        assert await queue.claim_ids("w2") == []
    assert await queue.finish("w1", job) == "done"


async def test_renewal_tells_of_each_job_whether_it_is_held_cancelled_or_gone(queue: JobQueue) -> None:
    for job_id in "abc":
        await queue.submit(job_id)
    held, cancelled, ended = (await queue.claim("w1")).jobs
    await queue.store.cancel(TENANT, cancelled.id)
    await queue.finish("w1", ended)
    assert queue.renew("w1", held, cancelled, ended) == ["held", "cancel", "gone"]
    assert queue.renew("w2", held) == ["gone"]
    assert queue.renew("w1") == []


async def test_renewal_revives_nothing(queue: JobQueue, sync_redis: SyncRedis) -> None:
    await queue.submit("a")
    job = await queue.take("w1")
    await queue.finish("w1", job)
    assert queue.renew("w1", job) == ["gone"]
    assert sync_redis.zcard(key("leases")) == 0


# The last allowed try of a job that lost a worker


async def lose_once(queue: JobQueue, job_id: str) -> None:
    """Bring a job to its last try, after it has lost a worker."""
    await queue.submit(job_id, max_attempts=2)
    await queue.take("lost")
    await queue.lose_worker()


async def test_the_last_try_of_a_job_that_lost_a_worker_runs_alone(queue: JobQueue) -> None:
    await lose_once(queue, "killer")
    await queue.submit("b")
    claim = await queue.claim("w1")
    assert [(job.id, job.alone) for job in claim.jobs] == [("killer", True)]
    assert await queue.claim_ids("w2") == ["b"]
    await queue.finish("w1", claim.jobs[0])
    assert await queue.status("killer") == "succeeded"


async def make_busy(queue: JobQueue, *workers: str) -> None:
    """Give each worker a job of a graph of its own, with a fresh lease."""
    for worker in workers:
        await queue.submit(f"of {worker}", graph=f"of-{worker}")
        await queue.take(worker, graphs=[f"of-{worker}"])


async def test_a_busy_worker_holds_back_to_become_free_for_it(queue: JobQueue) -> None:
    await lose_once(queue, "killer")
    await make_busy(queue, "w1")
    await queue.submit("b")
    claim = await queue.claim("w1")
    assert (claim.jobs, claim.hold) == ([], True)
    claim = await queue.claim("w1")
    assert (claim.jobs, claim.hold) == ([], True)


async def test_only_one_busy_worker_holds_back_for_as_long_as_it_claims(queue: JobQueue) -> None:
    await lose_once(queue, "killer")
    await make_busy(queue, "w1", "w2")
    for n in range(3):
        await queue.submit(f"b{n}")
        assert (await queue.claim("w1", recover=False)).hold
        assert await queue.claim_ids("w2", recover=False) == [f"b{n}"]


async def test_a_hold_is_kept_alive_by_the_claims_of_its_worker(queue: JobQueue, sync_redis: SyncRedis) -> None:
    await lose_once(queue, "killer")
    await make_busy(queue, "w1")
    await queue.claim("w1")
    name = key("solo", "default", GRAPH) + ":for"
    assert 0 < sync_redis.pttl(name) <= LEASE_SECONDS * 1000
    sync_redis.pexpire(name, 500)
    await queue.claim("w1")
    assert sync_redis.pttl(name) > 5000


async def test_an_idle_worker_takes_it_before_the_one_that_holds_back(queue: JobQueue) -> None:
    await lose_once(queue, "killer")
    await make_busy(queue, "w1")
    await queue.submit("b")
    assert (await queue.claim("w1")).hold
    claim = await queue.claim("idle")
    assert [(job.id, job.alone) for job in claim.jobs] == [("killer", True)]
    claim = await queue.claim("w1")
    assert ([job.id for job in claim.jobs], claim.hold) == (["b"], False)


async def test_a_worker_that_holds_back_wakes_an_idle_one(queue: JobQueue, blocking: Redis) -> None:
    await lose_once(queue, "killer")
    await make_busy(queue, "w1")
    await queue.redis.delete(key("wake", "default", GRAPH))
    await queue.claim("w1")
    assert await queue.redis.llen(key("wake", "default", GRAPH)) == 1
    await queue.claim("w1")
    assert await queue.redis.llen(key("wake", "default", GRAPH)) == 1, "or two workers wake each other forever"


async def test_a_last_try_after_an_ordinary_failure_runs_beside_others(queue: JobQueue) -> None:
    await queue.submit("a", max_attempts=2)
    await queue.submit("b")
    first, _ = (await queue.claim("w1")).jobs
    await queue.store.release("w1", first, "backoff", delay_seconds=1)
    queue.pass_time(1)
    (again,) = (await queue.claim("w1")).jobs
    assert (again.id, again.alone) == ("a", False)


async def test_a_job_that_runs_alone_keeps_its_place_in_its_thread(queue: JobQueue) -> None:
    await queue.submit("a", max_attempts=2, thread_id="t")
    await queue.submit("b", thread_id="t")
    await queue.take("lost")
    await queue.lose_worker()
    killer = await queue.take("w1")
    assert (killer.id, killer.alone) == ("a", True)
    await queue.finish("w1", killer)
    assert await queue.claim_ids("w1") == ["b"]


async def test_a_job_that_waits_to_run_alone_can_be_cancelled(queue: JobQueue) -> None:
    await lose_once(queue, "killer")
    assert (await queue.store.cancel(TENANT, "killer"))[0] == "cancelled"
    assert audit(queue.sync_redis) == []
    assert await queue.claim_ids() == []


async def test_queue_state_counts_the_jobs_that_must_run_alone(queue: JobQueue, sync_redis: SyncRedis) -> None:
    sync_redis.hset(key("catalogue"), GRAPH, "{}")
    await lose_once(queue, "killer")
    assert (await queue.store.queue_state())[0] == {"default": 1}
