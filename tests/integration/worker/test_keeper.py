"""The keeper on a real Valkey: leases that hold, cancels that arrive, heartbeats that end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from shared.store import Claimed, JobStore, KeeperStore, NewJob, Registry, StoreUnavailable, connect, connect_sync
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
        self.left: list[int] = []
        self.keeper = Keeper(
            KeeperStore(self._sync, worker, result_ttl_seconds=60),
            LEASE_SECONDS,
            asyncio.get_running_loop(),
            lambda: {"id": worker},
            exit_process=self.left.append,
        )
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
        fields = {"webhook_url": "https://example.com/hook"}
        job = NewJob(tenant="acme", id=job_id, graph="echo", payload=b"{}", max_attempts=3, fields=fields)
        await self.store.submit(job)
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


async def test_leases_outlive_a_redis_that_was_frozen_although_claims_that_waited_come_first(
    holders: Workers, tmp_path: Path
) -> None:
    server = Valkey(tmp_path / "valkey")
    try:
        one, two = holders(server.url, "w1"), holders(server.url, "w2")
        lease = await one.hold_one()
        await until(lambda: two.keeper.may_recover)
        await two.claim(recover=True)  # its connection, and the script, are known before
        await asyncio.to_thread(server.process.pause)
        claims = [asyncio.create_task(two.claim(recover=True)) for _ in range(3)]
        await asyncio.sleep(LEASE_SECONDS * 1.5)
        server.process.resume()
        back_at = time.monotonic()
        for claim in claims:
            with suppress(StoreUnavailable):
                assert await claim == []
        while time.monotonic() - back_at < 2.5 * LEASE_SECONDS:
            assert await two.claim(recover=True) == []
            await asyncio.sleep(0.02)
        await lease.confirmed()
        assert lease.reason is None
        assert await one.store.finish("w1", lease.job, "succeeded") == "done"
    finally:
        server.process.resume()
        server.stop()


# Leaving in the loop's place


async def record(holder: Holder, job_id: str) -> dict[str, str]:
    job = await holder.store.get("acme", job_id)
    assert job is not None
    return {name.decode(): value.decode() for name, value in job.record.items()}


async def test_a_job_failed_by_the_keeper_ends_as_any_other(holders: Workers, valkey_url: str) -> None:
    holder = holders(valkey_url)
    lease = await holder.hold_one()
    store, ref = holder.keeper.store, lease.job.ref
    assert store.fail(ref, 2, b"{}") == "gone"
    assert store.fail(ref, 1, b'{"code":"timeout"}') == "done"
    assert store.fail(ref, 1, b'{"code":"timeout"}') == "already"
    ended = await record(holder, "j1")
    assert (ended["status"], ended["error"], ended["tries"]) == ("failed", '{"code":"timeout"}', "1")
    assert await holder.redis.zcard(key("hosts")) == 1
    expires_at = await holder.redis.zscore(key("expiry"), ref)
    assert 50 < expires_at / 1000 - time.time() <= 60
    await until(lambda: lease.gone)  # the loop's own writes are over
    assert await holder.store.finish("w1", lease.job, "succeeded") == "already"
    assert (await record(holder, "j1"))["status"] == "failed"


async def test_the_keeper_hands_back_all_that_the_worker_holds_and_all_that_is_on_its_way_to_it(
    holders: Workers, valkey_url: str
) -> None:
    one, two = holders(valkey_url, "w1"), holders(valkey_url, "w2")
    known = await one.hold_one("j1")
    await one.hold_one("j2")
    await one.store.cancel("acme", "j2")
    unknown = NewJob(tenant="acme", id="j3", graph="echo", payload=b"{}", max_attempts=3)
    await one.store.submit(unknown)
    await one.claim()  # the blocked loop has not heard of it
    handed_back = one.keeper.store.hand_back_all()
    statuses = {ended.ref: (ended.graph, ended.status) for ended in handed_back}
    queued, cancelled = ("echo", "queued"), ("echo", "cancelled")
    assert statuses == {"acme:j1": queued, "acme:j2": cancelled, "acme:j3": queued}
    assert one.keeper.store.hand_back_all() == []
    for job_id in ("j1", "j3"):
        back = await record(one, job_id)
        assert (back["status"], back["attempt"], back["tries"]) == ("queued", "1", "0")
    assert await one.claim() == []  # a claim that was on its way comes too late
    assert await one.store.release("w1", known.job, "hand_back") == "gone"
    assert sorted(job.id for job in await two.claim()) == ["j1", "j3"]


async def test_a_job_that_blocks_the_loop_past_its_time_limit_is_failed_and_others_run_elsewhere_at_once(
    holders: Workers, valkey_url: str
) -> None:
    one, two = holders(valkey_url, "w1"), holders(valkey_url, "w2")
    blocker, other = await one.hold_one("j1"), await one.hold_one("j2")

    async def attempt() -> None:
        with blocker.stoppable():
            blocker.limit_to(0.5)
            deadline = time.monotonic() + 20
            while not one.left and time.monotonic() < deadline:
                time.sleep(0.01)  # noqa: ASYNC251 - blocks the event loop on purpose

    await asyncio.wait([asyncio.create_task(attempt())])
    assert one.left == [3]
    failed = await record(one, "j1")
    assert (failed["status"], failed["tries"]) == ("failed", "1")
    assert '"the attempt ran longer than 0.5 seconds"' in failed["error"]
    assert [job.ref for job in await two.claim()] == [other.job.ref]
    assert [worker["id"] for worker in await Registry(two.redis).workers()] == ["w2"]
    assert await one.store.finish("w1", other.job, "succeeded") == "gone"


async def _is(read: Callable[[], Any], wanted: Any) -> bool:
    return bool(await read() == wanted)
