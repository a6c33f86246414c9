"""Claim: which jobs a worker gets, and in which order."""

from __future__ import annotations

import asyncio

import pytest
from redis import Redis as SyncRedis
from redis.asyncio import Redis

from shared.store.keys import key
from tests.job_queue import GRAPH, LEASE_SECONDS, TENANT, JobQueue


async def test_jobs_are_claimed_by_rank(queue: JobQueue) -> None:
    for job_id, priority in [("a", 0), ("b", 5), ("c", 0), ("d", 9)]:
        await queue.submit(job_id, priority=priority)
    assert await queue.claim_ids(limit=3) == ["d", "b", "a"]
    assert await queue.claim_ids(limit=3) == ["c"]


async def test_by_rank_also_across_the_graphs_of_a_tenant(queue: JobQueue) -> None:
    for job_id, graph in [("a", "x"), ("b", "y"), ("c", "y"), ("d", "x")]:
        await queue.submit(job_id, graph=graph)
    assert await queue.claim_ids(graphs=["y", "x"]) == ["a", "b", "c", "d"]


async def test_a_claimed_job_is_leased_to_its_worker(queue: JobQueue, sync_redis: SyncRedis) -> None:
    await queue.submit("a", payload=b'{"text":"hi"}')
    claim = await queue.claim("w1")
    (job,) = claim.jobs
    assert (job.ref, job.tenant, job.id, job.graph, job.attempt) == ("acme:a", TENANT, "a", GRAPH, 1)
    assert (job.payload, job.alone) == (b'{"text":"hi"}', False)
    assert {name: job.record[name] for name in (b"status", b"attempt", b"tries", b"worker")} == {
        b"status": b"running", b"attempt": b"1", b"tries": b"1", b"worker": b"w1",
    }  # fmt: skip
    assert int(job.record[b"started_at"]) == claim.now_ms
    assert sync_redis.zscore(key("leases"), job.ref) == claim.now_ms + LEASE_SECONDS * 1000
    assert (claim.hold, claim.ended, claim.next_seconds) == (False, [], LEASE_SECONDS)


async def test_a_worker_gets_only_jobs_of_its_graphs_and_queues(queue: JobQueue) -> None:
    await queue.submit("a", graph="x", queue="fast")
    await queue.submit("b", graph="y", queue="fast")
    await queue.submit("c", graph="x", queue="slow")
    assert await queue.claim_ids(graphs=["x"], queues=["fast"]) == ["a"]
    assert await queue.claim_ids(graphs=["x"], queues=["other"]) == []
    assert await queue.claim_ids(graphs=[], queues=["fast", "slow"]) == []
    assert await queue.claim_ids(graphs=["x", "y"], queues=["fast", "slow"]) == ["b", "c"]


async def test_queues_are_served_in_the_order_they_are_given(queue: JobQueue) -> None:
    await queue.submit("a", queue="slow")
    await queue.submit("b", queue="fast")
    assert await queue.claim_ids(queues=["fast", "slow"], limit=1) == ["b"]


async def test_a_small_tenant_is_served_beside_a_large_one(queue: JobQueue) -> None:
    await queue.store.submit_many([queue.new(f"a{n}", tenant="a") for n in range(1000)])
    await queue.store.submit_many([queue.new(f"b{n}", tenant="b") for n in range(5)])
    claimed = await queue.claim_ids(limit=20)
    assert [place for place, job_id in enumerate(claimed) if job_id.startswith("b")] == [1, 3, 5, 7, 9]


@pytest.mark.parametrize("limit", [1, 2, 4])
async def test_tenants_take_turns_from_claim_to_claim(queue: JobQueue, limit: int) -> None:
    for tenant, count in [("a", 30), ("b", 8), ("c", 8)]:
        await queue.store.submit_many([queue.new(f"{tenant}{n}", tenant=tenant) for n in range(count)])
    claimed = []
    while len(claimed) < 24:
        claimed += [job.tenant for job in (await queue.claim(limit=limit)).jobs]
    for turn in range(0, 24, 3):
        assert sorted(claimed[turn : turn + 3]) == ["a", "b", "c"], claimed


async def test_a_tenant_that_comes_back_after_an_hour_is_first_in_turn(queue: JobQueue, sync_redis: SyncRedis) -> None:
    await queue.submit("a", tenant="a")
    await queue.finish("w1", await queue.take())
    queue.pass_time(3601)
    await queue.submit("b", tenant="b")
    await queue.claim()
    assert sync_redis.zrange(key("turns", "default"), 0, -1) == [b"b"]


async def test_a_claim_stops_once_its_payloads_are_large_enough(queue: JobQueue) -> None:
    for job_id in "abcd":
        await queue.submit(job_id, payload=b"x" * 1000)
    assert await queue.claim_ids(max_bytes=1500) == ["a", "b"]
    assert await queue.claim_ids(max_bytes=1) == ["c"]


# A record that cannot be read, or not by this worker


