"""The runner's parts for tests: a queue in memory, and attempts on it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import fakeredis
import pytest

from tests.attempts import Attempts
from tests.job_queue import JobQueue
from worker.checkpoints.threads import ThreadMemory

Run = Callable[..., Awaitable[dict[str, Any]]]


@pytest.fixture
def queue() -> Iterator[JobQueue]:
    server = fakeredis.FakeServer(server_type="valkey")
    with fakeredis.FakeRedis(server=server) as sync_redis:
        yield JobQueue(fakeredis.FakeAsyncRedis(server=server), sync_redis)


@pytest.fixture
async def attempts(queue: JobQueue, tmp_path: Path) -> AsyncIterator[Attempts]:
    threads = ThreadMemory(f"sqlite:///{tmp_path / 'threads.db'}", connections=2)
    yield Attempts(queue, threads)
    await threads.close()
    await queue.redis.aclose()


@pytest.fixture
def run(attempts: Attempts) -> Run:
    """Serve a graph, submit one job of it and run one attempt; gives the record."""

    async def run_one(source: Any, input_: Any = None, **request: Any) -> dict[str, Any]:
        await attempts.serve(source)
        await attempts.submit(input_, **request)
        return await attempts.run()

    return run_one
