"""What very many waiting jobs cost: memory of each, and a submit's and a claim's time beside an empty queue's."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import redis
from redis.asyncio import Redis
from uuid_utils import uuid7

from bench.graph import INPUT
from bench.processes import ROOT, until, valkey
from shared.store import JobStore, NewJob

PAYLOAD = json.dumps({"input": INPUT}, separators=(",", ":")).encode()
FILLERS = 2
BATCH = 500
LOOKS = 300  # submits and claims of a run


@dataclass
class Waiting:
    """`bytes_a_job` besides its input; p95 in ms of each run, with very many waiting and with none."""

    fill_seconds: float = 0.0
    bytes_a_job: float = 0.0
    p95: dict[str, list[float]] = field(default_factory=dict)


async def fill(url: str, jobs: int) -> None:
    """Submit so many jobs, two batches on their way at once."""
    client = Redis.from_url(url)
    store = JobStore(client, result_ttl_seconds=3600)
    left = iter(range(0, jobs, BATCH))

    async def submit() -> None:
        for begun in left:
            batch = min(BATCH, jobs - begun)
            await store.submit_many([_job() for _ in range(batch)])

    await asyncio.gather(submit(), submit())
    await client.aclose()


async def look(full: str, empty: str) -> dict[str, float]:
    """p95 in ms of a submit and of a claim on each of the two, in turns. What is claimed is finished, unmeasured."""
    took: dict[str, list[float]] = {}
    clients = {"full": Redis.from_url(full), "empty": Redis.from_url(empty)}
    stores = {name: JobStore(client, result_ttl_seconds=3600) for name, client in clients.items()}
    for number in range(LOOKS + 20):
        names = ["full", "empty"] if number % 2 else ["empty", "full"]
        for name in names:
            started = time.perf_counter()
            await stores[name].submit(_job())
            took.setdefault(f"submit {name}", []).append(time.perf_counter() - started)
        for name in names:
            started = time.perf_counter()
            claim = await stores[name].claim(
                "bench", lease_seconds=60, limit=1, max_bytes=10_000_000, recover=True,
                queues=["default"], graphs=["two_nodes"], number=number + 1,
            )  # fmt: skip
            took.setdefault(f"claim {name}", []).append(time.perf_counter() - started)
            (job,) = claim.jobs
            await stores[name].finish("bench", job, "succeeded", output=b"null")
    for client in clients.values():
        await client.aclose()
    return {what: sorted(times[20:])[int(LOOKS * 0.95)] * 1000 for what, times in took.items()}


def _job() -> NewJob:
    return NewJob("default", uuid7().hex, "two_nodes", PAYLOAD, 3)


def measure(folder: Path, jobs: int, repeats: int) -> Waiting:
    """Fill a Valkey with so many jobs, once; then look at it so many times."""
    found = Waiting()
    with ExitStack() as running:
        full, empty = (running.enter_context(valkey(folder / name)) for name in ("full", "empty"))
        client = running.enter_context(redis.Redis.from_url(full))
        before = _used_memory(client)
        started = time.perf_counter()
        _fill_from_processes(full, jobs, running)
        found.fill_seconds = time.perf_counter() - started
        until(lambda: not client.info("persistence")["aof_rewrite_in_progress"], 180, "the AOF is still rewritten")  # type: ignore[index]
        found.bytes_a_job = (_used_memory(client) - before) / jobs - len(PAYLOAD)
        client.config_set("auto-aof-rewrite-percentage", 0)  # else one may fall into a run, on this side only
        for _ in range(repeats):
            for what, p95 in asyncio.run(look(full, empty)).items():
                found.p95.setdefault(what, []).append(p95)
    return found


def _fill_from_processes(url: str, jobs: int, running: ExitStack) -> None:
    shares = [jobs // FILLERS] * (FILLERS - 1) + [jobs - jobs // FILLERS * (FILLERS - 1)]
    fillers = []
    for share in shares:
        command = [sys.executable, "-m", "bench.waiting", url, str(share)]
        fillers.append(running.enter_context(subprocess.Popen(command, cwd=ROOT)))
        running.callback(fillers[-1].kill)
    if any(filler.wait() for filler in fillers):
        raise RuntimeError("the jobs could not all be submitted")


def _used_memory(client: redis.Redis) -> int:
    return int(client.info("memory")["used_memory"])  # type: ignore[index]


if __name__ == "__main__":
    asyncio.run(fill(sys.argv[1], int(sys.argv[2])))