async def garble(redis: Redis, ref: str, how: str) -> None:
    """Spoil a job's record in Redis."""
    name = key("job", ref)
    if how == "missing":
        await redis.delete(name)
    elif how == "not a hash":
        await redis.delete(name)
        await redis.set(name, "garbage")
    elif how == "another graph":
        await redis.hset(name, "graph", "another")
    elif how == "another status":
        await redis.hset(name, "status", "succeeded")
    else:
        await redis.hset(name, how, "garbage")


GARBLED = ["missing", "not a hash", "another graph", "another status", "v", "rank", "created_at", "attempt", "tries",
           "max_attempts", "round", "lost"]  # fmt: skip


@pytest.mark.parametrize("how", GARBLED)
async def test_a_waiting_job_that_cannot_be_read_fails_alone(queue: JobQueue, how: str) -> None:
    await queue.submit("a")
    await queue.submit("b")
    await garble(queue.redis, "acme:a", how)
    claim = await queue.claim()
    assert [job.id for job in claim.jobs] == ["b"]
    assert [(ended.ref, ended.graph, ended.status) for ended in claim.ended] == [("acme:a", GRAPH, "failed")]
    assert '"code":"unreadable_record"' in (await queue.record("a"))["error"]


@pytest.mark.parametrize("how", ["missing", "not a hash", "another status", "v"])
async def test_so_does_a_delayed_one(queue: JobQueue, how: str) -> None:
    await queue.submit("a", delay_ms=1000)
    await queue.submit("b", delay_ms=1000)
    await garble(queue.redis, "acme:a", how)
    queue.pass_time(1.1)
    assert await queue.claim_ids() == ["b"]
    assert await queue.status("a") == "failed"


@pytest.mark.parametrize("how", ["missing", "not a hash", "v"])
async def test_so_does_one_of_a_lost_worker(queue: JobQueue, how: str) -> None:
    await queue.submit("a")
    await queue.submit("b")
    await queue.claim("lost")
    await garble(queue.redis, "acme:a", how)
    queue.pass_time(LEASE_SECONDS + 1)
    assert await queue.claim_ids() == ["b"]
    assert await queue.status("a") == "failed"


@pytest.mark.parametrize("how", ["missing", "not a hash", "v"])
async def test_so_does_one_that_waits_behind_its_thread(queue: JobQueue, how: str) -> None:
    for job_id in "abc":
        await queue.submit(job_id, thread_id="t")
    holder = await queue.take()
    await garble(queue.redis, "acme:b", how)
    await queue.finish("w1", holder)
    assert await queue.claim_ids() == ["c"]
    assert await queue.status("b") == "failed"


async def test_what_can_be_saved_of_a_record_is_kept(queue: JobQueue) -> None:
    await queue.submit("a", thread_id="t", fields={"webhook_url": "https://example.com/hook", "metadata": '{"n":1}'})
    await queue.submit("b", thread_id="t")
    await garble(queue.redis, "acme:a", "v")
    await queue.claim()
    assert await queue.claim_ids() == ["b"]
    assert (await queue.record("a"))["metadata"] == '{"n":1}'
    assert await queue.delivery_types("a") == ["job.failed"]


async def test_many_unreadable_jobs_do_not_hide_the_ones_behind_them(queue: JobQueue, blocking: Redis) -> None:
    for n in range(5):
        await queue.submit(f"garbage {n}")
    await queue.submit("good")
    for n in range(5):
        await garble(queue.redis, f"acme:garbage {n}", "missing")
    claimed: list[str] = []
    while not claimed:
        await asyncio.wait_for(queue.store.wait_for_work(blocking, ["default"], [GRAPH], 30), 5)
        claimed = await queue.claim_ids(limit=1)
    assert claimed == ["good"]


async def test_a_worker_leaves_records_of_a_newer_version_alone(queue: JobQueue) -> None:
    await queue.submit("newer")
    await queue.submit("ours")
    await queue.redis.hset(key("job", "acme:newer"), "v", "99")
    before = await queue.record("newer")
    claim = await queue.claim()
    assert [job.id for job in claim.jobs] == ["ours"]
    assert claim.ended == []
    assert await queue.record("newer") == before


async def test_renewal_bears_a_record_that_cannot_be_read(queue: JobQueue) -> None:
    await queue.submit("a")
    await queue.submit("b")
    first, second = (await queue.claim()).jobs
    await garble(queue.redis, first.ref, "not a hash")
    assert queue.renew("w1", first, second) == ["held", "held"]
    assert await queue.finish("w1", first) == "gone"
    queue.pass_time(LEASE_SECONDS + 1)
    await queue.claim(limit=0)
    assert await queue.status("a") == "failed"


async def test_a_thread_whose_holder_was_deleted_by_hand_is_not_busy_forever(queue: JobQueue) -> None:
    await queue.submit("a", thread_id="t")
    await garble(queue.redis, "acme:a", "missing")
    assert (await queue.submit("b", thread_id="t", on_busy="reject")).outcome == "created"
    assert await queue.claim_ids() == ["b"]
