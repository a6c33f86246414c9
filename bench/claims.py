"""How many no-op jobs a second 1, 2, 4 and 8 workers finish: our leased queue beside plain arq, on the same Valkey."""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack
from pathlib import Path

import redis
from arq.connections import RedisSettings, create_pool
from redis.asyncio import Redis
from uuid_utils import uuid7

from bench.processes import process, until
from shared.store import JobStore, NewJob

JOBS = {"leased": 10_000, "arq": 3_000}


async def _fill_leased(url: str, jobs: int) -> None:
    redis = Redis.from_url(url)
    store = JobStore(redis, result_ttl_seconds=600)
    for _ in range(jobs // 1000):
        await store.submit_many([NewJob("default", uuid7().hex, "noop", b"{}", 3) for _ in range(1000)])
    await redis.aclose()


async def _fill_arq(url: str, jobs: int) -> None:
    pool = await create_pool(RedisSettings.from_dsn(url))
    for _ in range(jobs // 500):
        await asyncio.gather(*(pool.enqueue_job("noop") for _ in range(500)))
    await pool.aclose()


def measure(url: str, kind: str, workers: int, log: Path) -> float:
    """Finished jobs/s: the queue is filled, the workers are up and wait for the word to start."""
    asyncio.run(_flush(url))
    asyncio.run(_fill_leased(url, JOBS[kind]) if kind == "leased" else _fill_arq(url, JOBS[kind]))
    with ExitStack() as running, redis.Redis.from_url(url) as client:
        for _ in range(workers):
            running.enter_context(process("-m", "bench.noop_worker", kind, url, log=log, LOG_LEVEL="WARNING"))
        until(lambda: int(client.get("bench:ready") or 0) == workers, 90, "not all workers are up")
        client.set("bench:go", "1")
        started = time.perf_counter()
        until(lambda: _left(client, kind) == 0, 120, f"{kind}: not all jobs ended")
        return JOBS[kind] / (time.perf_counter() - started)


def _left(client: redis.Redis, kind: str) -> int:
    if kind == "leased":
        return JOBS[kind] - int(client.zcard("mas:index:default:noop:succeeded"))  # type: ignore[arg-type]
    return int(client.zcard("arq:queue"))  # type: ignore[arg-type]


async def _flush(url: str) -> None:
    redis = Redis.from_url(url)
    await redis.flushall()
    await redis.aclose()
