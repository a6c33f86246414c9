"""Hosts: how many deliveries go to one at once, and how one that says nothing is left in peace, and nobody else is."""

from __future__ import annotations

from collections import Counter

import pytest
from redis import Redis as SyncRedis

from tests.job_queue import JobQueue
from tests.sent_deliveries import claim, end_job, finish
from tests.store_audit import audit

DEAD, LIVE = "https://dead.example/hook", "https://live.example/hook"
PROBE_SECONDS = 60


async def end_jobs(queue: JobQueue, url: str, count: int) -> None:
    for number in range(count):
        await end_job(queue, f"{url.split('/')[2]}{number}", url)


async def silence(queue: JobQueue, tries: int) -> None:
    """This many tries, one after the other, that bring no answer."""
    for _ in range(tries):
        (delivery,) = await claim(queue, limit=1)
        await finish(queue, "s1", delivery, "retry", delay_seconds=3600, host="silent", address="ill")


async def test_one_host_is_sent_no_more_at_once_than_the_limit_over_all_senders(
    queue: JobQueue, sync_redis: SyncRedis
) -> None:
    queue.deliveries.host_concurrency = 3
    await end_jobs(queue, LIVE, 8)
    first = await claim(queue, "s1", limit=2)
    second = await claim(queue, "s2", limit=100)
    assert (len(first), len(second)) == (2, 1)
    assert await queue.deliveries.claim("s3", lease_seconds=10, limit=100) == ([], pytest.approx(10, abs=1))
    assert audit(sync_redis) == []
    await finish(queue, "s1", first[0], "delivered")
    assert len(await claim(queue, "s3", limit=100)) == 1


@pytest.mark.parametrize("way", ["lost", "released"])
async def test_what_is_no_longer_sent_makes_room(queue: JobQueue, sync_redis: SyncRedis, way: str) -> None:
    queue.deliveries.host_concurrency = 1
    await end_jobs(queue, LIVE, 2)
    (delivery,) = await claim(queue, "s1")
    if way == "lost":
        queue.pass_time(11)
    else:
        await queue.deliveries.release("s1", delivery)
    assert len(await claim(queue, "s2")) == 1
    assert audit(sync_redis) == []


async def test_the_host_that_is_sent_the_fewest_comes_first(queue: JobQueue) -> None:
    for number in range(3):
        await end_jobs(queue, f"https://slow{number}.example/", 20)
    assert len(await claim(queue, "s1", limit=30)) == 30
    await end_jobs(queue, LIVE, 5)
    hosts = Counter(delivery.url for delivery in await claim(queue, "s2", limit=5))
    assert hosts == {LIVE: 5}


async def test_hosts_are_told_apart_by_scheme_name_and_port(queue: JobQueue) -> None:
    queue.deliveries.host_concurrency = 1
    urls = [
        "https://a.example/1", "https://a.example:443/2", "https://A.example./3",
        "http://a.example/", "https://a.example:8443/", "https://b.example/", "https://[2001:db8::1]/",
    ]  # fmt: skip
    for number, url in enumerate(urls):
        await end_job(queue, f"j{number}", url)
    assert [delivery.url for delivery in await claim(queue)] == [urls[0], *urls[3:]]


@pytest.mark.parametrize("host_concurrency", [16, 1000])
async def test_after_five_tries_in_silence_a_host_is_probed_by_one_delivery_at_a_time(
    queue: JobQueue, sync_redis: SyncRedis, host_concurrency: int
) -> None:
    queue.deliveries.host_concurrency = host_concurrency
    await end_jobs(queue, DEAD, 20)
    await silence(queue, 5)
    deliveries, look_in = await queue.deliveries.claim("s1", lease_seconds=10, limit=10)
    assert (deliveries, look_in) == ([], pytest.approx(1, abs=0.5))
    assert audit(sync_redis) == []
    queue.pass_time(1.001)
    (probe,) = await claim(queue)
    assert await claim(queue, "s2") == []
    await finish(queue, "s1", probe, "retry", delay_seconds=3600, host="silent", address="ill")
    assert (await queue.deliveries.claim("s1", lease_seconds=10, limit=10))[1] == pytest.approx(2, abs=0.5)


