"""Two loads on real processes, and what was predicted for them: jobs that wait, and jobs that do nothing."""

from __future__ import annotations

import asyncio
import json
import random
import tempfile
import time
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import redis

from bench import capacity_costs as cost
from bench.capacity_model import Load, job_cpu, needed
from bench.capacity_queue import simulate
from bench.figures import shown
from bench.graph import INPUT
from bench.http_client import Connection
from bench.processes import until, valkey, worker, workers_ready
from bench.report import keep, measured_on, table
from bench.tuning_gateway import TUNED
from bench.turns import cpu, served
from shared.store.keys import key

CONNECTIONS = 8
WARM_JOBS = 50
CALLS = ("evalsha", "fcall", "blpop", "blmpop", "bzpopmin", "bzmpop")  # what is sent, not what scripts call
Figures = dict[str, float]


@dataclass(frozen=True)
class Point:
    name: str
    graph: str
    input: Any
    load: Load
    workers: int
    jobs: int


POINTS = (
    Point(
        "20 jobs/s that wait for 0.5 s, one worker with 12 slots",
        "waits",
        {"seconds": 0.5},
        Load(20, 0.5, steps=1, input_bytes=20, output_bytes=30, polls=0, concurrency=12),
        workers=1,
        jobs=400,
    ),
    Point(
        "200 jobs/s of two steps that do nothing, two workers",
        "two_nodes",
        INPUT,
        Load(200, 0, steps=2, input_bytes=50, output_bytes=400, polls=0, concurrency=10),
        workers=2,
        jobs=3000,
    ),
)


def check() -> int:
    """Measure, print and keep both."""
    rows = []
    for point in POINTS:
        with tempfile.TemporaryDirectory() as folder:
            found, planned = measured(point, Path(folder)), predicted(point)
        for name, value in planned.items():
            ratio = shown(found[name] / value) if value else ""
            rows.append((point.name, name, shown(value), shown(found[name]), ratio))
    rendered = table(("load", "what", "predicted", "measured", "measured / predicted"), rows)
    load = f"Load average of the machine: {psutil.getloadavg()[0]:.1f}."
    print(rendered + load)
    keep("Capacity", f"{measured_on()} {load} One run; arrivals are random.\n\n{rendered}")
    return 0


def predicted(point: Point) -> Figures:
    load, answer = point.load, needed(point.load, point.workers)
    waiting = simulate(
        rate=load.jobs_per_second,
        seconds=load.seconds_per_job + cost.JOB_LATENCY_SECONDS,
        cpu=job_cpu(load),
        slots=point.workers * load.concurrency,
        processes=point.workers,
        spread=False,
    )
    kept = needed(Load(**{**load.__dict__, "ttl_seconds": 1}), point.workers).redis_bytes
    empty = needed(Load(**{**load.__dict__, "ttl_seconds": 0}), point.workers).redis_bytes
    return {
        "jobs that come a second": load.jobs_per_second,
        "jobs that run at once": answer.running,
        "CPU of the workers, cores": answer.worker_cores,
        "CPU of the gateway, cores": answer.gateway_cores,
        "Redis, share of a core": answer.redis_cores,
        "Redis, round trips/s": answer.redis_calls,
        "Redis, bytes an ended job": (kept - empty) / 1.5 / load.jobs_per_second,
        "memory of the workers, MB": answer.worker_bytes / 1e6,
        "a job waits, p95, ms": waiting.p95 * 1000,
    }


