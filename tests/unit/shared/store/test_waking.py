"""When a worker looks for work again: told by its claim, or woken."""

from __future__ import annotations

import asyncio
import time

import pytest
from redis.asyncio import Redis

from shared.store.keys import key
from tests.job_queue import GRAPH, LEASE_SECONDS, JobQueue


async def test_a_claim_says_when_the_next_lease_ends(queue: JobQueue) -> None:
    """For its worker may be lost: a worker without work looks again then."""
    assert (await queue.claim()).next_seconds is None
    await queue.submit("a")
    assert (await queue.claim("w2")).next_seconds == LEASE_SECONDS
    queue.pass_time(4)
    assert (await queue.claim()).next_seconds == pytest.approx(LEASE_SECONDS - 4, abs=2)
    await queue.submit("b", delay_ms=3_000)
    assert (await queue.claim()).next_seconds == pytest.approx(3, abs=2)
    queue.pass_time(3)
    await queue.claim("w2")
    assert (await queue.claim()).next_seconds == pytest.approx(LEASE_SECONDS - 7, abs=2)


async def test_not_where_it_puts_no_leases_back(queue: JobQueue) -> None:
    await queue.submit("a")
    await queue.claim("w2")
    assert (await queue.claim(recover=False)).next_seconds is None


async def test_next_due_is_the_time_to_the_next_delayed_job(queue: JobQueue) -> None:
    await queue.submit("a", delay_ms=90_000)
    await queue.submit("b", delay_ms=30_000, graph="another")
    assert (await queue.claim()).next_seconds == pytest.approx(30, abs=0.5)
    queue.pass_time(30)
    assert (await queue.claim()).next_seconds == pytest.approx(60, abs=0.5)


# Wake-up


async def tokens(queue: JobQueue, graph: str = GRAPH) -> int:
    return int(await queue.redis.llen(key("wake", "default", graph)))


async def wakes(queue: JobQueue, blocking: Redis, within: float = 0.05) -> bool:
    """Whether a worker that waits for work is woken."""
    started = time.monotonic()
    await queue.store.wait_for_work(blocking, ["default"], [GRAPH], within)
    return time.monotonic() - started < within


async def test_a_submit_wakes_a_worker_that_waits(queue: JobQueue, blocking: Redis) -> None:
    waiting = asyncio.create_task(queue.store.wait_for_work(blocking, ["default", "other"], ["x", GRAPH], 30))
    await asyncio.sleep(0.02)
    assert not waiting.done()
    await queue.submit("a")
    await asyncio.wait_for(waiting, 5)


@pytest.mark.parametrize("options", [{"delay_ms": 1000}, {"thread_id": "t"}, {"priority": 3}])
async def test_each_kind_of_submit_pushes_one_token(queue: JobQueue, options: dict[str, int | str]) -> None:
    await queue.submit("a", **options)
    assert await tokens(queue) == 1


async def test_waiting_for_no_time_returns_at_once(queue: JobQueue, blocking: Redis) -> None:
    await asyncio.wait_for(queue.store.wait_for_work(blocking, ["default"], [GRAPH], 0), 5)


async def test_an_empty_claim_deletes_the_tokens_and_leaves_those_of_others(queue: JobQueue) -> None:
    await queue.submit("a", delay_ms=60_000)
    await queue.submit("b", delay_ms=60_000, graph="other")
    assert await queue.claim_ids() == []
    assert (await tokens(queue), await tokens(queue, "other")) == (0, 1)


async def test_a_worker_without_a_free_slot_deletes_no_token(queue: JobQueue) -> None:
    await queue.submit("a")
    await queue.claim(limit=0)
    assert await tokens(queue) == 1


async def test_a_claim_that_leaves_work_wakes_another_worker(queue: JobQueue, blocking: Redis) -> None:
    for job_id in "abc":
        await queue.submit(job_id)
    await queue.redis.delete(key("wake", "default", GRAPH))
    assert await queue.claim_ids(limit=2) == ["a", "b"]
    assert await wakes(queue, blocking)
    assert await queue.claim_ids("w2", limit=2) == ["c"]
    assert not await wakes(queue, blocking)


async def test_a_claim_wakes_another_worker_for_a_job_that_is_due_soon(queue: JobQueue, blocking: Redis) -> None:
    await queue.submit("a")
    await queue.submit("b", delay_ms=500)
    await queue.redis.delete(key("wake", "default", GRAPH))
    assert await queue.claim_ids() == ["a"]
    assert await wakes(queue, blocking)


async def test_no_more_than_64_tokens_are_kept(queue: JobQueue) -> None:
    await queue.store.submit_many([queue.new(f"a{n}") for n in range(100)])
    assert await tokens(queue) == 64
