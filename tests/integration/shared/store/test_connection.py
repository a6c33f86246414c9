"""A server that cannot be reached, hangs, or comes back."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.store import (
    DeliveryFilter,
    DeliveryLog,
    DeliveryStore,
    EndpointStore,
    Filter,
    JobStore,
    KeeperStore,
    Notices,
    Registry,
    StoreUnavailable,
    Submitted,
    connect,
    connect_blocking,
    connect_sync,
    list_jobs,
)
from tests.job_queue import GRAPH, TENANT, JobQueue
from tests.servers import Valkey, free_port


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Valkey]:
    server = Valkey(tmp_path / "valkey")
    yield server
    server.stop()


async def test_each_call_says_that_a_server_that_is_not_there_is_unavailable() -> None:
    url = f"redis://127.0.0.1:{free_port()}/0"
    async with connect(url) as redis, connect_blocking(url) as blocking:
        store, deliveries = JobStore(redis, result_ttl_seconds=60), DeliveryStore(redis, ttl_seconds=60)
        queue = JobQueue(redis, connect_sync(url, answer_within=1))
        keeper = KeeperStore(queue.sync_redis, "w1")
        for call in (
            lambda: queue.submit("a"),
            lambda: store.submit_many([queue.new("a")]),
            lambda: store.get(TENANT, "a"),
            lambda: store.statuses(["acme:a"]),
            lambda: store.cancel(TENANT, "a"),
            lambda: queue.claim(),
            lambda: store.expire(),
            lambda: store.queue_state(),
            lambda: store.arq_queue(TENANT, "a"),
            lambda: store.wait_for_work(blocking, ["default"], [GRAPH], 1),
            lambda: list_jobs(redis, TENANT, Filter(), limit=1),
            lambda: deliveries.claim("s1", lease_seconds=1, limit=1),
            lambda: deliveries.wait(1),
            lambda: DeliveryLog(redis).of_job(TENANT, "a"),
            lambda: DeliveryLog(redis).get(TENANT, "a"),
            lambda: DeliveryLog(redis).page(TENANT, DeliveryFilter(), limit=1),
            lambda: DeliveryLog(redis).redeliver_many(TENANT, ["a"]),
            lambda: DeliveryLog(redis).backlog(),
            lambda: EndpointStore(redis).of_tenant(TENANT),
            lambda: EndpointStore(redis).get(TENANT, "a"),
            lambda: EndpointStore(redis).rotate(TENANT, "a", "sealed"),
            lambda: EndpointStore(redis).disabled_addresses(TENANT),
            lambda: Registry(redis).workers(),
            lambda: Registry(redis).catalogue(),
            lambda: Registry(redis).publish({}, {}),
            lambda: anext(Notices(blocking).listen()),
        ):
            with pytest.raises(StoreUnavailable):
                await call()
        for sync_call in (
            lambda: keeper.renew(1, []),
            lambda: keeper.heartbeat({}, 10),
            lambda: keeper.wait_for_control(1),
        ):
            with pytest.raises(StoreUnavailable):
                sync_call()


async def test_a_server_that_hangs_is_unavailable_within_the_time_given(own_server: Valkey) -> None:
    async with connect(own_server.url, answer_within=0.3) as redis:
        store = JobStore(redis, result_ttl_seconds=60)
        assert await store.get(TENANT, "a") is None
        own_server.process.send(signal.SIGSTOP)
        try:
            started = time.monotonic()
            with pytest.raises(StoreUnavailable):
                await store.get(TENANT, "a")
            assert time.monotonic() - started < 5
        finally:
            own_server.process.send(signal.SIGCONT)
        assert await store.get(TENANT, "a") is None


async def test_what_was_confirmed_outlives_a_killed_server_and_the_same_client_goes_on(own_server: Valkey) -> None:
    async with connect(own_server.url) as redis:
        with connect_sync(own_server.url, answer_within=5) as sync_redis:
            queue = JobQueue(redis, sync_redis)
            await queue.submit("a", thread_id="t")
            await queue.submit("b", thread_id="t")
            job = await queue.take()
            own_server.kill()
            with pytest.raises(StoreUnavailable):
                await queue.finish("w1", job)
            own_server.restart()
            assert queue.renew("w1", job) == ["held"]
            assert await queue.finish("w1", job) == "done"
            assert await queue.claim_ids() == ["b"]


async def test_a_closed_connection_is_no_more_than_a_moment_with_two_tries(own_server: Valkey) -> None:
    async with connect(own_server.url, tries=2) as redis:
        with own_server.client() as sync_redis:
            queue = JobQueue(redis, sync_redis)
            for n in range(5):
                sync_redis.client_kill_filter(_type="normal", skipme=True)
                answer = await queue.submit(f"a{n}")
                assert isinstance(answer, Submitted)
                assert answer.outcome == "created"
            assert len(await queue.claim_ids()) == 5


async def test_a_listener_is_told_that_its_connection_broke(own_server: Valkey) -> None:
    async with connect_blocking(own_server.url) as blocking:
        notices = Notices(blocking).listen()
        assert await anext(notices) is None
        own_server.kill()
        with pytest.raises(StoreUnavailable):
            await anext(notices)
        own_server.restart()
        again = Notices(blocking).listen()
        assert await anext(again) is None
        await again.aclose()
