"""A tenant that may run so many jobs at once: no more run, others have their share, and none is in limbo."""

from __future__ import annotations

import pytest
from redis import Redis as SyncRedis

from shared.store import TenantLimits
from shared.store.keys import key
from tests.job_queue import GRAPH, LEASE_SECONDS, TENANT, JobQueue
from tests.store_audit import audit


async def limit(queue: JobQueue, most: int | None) -> None:
    await queue.tenants.put(TENANT, TenantLimits(max_running=most))


def tokens(redis: SyncRedis, queue: str = "default", graph: str = GRAPH) -> int:
    return int(redis.llen(key("wake", queue, graph)))  # type: ignore[arg-type]


async def test_no_more_than_the_limit_run_over_all_workers_queues_and_graphs(queue: JobQueue) -> None:
    await limit(queue, 3)
    for number in range(8):
        await queue.submit(f"job{number}", queue=f"q{number % 2}", graph=f"g{number % 2}")
    claims = [
        await queue.claim_ids(f"w{number}", limit=2, queues=["q0", "q1"], graphs=["g0", "g1"]) for number in range(4)
    ]
    assert [len(claim) for claim in claims] == [2, 1, 0, 0]


async def test_others_have_the_slots_that_a_limited_tenant_may_not_have(queue: JobQueue) -> None:
    await limit(queue, 1)
    for number in range(3):
        await queue.submit(f"mine{number}")
        await queue.submit(f"other{number}", tenant="other")
    claimed = await queue.claim_ids(limit=10)
    assert sorted(claimed) == ["mine0", "other0", "other1", "other2"]


@pytest.mark.parametrize("how", ["finish", "fail", "interrupt", "hand back", "back off", "lose", "raise", "drop"])
async def test_whoever_frees_a_place_wakes_who_may_take_the_next_job(
    queue: JobQueue, sync_redis: SyncRedis, how: str
) -> None:
    await limit(queue, 1)
    for number in range(2):
        await queue.submit(f"job{number}")
    job = await queue.take("w1")
    assert await queue.claim_ids("w2") == []
    assert tokens(sync_redis) == 0, "nobody is woken in vain"
    if how in {"raise", "drop"}:
        await limit(queue, 2 if how == "raise" else None)
    elif how == "lose":
        queue.pass_time(LEASE_SECONDS + 1)
        assert await queue.claim_ids("w3", limit=0) == []
    elif how in {"hand back", "back off"}:
        kind = "hand_back" if how == "hand back" else "backoff"
        await queue.store.release("w1", job, kind, delay_seconds=60 * (how == "back off"))  # type: ignore[arg-type]
    else:
        ends = {"finish": "succeeded", "fail": "failed", "interrupt": "interrupted"}
        assert await queue.finish("w1", job, ends[how], fields={"interrupts": b"[]"}) == "done"
    assert tokens(sync_redis) >= 1
    comes_first = "job0" if how in {"hand back", "lose"} else "job1"
    assert await queue.claim_ids("w2") == [comes_first]
    assert audit(sync_redis) == []


async def test_the_lanes_of_all_queues_and_graphs_that_were_passed_over_are_woken(
    queue: JobQueue, sync_redis: SyncRedis
) -> None:
    await limit(queue, 1)
    await queue.submit("first")
    await queue.submit("second", queue="another", graph="other")
    job = await queue.take("w1")
    assert await queue.claim_ids("w2", queues=["another"], graphs=["other"]) == []
    assert tokens(sync_redis, "another", "other") == 0
    await queue.finish("w1", job)
    assert tokens(sync_redis, "another", "other") == 1
    assert await queue.claim_ids("w2", queues=["another"], graphs=["other"]) == ["second"]


async def test_a_limit_that_is_lowered_stops_nothing_that_runs(queue: JobQueue) -> None:
    for number in range(4):
        await queue.submit(f"job{number}")
    claim = await queue.claim("w1", limit=3)
    await limit(queue, 2)
    for place, job in enumerate(claim.jobs):
        assert await queue.claim_ids("w2") == []
        assert await queue.finish("w1", job) == "done", place
        if place == 1:
            break
    assert await queue.claim_ids("w2") == ["job3"]


async def test_a_lost_job_goes_before_those_that_wait_but_not_beyond_the_limit(queue: JobQueue) -> None:
    await limit(queue, 2)
    for number in range(4):
        await queue.submit(f"job{number}")
    await queue.claim("w1", limit=2)
    await queue.lose_worker()
    assert await queue.claim_ids("w2", limit=1) == ["job0"]
    assert await queue.claim_ids("w3", limit=9) == ["job1"]


async def test_a_job_that_runs_alone_of_another_tenant_does_not_wait_for_one_that_may_not_run(queue: JobQueue) -> None:
    await queue.submit("mine", max_attempts=2)
    await queue.submit("other", tenant="other", max_attempts=2)
    await queue.claim("w1")
    await queue.lose_worker()
    await queue.submit("one more", priority=9, graph="more")
    await queue.take("w2", graphs=["more"])
    await limit(queue, 1)
    assert await queue.claim_ids("w3") == ["other"]
    assert await queue.claim_ids("w4") == []


async def test_without_limits_a_claim_looks_for_none(queue: JobQueue, sync_redis: SyncRedis) -> None:
    await queue.submit("job")
    await queue.submit("job2")
    await queue.claim("w1", limit=1)
    assert sync_redis.keys(f"{key('held_back')}*") == []
