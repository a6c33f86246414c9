"""Thousands who wait for a job each on one gateway, and some who poll: what one costs, and how soon it is answered.

The jobs are ended by a stand-in for workers, through the store. It shares a process, and so a clock, with the clients.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from statistics import median

import psutil
import uvloop
from redis.asyncio import Redis
from uuid_utils import uuid7

from bench.footprint import listener_pid
from bench.http_client import Connection
from bench.processes import child, gateway, valkey
from bench.report import conditions, keep, table
from shared.store import Claimed, JobStore, NewJob

WORKER = "stand-in"
PAYLOAD = json.dumps({"input": {"messages": [{"role": "user", "content": "hi"}]}}).encode()
OUTPUT = json.dumps({"messages": [{"role": "assistant", "content": "hello"}] * 3}).encode()
GROUP, PAUSE_SECONDS = 10, 0.02  # 500 ends a second
POLLERS, POLL_SECONDS = 50, 0.1
AT_ONCE = 1000  # submitted, or claimed
WAYS = {"ended": f"{GROUP} jobs end each {PAUSE_SECONDS * 1000:.0f} ms", "burst": "all jobs end at once"}


class Waiter:
    """One client, and when it had its answer."""

    def __init__(self, connection: Connection, job: str) -> None:
        self.connection = connection
        self.job = job
        self.answered_at = 0.0

    async def wait(self) -> None:
        request = self.connection.request("GET", f"/jobs/{self.job}?wait=60")
        status = ""
        while status != "succeeded":
            answer = await self.connection.send(request)
            self.answered_at = time.perf_counter()
            if answer.status != 200:
                raise RuntimeError(f"{answer.status}: {answer.body!r}")
            status = json.loads(answer.body)["status"]


async def measured(url: str, base: str, count: int, way: str) -> dict[str, float]:
    """What so many waiters cost, and their seconds from the end of a job to its answer.

    The clock starts before the end is sent to Redis, so that what Redis takes to store it counts too.
    """
    gateway_process = psutil.Process(listener_pid(base))
    async with AsyncExitStack() as opened, Redis.from_url(url) as redis:
        jobs = JobStore(redis, result_ttl_seconds=600)
        claimed = await _claimed(jobs, count)
        memory = gateway_process.memory_info().rss
        waiters, waiting = [], []
        for job in claimed:
            waiters.append(Waiter(await opened.enter_async_context(Connection.to(base)), job.id))
            waiting.append(asyncio.create_task(waiters[-1].wait()))
        await _quiet(gateway_process)
        bytes_each = (gateway_process.memory_info().rss - memory) / count
        cpu = _cpu(gateway_process)
        async with _polling(base, [job.id for job in claimed]) as polled:
            ended_at = await _end(jobs, claimed, way)
            await asyncio.gather(*waiting)
        late = sorted(waiter.answered_at - ended_at[waiter.job] for waiter in waiters)
        return {
            "p50": late[count // 2], "p95": late[int(count * 0.95)], "most": late[-1], "bytes": bytes_each,
            "cpu": (_cpu(gateway_process) - cpu) / count, "poll": median(polled or [0.0]), "polls": len(polled),
        }  # fmt: skip


async def _claimed(jobs: JobStore, count: int) -> list[Claimed]:
    claimed: list[Claimed] = []
    for start in range(0, count, AT_ONCE):
        size = min(AT_ONCE, count - start)
        await jobs.submit_many([NewJob("default", uuid7().hex, "waited_for", PAYLOAD, 3) for _ in range(size)])
    while len(claimed) < count:
        claim = await jobs.claim(
            WORKER, lease_seconds=600, limit=AT_ONCE, max_bytes=10**8, recover=False,
            queues=["default"], graphs=["waited_for"],
        )  # fmt: skip
        claimed += claim.jobs
    return claimed


async def _end(jobs: JobStore, claimed: Sequence[Claimed], way: str) -> dict[str, float]:
    """End all jobs. Gives when that was, by their ids."""
    ended_at: dict[str, float] = {}

    async def end(job: Claimed) -> None:
        ended_at[job.id] = time.perf_counter()
        if await jobs.finish(WORKER, job, "succeeded", output=OUTPUT) != "done":
            raise RuntimeError("a job had ended before")

    size = GROUP if way == "ended" else 100  # a client of Redis has so many connections at most
    for start in range(0, len(claimed), size):
        await asyncio.gather(*map(end, claimed[start : start + size]))
        if way == "ended":
            await asyncio.sleep(PAUSE_SECONDS)
    return ended_at


@asynccontextmanager
async def _polling(base: str, jobs: Sequence[str]) -> AsyncIterator[list[float]]:
    """Have others ask for jobs without waiting. Gives what each of their questions took, in seconds."""
    took: list[float] = []

    async def poll(number: int) -> None:
        async with Connection.to(base) as connection:
            requests = [connection.request("GET", f"/jobs/{job}") for job in jobs[number::POLLERS]]
            while True:
                for request in requests:
                    asked_at = time.perf_counter()
                    await connection.send(request)
                    took.append(time.perf_counter() - asked_at)
                    await asyncio.sleep(POLL_SECONDS)

    polling = [asyncio.create_task(poll(number)) for number in range(POLLERS)]
    try:
        yield took
    finally:
        for task in polling:
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*polling)


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


async def _quiet(process: psutil.Process) -> None:
    """Return once the process has nothing to do."""
    busy = 1.0
    while busy > 0.05:
        before = _cpu(process)
        await asyncio.sleep(0.5)
        busy = (_cpu(process) - before) / 0.5


def measure(repeats: int, count: int) -> None:
    """Measure, print and keep."""
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as name, valkey(Path(name)) as url:
        for _ in range(repeats):
            for way in WAYS:
                with gateway(url, Path(name) / "gateway.log") as base:
                    child("bench.waiters", url, base, 100, way)  # warm
                    found[way].append(child("bench.waiters", url, base, count, way))
    columns = ("", "answer after the end, p50, ms", "p95, ms", "most, ms", "KB a waiter", "gateway's CPU µs an end")
    rows = [
        [
            title,
            *(_spread([run[what] * 1000 for run in found[way]]) for what in ("p50", "p95", "most")),
            _spread([run["bytes"] / 1000 for run in found[way]]),
            _spread([run["cpu"] * 1e6 for run in found[way]]),
        ]
        for way, title in WAYS.items()
    ]
    load = f"{count:,} waiters on a gateway, and {POLLERS} who ask each {POLL_SECONDS * 1000:.0f} ms."
    body = f"{conditions(repeats)} {load}\n\n{table(columns, rows)}"
    print(body)
    keep("Waiters", body)


def _spread(values: list[float]) -> str:
    return f"{median(values):,.0f} ({min(values):,.0f} to {max(values):,.0f})"


if __name__ == "__main__":
    url_, base_, count_, way_ = sys.argv[1:]
    print(json.dumps(uvloop.run(measured(url_, base_, int(count_), way_))))
