"""The keeper on a real Valkey: leases that hold, cancels that arrive, heartbeats that end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from shared.store import Claimed, JobStore, KeeperStore, NewJob, Registry, connect, connect_sync
from shared.store.keys import key
from tests.conditions import until
from tests.servers import Valkey
from worker.keeper import Keeper
from worker.lease import EndReason, Lease

LEASE_SECONDS = 0.6


class Holder:
    """A worker that holds jobs and does nothing with them."""

    def __init__(self, url: str, worker: str) -> None:
        self.worker = worker
        self.redis: Redis = connect(url, answer_within=1)
        self.store = JobStore(self.redis, result_ttl_seconds=60)
        self._sync = connect_sync(url, answer_within=1)
        loop = asyncio.get_running_loop()
        self.keeper = Keeper(KeeperStore(self._sync, worker), LEASE_SECONDS, loop, lambda: {"id": worker})
        self.keeper.start()

    async def claim(self, *, recover: bool = False) -> list[Claimed]:
        claim = await self.store.claim(
            self.worker,
            lease_seconds=LEASE_SECONDS,
            limit=10,
            max_bytes=1_000_000,
            recover=recover,
            queues=["default"],
            graphs=["echo"],
        )
        return claim.jobs

    async def hold_one(self, job_id: str = "j1") -> Lease:
        """Submit a job and hold it."""
        await self.store.submit(NewJob(tenant="acme", id=job_id, graph="echo", payload=b"{}", max_attempts=3))
        asked_at = time.monotonic()
        (job,) = await self.claim()
        return self.keeper.hold(job, asked_at)

    async def close(self) -> None:
        self.keeper.stop()
        self._sync.close()
        await self.redis.aclose(close_connection_pool=True)


Workers = Callable[..., Holder]


@pytest.fixture
async def holders() -> AsyncIterator[Workers]:
    """Starts a worker on the Valkey at `url`."""
    made: list[Holder] = []

    def start(url: str, worker: str = "w1") -> Holder:
        made.append(Holder(url, worker))
        return made[-1]

    yield start
    for holder in made:
        await holder.close()


async def test_a_lease_is_kept_while_the_event_loop_is_blocked_for_longer_than_it(
    holders: Workers, valkey_url: str
) -> None:
    one, two = holders(valkey_url, "w1"), holders(valkey_url, "w2")
    lease = await one.hold_one()
    time.sleep(LEASE_SECONDS * 2.5)  # noqa: ASYNC251 - blocks the event loop on purpose
    assert await two.claim(recover=True) == []
    await lease.confirmed()  # the renewals are heard of as soon as the loop runs again
    assert lease.reason is None
    assert lease.deadline > time.monotonic()


async def test_a_lease_that_nobody_renews_runs_out_and_its_keeper_hears_that_it_is_gone(
    holders: Workers, valkey_url: str
) -> None:
    one, two = holders(valkey_url, "w1"), holders(valkey_url, "w2")
    lease = await one.hold_one()
    one.keeper.drop(lease)
    await until(lambda: two.claim(recover=True))
    one.keeper._leases[lease.job.ref] = lease  # as after a suspension that outlasted the lease
    await until(lambda: lease.reason)
    assert lease.reason is EndReason.GONE


async def test_a_cancel_reaches_a_running_job_within_200_ms(holders: Workers, valkey_url: str) -> None:
    holder = holders(valkey_url)
    waits = []
    for number in range(5):
        lease = await holder.hold_one(f"j{number}")
        await asyncio.sleep(0.03 * number)  # at several points of the keeper's round
        asked_at = time.monotonic()
        assert (await holder.store.cancel("acme", f"j{number}"))[0] == "cancelling"
        await until(lambda: lease.reason)  # noqa: B023 - awaited at once
        waits.append(time.monotonic() - asked_at)
        assert lease.reason is EndReason.CANCEL
        await holder.store.finish(holder.worker, lease.job, "cancelled")
        holder.keeper.drop(lease)
    assert sorted(waits)[2] < 0.2, waits  # the median: one slow moment of a busy machine proves nothing


async def test_a_cancel_that_the_control_list_lost_comes_with_the_next_renewal(
    holders: Workers, valkey_url: str
) -> None:
    holder = holders(valkey_url)
    lease = await holder.hold_one()
    await holder.redis.hset(key("job", lease.job.ref), "cancel", "1")  # type: ignore[misc]
    asked_at = time.monotonic()
    await until(lambda: lease.reason)
    assert lease.reason is EndReason.CANCEL
    assert time.monotonic() - asked_at < LEASE_SECONDS


async def test_a_worker_is_on_the_list_while_it_lives_and_off_it_when_it_says_farewell(
    holders: Workers, valkey_url: str
) -> None:
    one, two = holders(valkey_url, "w1"), holders(valkey_url, "w2")
    registry = Registry(one.redis)

    async def listed() -> list[Any]:
        return [worker["id"] for worker in await registry.workers()]

    await until(lambda: _is(listed, ["w1", "w2"]))
    two.keeper.stop()
    assert await listed() == ["w1"]
    # One that dies says nothing: what it said last is forgotten within five seconds.
    assert 0 < await one.redis.pttl(key("worker", "w1")) <= 5000


async def test_expired_leases_are_not_recovered_just_after_connecting(holders: Workers, valkey_url: str) -> None:
    holder = holders(valkey_url)
    await until(lambda: holder.keeper.connected_since)
    connected = holder.keeper.connected_since
    assert connected is not None
    assert not holder.keeper.may_recover
    await until(lambda: holder.keeper.may_recover)
    assert time.monotonic() - connected > LEASE_SECONDS / 3 + 0.5


async def test_leases_outlive_a_redis_that_is_killed_and_comes_back_after_they_ran_out(
    holders: Workers, tmp_path: Path
) -> None:
    server = Valkey(tmp_path / "valkey")
    try:
        one, two = holders(server.url, "w1"), holders(server.url, "w2")
        lease = await one.hold_one()
        await until(lambda: one.keeper.may_recover and two.keeper.may_recover)
        server.kill()
        await until(lambda: not (one.keeper.may_recover or two.keeper.may_recover))
        await asyncio.sleep(LEASE_SECONDS * 1.5)
        await asyncio.to_thread(server.restart)
        back_at = time.monotonic()
        while time.monotonic() - back_at < 2.5 * LEASE_SECONDS:
            assert await two.claim(recover=two.keeper.may_recover) == []
            await asyncio.sleep(0.02)
        assert two.keeper.may_recover
        await lease.confirmed()
        assert lease.reason is None
        assert await one.store.finish("w1", lease.job, "succeeded") == "done"
    finally:
        server.stop()


async def _is(read: Callable[[], Any], wanted: Any) -> bool:
    return bool(await read() == wanted)
