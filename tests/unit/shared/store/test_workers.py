"""What workers tell the gateway: that they live, what they serve, and what happens to jobs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from redis import Redis as SyncRedis
from redis.asyncio import Redis

from shared.store import KeeperStore, Notices, Registry
from shared.store.keys import key
from shared.store.workers import FORGET_WORKER_MS, HEARTBEAT_TTL_MS
from tests.job_queue import TENANT, JobQueue


async def test_live_workers_are_listed_by_id(redis: Redis, sync_redis: SyncRedis) -> None:
    for worker in ("w2", "w1"):
        KeeperStore(sync_redis, worker).heartbeat({"id": worker, "running": []}, 10)
    assert await Registry(redis).workers() == [{"id": "w1", "running": []}, {"id": "w2", "running": []}]


async def test_a_worker_is_gone_seconds_after_its_last_heartbeat(redis: Redis, sync_redis: SyncRedis) -> None:
    KeeperStore(sync_redis, "w1").heartbeat({"id": "w1"}, 10)
    assert 0 < sync_redis.pttl(key("worker", "w1")) <= HEARTBEAT_TTL_MS == 5000
    sync_redis.delete(key("worker", "w1"))
    assert await Registry(redis).workers() == []


async def test_a_worker_that_says_farewell_is_gone_at_once(redis: Redis, sync_redis: SyncRedis) -> None:
    keeper = KeeperStore(sync_redis, "w1")
    keeper.heartbeat({"id": "w1"}, 10)
    keeper.farewell()
    assert await Registry(redis).workers() == []
    assert sync_redis.keys("*") == [key("pulse").encode()]


async def test_workers_unheard_of_for_a_day_are_forgotten(redis: Redis, sync_redis: SyncRedis) -> None:
    KeeperStore(sync_redis, "w1").heartbeat({"id": "w1"}, 10)
    sync_redis.zincrby(key("workers"), -FORGET_WORKER_MS - 1000, "w1")
    await Registry(redis).workers()
    assert sync_redis.zcard(key("workers")) == 0


async def test_the_catalogue_has_what_workers_publish(redis: Redis) -> None:
    registry = Registry(redis)
    await registry.publish({"echo": {"id": "echo", "description": "v1"}}, {"broken": {"message": "no module"}})
    await registry.publish({"other": {"id": "other"}}, {})
    assert await registry.catalogue() == {
        "broken": {"id": "broken", "error": {"message": "no module"}},
        "echo": {"id": "echo", "description": "v1", "error": None},
        "other": {"id": "other", "error": None},
    }


async def test_a_graph_that_no_longer_loads_keeps_its_last_good_entry(redis: Redis) -> None:
    registry = Registry(redis)
    await registry.publish({"echo": {"id": "echo"}}, {})
    await registry.publish({}, {"echo": {"message": "syntax error"}})
    assert await registry.catalogue() == {"echo": {"id": "echo", "error": {"message": "syntax error"}}}
    await registry.publish({"echo": {"id": "echo", "description": "mended"}}, {})
    assert await registry.catalogue() == {"echo": {"id": "echo", "description": "mended", "error": None}}


async def next_of(notices: AsyncGenerator[tuple[str, str] | None, None]) -> tuple[str, str] | None:
    return await asyncio.wait_for(anext(notices), 5)


async def test_a_listener_hears_of_all_that_ends_from_when_it_was_told_so(queue: JobQueue, blocking: Redis) -> None:
    await queue.submit("unheard")
    await queue.store.cancel(TENANT, "unheard")
    notices = Notices(blocking).listen()
    assert await next_of(notices) is None
    await queue.submit("a")
    job = await queue.take()
    await queue.store.append("w1", job, [b"{}"])
    await queue.finish("w1", job)
    await Registry(queue.redis).publish({}, {})
    assert [await next_of(notices) for _ in range(3)] == [
        ("acme:a", "event"),
        ("acme:a", "succeeded"),
        ("catalogue", ""),
    ]
    await queue.submit("b")
    await queue.finish("w1", await queue.take(), "interrupted")
    await queue.store.cancel(TENANT, "b")
    assert [await next_of(notices) for _ in range(2)] == [("acme:b", "interrupted"), ("acme:b", "cancelled")]
    await notices.aclose()


async def test_the_statuses_of_many_jobs_are_read_at_once(queue: JobQueue) -> None:
    await queue.submit("a")
    await queue.submit("b")
    await queue.store.cancel(TENANT, "b")
    await queue.redis.set(key("job", "acme:garbage"), "x")
    names = ["acme:a", "acme:b", "acme:missing", "acme:garbage", "other:a"]
    assert await queue.store.statuses(names) == {
        "acme:a": "queued", "acme:b": "cancelled", "acme:missing": None, "acme:garbage": None, "other:a": None,
    }  # fmt: skip
    await queue.redis.delete(key("job", "acme:garbage"))
