"""The store's promises on a real Valkey."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from redis import Redis as SyncRedis
from redis.asyncio import Redis

from shared.store import connect, connect_blocking, connect_sync
from tests.job_queue import JobQueue
from tests.servers import Valkey
from tests.store_audit import audit


@pytest.fixture
async def redis(valkey_url: str) -> AsyncIterator[Redis]:
    """A connection to an empty server."""
    async with connect(valkey_url) as client:
        yield client


@pytest.fixture
async def blocking(valkey_url: str) -> AsyncIterator[Redis]:
    """A second connection to the same server, for blocking reads."""
    async with connect_blocking(valkey_url) as client:
        yield client


@pytest.fixture
def sync_redis(valkey_url: str) -> Iterator[SyncRedis]:
    """A synchronous connection to the same server."""
    with connect_sync(valkey_url, answer_within=5) as client:
        yield client


@pytest.fixture
def empty_server(valkey_server: Valkey) -> Callable[[], tuple[Redis, SyncRedis]]:
    """Gives two connections to a server that is empty, each time it is called."""

    def connections() -> tuple[Redis, SyncRedis]:
        valkey_server.flush()
        return connect(valkey_server.url), connect_sync(valkey_server.url, answer_within=5)

    return connections


@pytest.fixture
def queue(redis: Redis, sync_redis: SyncRedis) -> Iterator[JobQueue]:
    """An empty job queue, whose keys are audited after the test."""
    jobs = JobQueue(redis, sync_redis)
    yield jobs
    assert audit(sync_redis) == []
