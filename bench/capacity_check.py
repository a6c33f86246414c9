"""Two loads on real processes, and what was predicted for them: jobs that wait, and jobs that do nothing."""

from __future__ import annotations

import asyncio
import json
import math
import tempfile
import time
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import redis

from bench.capacity_model import ENDED_BYTES, Load, arrivals, needed, p95, slot_seconds, stretch, waiting
from bench.figures import shown, spread
from bench.graph import INPUT
from bench.http_client import Connection
from bench.processes import until, valkey, worker, workers_ready
from bench.report import keep, measured_on, table
from bench.tuning_gateway import TUNED
from bench.turns import cpu, served
from shared.store.keys import key

ROUNDS = 3
CONNECTIONS = 8
WARM_JOBS = 50
CALLS = ("evalsha", "fcall", "blpop", "blmpop", "bzpopmin", "bzmpop")  # what is sent, not what scripts call
COLUMNS = ("load", "what", "predicted", "measured, median (least to most)", "measured / predicted")
Figures = dict[str, float]


@dataclass(frozen=True)
class Point:
    """So many jobs of a load: none that a cost was taken from, or the check would prove nothing."""

    name: str
    graph: str
    input: Any
    load: Load
    jobs: int


CORES = psutil.cpu_count() or 1
POINTS = (
    Point(
        "35 jobs/s that wait for 0.9 s, two workers with 20 slots",
        "waits",
        {"seconds": 0.9},
        Load(35, 0.9, steps=1, payload_bytes=50, polls=0, concurrency=20, processes=2),
        jobs=700,
    ),
    Point(
        "60 jobs/s of two steps that do nothing, one worker",
        "two_nodes",
        INPUT,
        Load(60, 0, steps=2, payload_bytes=450, polls=0, processes=1),
        jobs=1200,
    ),
)


def check() -> int:
    """Measure, print and keep both."""
    rows = []
    for point in POINTS:
        rounds = []
        for _ in range(ROUNDS):
            with tempfile.TemporaryDirectory() as folder:
                rounds.append(measured(point, Path(folder)))
        left = [one["cores that others left"] for one in rounds]
        rows.append((point.name, "cores that others left", "", spread(left), ""))
        for name, low, high in predicted(point, median(left)):
            values = [one[name] for one in rounds]
            plan = "unknown" if math.isinf(high) else shown(low) if low == high else f"{shown(low)} to {shown(high)}"
            middle = median(values)
            beside = "" if math.isinf(high) else shown(middle / high if middle > high else min(middle / low, 1))
            rows.append((point.name, name, plan, spread(values), beside))
    rendered = table(COLUMNS, rows)
    print(rendered)
    keep("Capacity", f"{measured_on()} Median of {ROUNDS} runs; jobs come at random.\n\n{rendered}")
    return 0


def predicted(point: Point, cores: float) -> list[tuple[str, float, float]]:
    """What is measured, and between what it should be: CPU is of jobs that coincide, and of those that come alone.

    Infinite is unknown: on so many cores there is no room for jobs that come alone.
    """
    load = replace(point.load, cores=cores)
    answer = needed(load)
    held = waits = math.inf
    if stretch(answer) < math.inf:
        held, waits = slot_seconds(load) * 1000, p95(waiting(load, arrivals(load.jobs_per_second, point.jobs))) * 1000
    size = ENDED_BYTES + load.payload_bytes
    return [
        ("jobs that come a second", load.jobs_per_second, load.jobs_per_second),
        ("a job holds its slot, ms", held, held),
        ("a job waits, p95, ms", waits, waits),
        ("CPU of the workers, cores", *answer.workers),
        ("CPU of the gateway, cores", *answer.gateway),
        ("CPU of Redis, cores", *answer.redis),
        ("calls of Redis a second", answer.redis_calls, answer.redis_calls),
        ("Redis, bytes an ended job", size, size),
        ("memory of the workers, MB", answer.worker_bytes / 1e6, answer.worker_bytes / 1e6),
    ]


def measured(point: Point, folder: Path) -> Figures:
    """The same figures of the real processes, while jobs come at random."""
    with ExitStack() as running:
        url = running.enter_context(valkey(folder / "valkey"))
        client = running.enter_context(redis.Redis.from_url(url))
        slots = str(point.load.concurrency)
        workers = [
            running.enter_context(
                worker(url, folder / f"worker-{number}.log", GRAPHS_CONFIG=TUNED, WORKER_CONCURRENCY=slots)
            ).pid
            for number in range(point.load.processes)
        ]
        workers_ready(url, len(workers))
        gateway = running.enter_context(served(url, folder / "gateway.log"))
        asyncio.run(_submit(gateway.base, point, WARM_JOBS))
        _ended(client, point.graph, WARM_JOBS)
        before, calls, memory = _spent(client, workers, gateway.pid), _calls(client), _memory(client)
        started = time.perf_counter()
        jobs = asyncio.run(_submit(gateway.base, point, point.jobs))
        lasted = time.perf_counter() - started
        _ended(client, point.graph, WARM_JOBS + point.jobs)
        measured_for = time.perf_counter() - started
        spent = {name: now - before[name] for name, now in _spent(client, workers, gateway.pid).items()}
        calls, memory = _calls(client) - calls, _memory(client) - memory
        resident = sum(psutil.Process(pid).memory_info().rss for pid in workers)
        waited, held = asyncio.run(_times(gateway.base, jobs))
    others = spent.pop("all") - spent.pop("load") - sum(spent.values())
    planned = point.jobs / point.load.jobs_per_second  # CPU is by the job, for they come a little slower than planned
    return {
        "jobs that come a second": point.jobs / lasted,
        "a job holds its slot, ms": sum(held) / len(held) * 1000,
        "CPU of the workers, cores": spent["workers"] / planned,
        "CPU of the gateway, cores": spent["gateway"] / planned,
        "CPU of Redis, cores": spent["Redis"] / planned,
        "calls of Redis a second": calls / planned,
        "Redis, bytes an ended job": memory / point.jobs,
        "memory of the workers, MB": resident / 1e6,
        "a job waits, p95, ms": p95(waited) * 1000,
        "cores that others left": CORES - others / measured_for,
    }


async def _submit(base: str, point: Point, jobs: int) -> list[str]:
    """Submit at random times, so many a second on average, each at its time whatever became of the others."""
    left, ids = iter(arrivals(point.load.jobs_per_second, jobs)), []
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
    """Seconds that each job waited, and held its slot."""
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
    """CPU seconds so far: of each part, of the load, which is this process, and of the whole machine."""
    machine = psutil.cpu_times()
    used: dict[str, Any] = client.info("cpu")  # type: ignore[assignment]
    return {
        "workers": sum(map(cpu, workers)),
        "gateway": cpu(gateway),
        "Redis": float(used["used_cpu_user"]) + float(used["used_cpu_sys"]),
        "load": time.process_time(),
        "all": machine.user + machine.nice + machine.system + machine.irq + machine.softirq,
    }


def _calls(client: redis.Redis) -> int:
    """Calls that scripts are not counted twice in: what a script calls is not a round trip."""
    found: dict[str, Any] = client.info("commandstats")  # type: ignore[assignment]
    return sum(int(one["calls"]) for name, one in found.items() if name.removeprefix("cmdstat_") in CALLS)


def _memory(client: redis.Redis) -> int:
    found: dict[str, Any] = client.info("memory")  # type: ignore[assignment]
    return int(found["used_memory"])
