"""A worker whose jobs do nothing: ours (the real queue, keeper and store) or plain arq's."""

from __future__ import annotations

import asyncio
import os
import sys
import time

import redis
import uvloop
from arq.connections import ArqRedis, RedisSettings
from arq.worker import Worker

from shared.logs import configure_logs
from shared.settings import Settings
from shared.store import JobStore, KeeperStore, connect, connect_blocking, connect_sync
from worker.graphs.catalogue import Catalogue
from worker.graphs.loading import LoadedGraph
from worker.keeper import Keeper
from worker.lease import FencedWriter, Lease
from worker.queue import JobWorker
from worker.runner import Runner

CONCURRENCY = 100


class NoopRunner(Runner):
    """Ends each attempt at once."""

    async def run(self, lease: Lease) -> None:
        await FencedWriter(self.store, self.worker, lease).finish("succeeded", output=b"null")


def wait_for_start(url: str) -> None:
    """Imports are done: say so, and wait until all workers may start together."""
    with redis.Redis.from_url(url) as client:
        client.incr("bench:ready")
        while not client.exists("bench:go"):
            time.sleep(0.002)


async def leased(url: str) -> None:
    settings = Settings(worker_concurrency=CONCURRENCY, worker_roles=["jobs"])
    name = f"noop-{os.getpid()}"
    pool = ArqRedis(connect(url).connection_pool)  # as `python -m worker` does
    store = JobStore(pool, result_ttl_seconds=600)
    catalogue = Catalogue([LoadedGraph("noop", "", None)], [])
    runner = NoopRunner(store, name, catalogue, None, job_timeout_seconds=60, max_output_bytes=0)  # type: ignore[arg-type]
    keeper = Keeper(
        KeeperStore(connect_sync(url, answer_within=5), name), 10, asyncio.get_running_loop(), lambda: {"id": name}
    )

    async def nothing() -> None: ...

    worker = JobWorker(
        settings,
        redis=pool,
        blocking=connect_blocking(url),
        store=store,
        keeper=keeper,
        runner=runner,
        housekeeping=nothing,
    )
    wait_for_start(url)
    try:
        await worker.main()
    finally:
        await worker.close()


async def noop(_: dict[object, object]) -> None:
    """arq's job."""


def plain_arq(url: str) -> None:
    asyncio.set_event_loop(uvloop.new_event_loop())
    worker = Worker(
        functions=[noop], redis_settings=RedisSettings.from_dsn(url), max_jobs=CONCURRENCY, poll_delay=0.01,
        keep_result=600, log_results=False,
    )  # fmt: skip
    wait_for_start(url)
    worker.run()


if __name__ == "__main__":
    kind, url = sys.argv[1:]
    configure_logs(Settings())
    plain_arq(url) if kind == "arq" else uvloop.run(leased(url))
