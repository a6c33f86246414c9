"""The worker's parts for tests: a queue in memory, attempts on it, and a sender on fakes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import fakeredis
import pytest

from tests.attempts import Attempts
from tests.fake_webhooks import SECRET_KEY, InMemoryDeliveries, Network
from tests.fakes import fake_server
from tests.job_queue import JobQueue
from worker import delivery_http
from worker.checkpoints.threads import ThreadMemory
from worker.webhooks import WebhookSender

Run = Callable[..., Awaitable[dict[str, Any]]]


@pytest.fixture
def queue() -> Iterator[JobQueue]:
    server = fake_server()
    with fakeredis.FakeRedis(server=server) as sync_redis:
        yield JobQueue(fakeredis.FakeAsyncRedis(server=server), sync_redis)


@pytest.fixture
async def attempts(queue: JobQueue, tmp_path: Path) -> AsyncIterator[Attempts]:
    threads = ThreadMemory(f"sqlite:///{tmp_path / 'threads.db'}")
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


@pytest.fixture
def store() -> InMemoryDeliveries:
    return InMemoryDeliveries()


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Network:
    network = Network()
    monkeypatch.setattr(delivery_http, "DeliveryClient", network)
    return network


@pytest.fixture
def sender(store: InMemoryDeliveries, network: Network) -> Iterator[WebhookSender]:
    sender = WebhookSender(store.open, worker_id="w1", secret_key=SECRET_KEY, concurrency=4)
    yield sender
    network.hold.set()
    assert sender.stop(5)
