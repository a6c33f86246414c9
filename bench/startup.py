"""From the start of a process until it is of use: a gateway is healthy, a worker has claimed a job."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import psutil
import redis
from redis.asyncio import Redis
from uuid_utils import uuid7

from bench.footprint import listener_pid
from bench.processes import ROOT, child, gateway, until, worker
from shared.store import JobStore, NewJob
from shared.store.keys import key, ref

GRAPH = "customer_service"  # the graph that the service brings
PAYLOAD = json.dumps({"input": {"messages": [{"role": "user", "content": "My router blinks red."}]}}).encode()


def gateway_start(url: str, folder: Path) -> tuple[float, float]:
    """Seconds from a gateway's start to healthy, and its memory in MB after it has accepted 1,000 jobs."""
    started = time.perf_counter()
    with gateway(url, folder / "gateway.log") as base:
        seconds = time.perf_counter() - started
        child("bench.load", "submit", base, 1000, 32)
        return seconds, psutil.Process(listener_pid(base)).memory_info().rss / 1e6


def worker_start(url: str, folder: Path) -> float:
    """Seconds from a worker's start, with the built-in graphs, until it has claimed the job that waits for it."""
    job = NewJob("default", uuid7().hex, GRAPH, PAYLOAD, 3)
    asyncio.run(_submit(url, job))
    record = key("job", ref(job.tenant, job.id))
    started = time.perf_counter()
    with (
        worker(url, folder / "worker.log", GRAPHS_CONFIG=str(ROOT / "langgraph.json")),
        redis.Redis.from_url(url) as client,
    ):
        until(lambda: bool(client.hexists(record, "started_at")), 60, "the worker claims nothing", every=0.005)
        return time.perf_counter() - started


async def _submit(url: str, job: NewJob) -> None:
    client = Redis.from_url(url)
    await JobStore(client, result_ttl_seconds=600).submit(job)
    await client.aclose()
