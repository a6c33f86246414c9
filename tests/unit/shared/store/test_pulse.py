"""Leases that ran out while nobody could renew them: they are lost only where keepers have had the time to."""

from __future__ import annotations

import pytest

from shared.store import KeeperStore
from shared.store.keys import key
from shared.store.workers import heartbeat_seconds
from tests.job_queue import LEASE_SECONDS, WEBHOOK, JobQueue

GRACE_SECONDS = LEASE_SECONDS / 3 + 0.5


def beat(queue: JobQueue, worker: str = "w1") -> None:
    KeeperStore(queue.sync_redis, worker, clock_offset_ms=queue.store.clock_offset_ms).heartbeat({}, LEASE_SECONDS)


def beat_for(queue: JobQueue, seconds: float) -> None:
    """Let this time pass as it does for a worker that lives."""
    for _ in range(round(seconds)):
        queue.pass_time(1)
        beat(queue)


@pytest.fixture
async def queue(queue: JobQueue) -> JobQueue:
    """A queue whose `w1` holds a job, and beats."""
    await queue.submit("a", fields=WEBHOOK)
    beat(queue)
    await queue.take("w1")
    return queue


async def test_a_lost_workers_lease_is_taken_back_as_soon_as_it_ends_while_another_beats(queue: JobQueue) -> None:
    beat_for(queue, LEASE_SECONDS - 1)
    assert await queue.claim_ids("w2") == []
    beat_for(queue, 1)
    assert await queue.claim_ids("w2") == ["a"]


@pytest.mark.parametrize("seen", [True, False], ids=["after a beat", "before any beat"])
async def test_a_claim_that_comes_first_after_a_break_takes_no_lease_back(queue: JobQueue, seen: bool) -> None:
    queue.pass_time(3 * LEASE_SECONDS)
    if seen:
        beat(queue, "w2")
    claim = await queue.claim("w2")
    assert claim.jobs == []
    assert claim.next_seconds is None  # nothing to look again for at once
    record = await queue.record("a")
    assert (record["status"], record["attempt"], record["tries"]) == ("running", "1", "1")


async def test_who_does_not_renew_in_the_time_given_after_a_break_is_lost(queue: JobQueue) -> None:
    queue.pass_time(3 * LEASE_SECONDS)
    beat(queue, "w2")
    queue.pass_time(GRACE_SECONDS - 0.5)
    beat(queue, "w2")
    assert await queue.claim_ids("w2") == []
    queue.pass_time(0.6)
    assert await queue.claim_ids("w2") == ["a"]


async def test_a_second_break_gives_the_time_anew(queue: JobQueue) -> None:
    queue.pass_time(3 * LEASE_SECONDS)
    beat(queue)
    queue.pass_time(LEASE_SECONDS)
    beat(queue)
    assert await queue.claim_ids("w2") == []


async def test_a_clock_that_was_set_back_does_not_keep_leases_for_ever(queue: JobQueue) -> None:
    queue.pass_time(3600)
    beat(queue)  # a break
    queue.pass_time(-3600)
    beat_for(queue, LEASE_SECONDS + 1)
    assert await queue.claim_ids("w2") == ["a"]


async def test_a_delivery_that_is_being_sent_is_not_taken_after_a_break_either(queue: JobQueue) -> None:
    await queue.submit("b", fields=WEBHOOK)
    await queue.finish("w1", await queue.take("w1"))
    (sent,), _ = await queue.deliveries.claim("w1", lease_seconds=LEASE_SECONDS, limit=10)
    queue.pass_time(3 * LEASE_SECONDS)
    assert await queue.deliveries.claim("w2", lease_seconds=LEASE_SECONDS, limit=10) == ([], None)
    keeper = KeeperStore(queue.sync_redis, "w1", clock_offset_ms=queue.store.clock_offset_ms)
    assert keeper.renew_deliveries(LEASE_SECONDS, [(sent.ref, sent.attempt)]) == ["held"]


async def test_workers_that_have_gone_for_good_leave_one_key(queue: JobQueue) -> None:
    assert queue.sync_redis.hgetall(key("pulse")).keys() == {b"last", b"unbroken_since"}
    assert queue.sync_redis.ttl(key("pulse")) == -1  # a break may be long


@pytest.mark.parametrize("lease", [0.5, 1, 5, 10, 3600])
def test_workers_beat_often_enough_for_a_break_to_be_told(lease: float) -> None:
    assert heartbeat_seconds(lease) <= min(1, lease / 5)
