"""The store's promises on a Redis in memory; tests/integration/shared/store holds the same ones on a real Valkey."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator

import fakeredis
import pytest
from redis import Redis as SyncRedis
from redis.asyncio import Redis

from tests.fakes import fake_server as new_server
from tests.job_queue import JobQueue
from tests.store_audit import audit


@pytest.fixture
def fake_server() -> fakeredis.FakeServer:
    return new_server()


@pytest.fixture
async def redis(fake_server: fakeredis.FakeServer) -> AsyncIterator[Redis]:
    """A connection to an empty server."""
    async with fakeredis.FakeAsyncRedis(server=fake_server) as client:
        yield client


@pytest.fixture
async def blocking(fake_server: fakeredis.FakeServer) -> AsyncIterator[Redis]:
    """A second connection to the same server, for blocking reads."""
    async with fakeredis.FakeAsyncRedis(server=fake_server) as client:
        yield client


@pytest.fixture
def sync_redis(fake_server: fakeredis.FakeServer) -> Iterator[SyncRedis]:
    """A synchronous connection to the same server."""
    with fakeredis.FakeRedis(server=fake_server) as client:
        yield client


@pytest.fixture
def empty_server() -> Callable[[], tuple[Redis, SyncRedis]]:
    """Gives two connections to a server that is empty, each time it is called."""

    def connections() -> tuple[Redis, SyncRedis]:
        server = new_server()
        return fakeredis.FakeAsyncRedis(server=server), fakeredis.FakeRedis(server=server)

    return connections


@pytest.fixture
def queue(redis: Redis, sync_redis: SyncRedis) -> Iterator[JobQueue]:
    """An empty job queue, whose keys are audited after the test."""
    jobs = JobQueue(redis, sync_redis)
    yield jobs
    assert audit(sync_redis) == []