async def test_the_pause_doubles_up_to_a_minute(queue: JobQueue) -> None:
    await end_jobs(queue, DEAD, 20)
    await silence(queue, 5)
    pauses = []
    for _ in range(8):
        _, pause = await queue.deliveries.claim("s1", lease_seconds=10, limit=10)
        assert pause is not None
        pauses.append(round(pause))
        queue.pass_time(pause + 0.001)
        await silence(queue, 1)
    assert pauses == [1, 2, 4, 8, 16, 32, PROBE_SECONDS, PROBE_SECONDS]


async def test_tries_that_were_under_way_when_the_pause_began_do_not_lengthen_it(queue: JobQueue) -> None:
    await end_jobs(queue, DEAD, 16)
    for delivery in await claim(queue, limit=16):
        await finish(queue, "s1", delivery, "retry", delay_seconds=0, host="silent", address="ill")
    assert (await queue.deliveries.claim("s1", lease_seconds=10, limit=10))[1] == pytest.approx(1, abs=0.5)


async def test_an_answer_closes_the_breaker_and_lets_more_in_step_by_step(queue: JobQueue) -> None:
    await end_jobs(queue, DEAD, 60)
    await silence(queue, 5)
    queue.pass_time(1.001)
    at_once = []
    for _ in range(6):
        deliveries = await claim(queue, limit=100)
        at_once.append(len(deliveries))
        for delivery in deliveries:
            await finish(queue, "s1", delivery, "delivered", address="well")
    assert at_once == [1, 2, 8, 16, 16, 12]


@pytest.mark.parametrize("host", ["ok", "busy"])
async def test_an_answer_of_any_kind_is_no_silence(queue: JobQueue, host: str) -> None:
    await end_jobs(queue, DEAD, 12)
    for _ in range(3):
        await silence(queue, 3)
        (delivery,) = await claim(queue, limit=1)
        await finish(queue, "s1", delivery, "retry", delay_seconds=3600, host=host, address="ill")


async def test_a_busy_host_is_sent_half_as_many_at_once(queue: JobQueue) -> None:
    await end_jobs(queue, LIVE, 60)
    at_once = []
    for _ in range(4):
        deliveries = await claim(queue, limit=100)
        at_once.append(len(deliveries))
        await finish(queue, "s1", deliveries[0], "retry", delay_seconds=3600, host="busy", address="ill")
        for delivery in deliveries[1:]:
            await queue.deliveries.release("s1", delivery)
    assert at_once == [16, 8, 4, 2]


async def test_a_dead_host_delays_nobody_else(queue: JobQueue) -> None:
    await end_jobs(queue, DEAD, 50)
    await end_jobs(queue, LIVE, 50)
    first = Counter(delivery.url for delivery in await claim(queue, limit=20))
    assert first == {DEAD: 10, LIVE: 10}
    second = Counter(delivery.url for delivery in await claim(queue, limit=100))
    assert second == {DEAD: 6, LIVE: 6}


async def test_the_backlog_counts_what_is_due_and_not_sent(queue: JobQueue) -> None:
    assert (await queue.log.backlog()).waiting == 0
    queue.deliveries.host_concurrency = 2
    await end_jobs(queue, LIVE, 3)
    await end_jobs(queue, DEAD, 1)
    queue.pass_time(30)
    claimed = await claim(queue, limit=2)
    backlog = await queue.log.backlog()
    assert (backlog.waiting, backlog.oldest_seconds) == (2, pytest.approx(30, abs=1))
    for delivery in claimed:
        await finish(queue, "s1", delivery, "retry", delay_seconds=60)
    for delivery in await claim(queue):
        await finish(queue, "s1", delivery, "delivered")
    assert await queue.log.backlog() == type(backlog)(0, 0.0, 0)
