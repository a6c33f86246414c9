"""Connections of every kind follow the master that three real sentinels name."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import pytest
import trustme
from redis.asyncio import Redis

from shared.settings import SettingsError
from shared.store import DeliveryStore, JobStore, Notices, StoreUnavailable, connect, connect_blocking, connect_sync
from shared.store.connection import wait_until_reachable
from tests.conditions import until
from tests.job_queue import TENANT, JobQueue
from tests.sentinels import FAILOVER_SECONDS, Sentinels
from tests.servers import free_port
from tests.tls_front import TLSFront

PASSWORD, SENTINEL_PASSWORD = "q-secret", "r-secret"


@pytest.fixture(scope="module")
def shared_group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sentinels]:
    """A group with passwords, for tests that leave it with a master, its replicas and all sentinels."""
    servers = Sentinels(tmp_path_factory.mktemp("group"), password=PASSWORD, sentinel_password=SENTINEL_PASSWORD)
    try:
        yield servers.start()
    finally:
        servers.stop()


@pytest.fixture
def group(shared_group: Sentinels) -> Sentinels:
    shared_group.settle()
    shared_group.master().flush()
    return shared_group


@pytest.fixture
def own_group(tmp_path: Path) -> Iterator[Sentinels]:
    servers = Sentinels(tmp_path / "group")
    try:
        yield servers.start()
    finally:
        servers.stop()


@asynccontextmanager
async def job_queue(url: str) -> AsyncIterator[JobQueue]:
    async with connect(url, tries=2) as redis:
        with connect_sync(url, answer_within=2) as sync_redis:
            yield JobQueue(redis, sync_redis)


async def works(queue: JobQueue, name: str) -> bool:
    """Whether a job can be submitted now."""
    try:
        await queue.submit(name)
    except StoreUnavailable:
        return False
    return True


def connected(redis: Redis) -> int:
    return sum(one.is_connected for one in redis.connection_pool._available_connections)


async def test_every_kind_of_connection_follows_a_fail_over(group: Sentinels) -> None:
    url = group.url()
    async with (
        job_queue(url) as queue,
        connect_blocking(url, answer_within=5) as blocking,
        connect_blocking(url) as own,
    ):
        deliveries = DeliveryStore(queue.redis, blocking=blocking, ttl_seconds=60)
        heard: list[tuple[str, str] | None] = []

        async def listen() -> None:
            while True:
                try:
                    async for notice in Notices(own).listen():
                        heard.append(notice)  # noqa: PERF401
                except StoreUnavailable:
                    await asyncio.sleep(0.1)

        async def block() -> None:
            while True:
                try:
                    await deliveries.wait(1)
                except StoreUnavailable:
                    await asyncio.sleep(0.1)

        tasks = [asyncio.create_task(listen()), asyncio.create_task(block())]
        await queue.submit("a")
        job = await queue.take()
        before = group.master()
        await until(lambda: heard == [None] or len(heard) > 1)
        await asyncio.to_thread(group.fail_over, "COORDINATED")
        await until(lambda: works(queue, "b"), FAILOVER_SECONDS)
        assert queue.renew("w1", job) == ["held"]
        heard.clear()
        assert await queue.finish("w1", job) == "done"
        await until(lambda: (f"{TENANT}:a", "succeeded") in heard)
        with group.master().client() as client:
            await until(lambda: "blpop" in {one["cmd"] for one in client.client_list()}, FAILOVER_SECONDS)
        assert group.master() is not before
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_master_that_became_a_replica_loses_its_connections_and_the_sentinels_are_asked_anew(
    group: Sentinels,
) -> None:
    master = group.master()
    async with connect(group.url()) as redis:
        with connect_sync(group.url(), answer_within=2) as sync_redis, master.client() as client:
            queue = JobQueue(redis, sync_redis)
            await queue.submit("a")
            job = await queue.take()
            assert queue.renew("w1", job) == ["held"]
            assert connected(redis) == 1
            client.replicaof("127.0.0.1", group.replicas()[0].port)
            with pytest.raises(StoreUnavailable):
                await queue.submit("b")
            assert connected(redis) == 0
            with pytest.raises(StoreUnavailable):
                queue.renew("w1", job)
            client.replicaof("no", "one")
            await until(lambda: works(queue, "c"), FAILOVER_SECONDS)
            assert queue.renew("w1", job) == ["held"]
            assert await queue.finish("w1", job) == "done"


async def test_a_killed_master_is_unavailable_at_once_and_followed_within_the_fail_over(own_group: Sentinels) -> None:
    async with job_queue(own_group.url()) as queue:
        await queue.submit("a", thread_id="t")
        with own_group.master().client() as client:
            assert client.execute_command("WAIT", 2, 5000) == 2
        own_group.master().kill()
        started = time.monotonic()
        assert not await works(queue, "b")
        assert time.monotonic() - started < 4
        await until(lambda: works(queue, "c"), FAILOVER_SECONDS)
        assert await JobStore(queue.redis, result_ttl_seconds=60).get(TENANT, "a") is not None


async def test_a_master_that_hangs_is_left_by_subscriptions_too(own_group: Sentinels) -> None:
    async with connect_blocking(own_group.url()) as own, job_queue(own_group.url()) as queue:
        notices = Notices(own).listen()
        assert await anext(notices) is None
        own_group.master().process.pause()
        with pytest.raises(StoreUnavailable):
            await asyncio.wait_for(anext(notices), 15)
        await until(lambda: works(queue, "a"), FAILOVER_SECONDS)
        again = Notices(own).listen()
        assert await asyncio.wait_for(anext(again), 15) is None
        told = asyncio.create_task(anext(again))
        await queue.store.cancel(TENANT, "a")
        assert (await asyncio.wait_for(told, 5)) == (f"{TENANT}:a", "cancelled")
        await again.aclose()


async def test_a_quiet_subscription_is_kept(group: Sentinels, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.store.notices.SILENCE_SECONDS", 0.05)
    async with connect_blocking(group.url()) as own, job_queue(group.url()) as queue:
        notices = Notices(own).listen()
        assert await anext(notices) is None
        told = asyncio.create_task(anext(notices))
        await asyncio.sleep(0.5)
        await queue.submit("quiet")
        await queue.store.cancel(TENANT, "quiet")
        assert (await asyncio.wait_for(told, 5))[0].endswith(":quiet")  # type: ignore[index]
        await notices.aclose()


async def test_of_three_sentinels_one_that_hangs_and_one_that_is_gone_are_no_more_than_a_moment(
    own_group: Sentinels,
) -> None:
    own_group.sentinels[0].pause()
    own_group.sentinels[1].kill()
    started = time.monotonic()
    async with job_queue(own_group.url()) as queue:
        await asyncio.gather(*(queue.submit(f"a{number}") for number in range(40)))
        await asyncio.to_thread(lambda: queue.sync_redis.ping())
    assert time.monotonic() - started < 5


async def test_no_sentinel_is_forgotten_when_many_connections_ask_at_once(group: Sentinels) -> None:
    down = f"127.0.0.1:{free_port()},127.0.0.1:{free_port()},"
    async with connect(group.url().replace("@", f"@{down}"), connections=16) as redis:
        for _ in range(10):
            await redis.connection_pool.disconnect()
            await asyncio.gather(*(redis.ping() for _ in range(16)))
            asked = {str(one.connection_pool.connection_kwargs["port"]) for one in _sentinels(redis)}
            assert len(asked) == 5


def _sentinels(redis: Redis) -> list[Redis]:
    return list(redis.connection_pool.sentinel_manager.sentinels)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (PASSWORD, "x-secret", "refused the login"),
        (SENTINEL_PASSWORD, "x-secret", "No master found"),
        ("/jobs/", "/others/", "No master found for 'others'"),
    ],
)
def test_a_wrong_login_or_name_is_told_at_the_start_without_a_password(
    group: Sentinels, old: str, new: str, said: str
) -> None:
    with pytest.raises(SettingsError) as error:
        wait_until_reachable(group.url().replace(old, new), within=0.5)
    assert said in str(error.value)
    assert "secret" not in str(error.value)


async def test_sentinels_and_servers_are_spoken_to_over_tls(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    servers = Sentinels(tmp_path / "group", replicas=0)
    with ExitStack() as stack:
        stack.callback(servers.stop)
        master = stack.enter_context(TLSFront(context, servers.servers[0].port))
        servers.start(monitored_port=master.port)
        fronts = [stack.enter_context(TLSFront(context, port)) for port in servers.ports]
        servers.ports = [front.port for front in fronts]
        options = f"ssl_ca_certs={tmp_path / 'ca.pem'}&ssl_check_hostname=true"
        url = servers.url("rediss+sentinel", options)
        async with job_queue(url) as queue, connect_blocking(url) as own:
            await queue.submit("a")
            assert queue.sync_redis.ping()
            notices = Notices(own).listen()
            assert await anext(notices) is None
            await notices.aclose()
        assert master.encrypted == 3
        assert any(front.encrypted for front in fronts)
        strangers = servers.url("rediss+sentinel")  # whose certificates nobody vouches for
        with pytest.raises(SettingsError, match="has not answered"):
            await asyncio.to_thread(wait_until_reachable, strangers, within=0.5)