def measured(point: Point, folder: Path) -> Figures:
    """The same figures of the real processes, while jobs come at random."""
    with ExitStack() as running:
        url = running.enter_context(valkey(folder / "valkey"))
        client = running.enter_context(redis.Redis.from_url(url))
        settings = {"GRAPHS_CONFIG": TUNED, "WORKER_CONCURRENCY": str(point.load.concurrency)}
        workers = [
            running.enter_context(worker(url, folder / f"worker-{number}.log", **settings)).pid
            for number in range(point.workers)
        ]
        workers_ready(url, point.workers)
        gateway = running.enter_context(served(url, folder / "gateway.log"))
        asyncio.run(_submit(gateway.base, point, WARM_JOBS))
        _ended(client, point.graph, WARM_JOBS)
        spent = _spent(client, workers, gateway.pid)
        calls, memory = _calls(client), _memory(client)
        started = time.perf_counter()
        jobs = asyncio.run(_submit(gateway.base, point, point.jobs))
        lasted = time.perf_counter() - started
        _ended(client, point.graph, WARM_JOBS + point.jobs)
        # By the job: where others take the machine's cores, jobs come slower than planned.
        planned = point.jobs / point.load.jobs_per_second
        used = {name: (now - spent[name]) / planned for name, now in _spent(client, workers, gateway.pid).items()}
        calls, memory = _calls(client) - calls, _memory(client) - memory
        resident = sum(psutil.Process(pid).memory_info().rss for pid in workers)
        waited, ran = asyncio.run(_times(gateway.base, jobs))
    return {
        "jobs that come a second": point.jobs / lasted,
        "jobs that run at once": sum(ran) / lasted,
        "CPU of the workers, cores": used["workers"],
        "CPU of the gateway, cores": used["gateway"],
        "Redis, share of a core": used["Redis"],
        "Redis, round trips/s": calls / planned,
        "Redis, bytes an ended job": memory / point.jobs,
        "memory of the workers, MB": resident / 1e6,
        "a job waits, p95, ms": sorted(waited)[int(len(waited) * 0.95)] * 1000,
    }


async def _submit(base: str, point: Point, jobs: int) -> list[str]:
    """Submit at random times, so many a second on average, each at its time whatever became of the others."""
    chance = random.Random(1)  # noqa: S311
    due, times = 0.0, []
    for _ in range(jobs):
        due += chance.expovariate(point.load.jobs_per_second)
        times.append(due)
    left, ids = iter(times), []
    body = json.dumps({"graph": point.graph, "input": point.input}).encode()
    begun = time.perf_counter()

    async def client(connection: Connection) -> None:
        request = connection.request("POST", "/jobs", body)
        for at in left:
            await asyncio.sleep(max(begun + at - time.perf_counter(), 0))
            ids.append(json.loads((await connection.send(request)).body)["id"])

    async with AsyncExitStack() as opened:
        clients = [await opened.enter_async_context(Connection.to(base)) for _ in range(CONNECTIONS)]
        await asyncio.gather(*map(client, clients))
    return ids


async def _times(base: str, jobs: list[str]) -> tuple[list[float], list[float]]:
    """Seconds that each job waited, and ran."""
    waited, ran = [], []
    async with Connection.to(base) as connection:
        for job in jobs:
            record = json.loads((await connection.send(connection.request("GET", f"/jobs/{job}"))).body)
            created, started, finished = (
                datetime.fromisoformat(record[name]).timestamp() for name in ("created_at", "started_at", "finished_at")
            )
            waited.append(started - created)
            ran.append(finished - started)
    return waited, ran


def _ended(client: redis.Redis, graph: str, jobs: int) -> None:
    index = key("index", "default", graph, "succeeded")
    until(lambda: int(client.zcard(index)) >= jobs, 120, "not all jobs ended", every=0.01)  # type: ignore[arg-type]


def _spent(client: redis.Redis, workers: list[int], gateway: int) -> Figures:
    """CPU seconds so far."""
    used: dict[str, Any] = client.info("cpu")  # type: ignore[assignment]
    return {
        "workers": sum(map(cpu, workers)),
        "gateway": cpu(gateway),
        "Redis": float(used["used_cpu_user"]) + float(used["used_cpu_sys"]),
    }


def _calls(client: redis.Redis) -> int:
    """Calls that scripts are not counted twice in: what a script calls is not a round trip."""
    found: dict[str, Any] = client.info("commandstats")  # type: ignore[assignment]
    return sum(int(one["calls"]) for name, one in found.items() if name.removeprefix("cmdstat_") in CALLS)


def _memory(client: redis.Redis) -> int:
    found: dict[str, Any] = client.info("memory")  # type: ignore[assignment]
    return int(found["used_memory"])
