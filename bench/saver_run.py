"""One saver, in a process of its own: the graph run one job at a time and ten at once, and what a job took.

A saver of LangGraph's runs as its documentation shows it: compiled into the graph, a thread for each job. Ours run as
in a worker: opened for each job, under its lease. Jobs are submitted and claimed before the clock starts. Batches take
turns with batches of the bare graph, so that what else the machine does falls on both alike.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, suppress
from typing import Any

import psutil
import uvloop
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool
from redis.asyncio import Redis

from bench.graph import INPUT, two_nodes
from bench.statements import counted_statements
from shared.store import Claimed, JobStore, NewJob, connect
from worker.checkpoints.pinned import PinnedSaver
from worker.checkpoints.progress import open_saver
from worker.checkpoints.threads import ThreadMemory
from worker.lease import FencedWriter, Lease

WORKER = "bench"
LEASE_SECONDS = 3600
SLOTS = 10
BATCH = 50
COUNTED_JOBS = 20
THEIRS = ("memory", "sqlite", "postgres")
RunJob = Callable[[Claimed], Awaitable[None]]


class CountedRedis(Redis):
    """Counts its round trips."""

    trips = 0

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        self.trips += 1
        return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]


async def take_jobs(store: JobStore, jobs: int, *, threads: bool) -> list[Claimed]:
    """Submit and claim so many jobs, with a thread each or with none."""
    names = [f"{time.time_ns()}-{number}" for number in range(jobs)]
    await store.submit_many(
        [NewJob("default", name, "two_nodes", b"{}", 3, thread_id=name if threads else None) for name in names]
    )
    taken: list[Claimed] = []
    while len(taken) < jobs:
        claim = await store.claim(
            WORKER, lease_seconds=LEASE_SECONDS, limit=500, max_bytes=10_000_000, recover=False,
            queues=["default"], graphs=["two_nodes"],
        )  # fmt: skip
        taken += claim.jobs
    return taken


def writer_of(store: JobStore, job: Claimed) -> FencedWriter:
    return FencedWriter(store, WORKER, Lease(job, time.monotonic() + LEASE_SECONDS))


async def the_driver(driver: Any) -> Any:
    return driver


async def run_bare(_: Claimed) -> None:
    await two_nodes.ainvoke(INPUT)


async def their_saver(case: str, database_url: str, resources: AsyncExitStack) -> Any:
    """LangGraph's own, opened as its documentation says."""
    if case == "memory":
        return InMemorySaver()
    if case == "sqlite":
        path = database_url.removeprefix("sqlite:///")
        return await resources.enter_async_context(AsyncSqliteSaver.from_conn_string(path))
    pool: Any = AsyncConnectionPool(
        database_url, max_size=SLOTS, open=False,
        kwargs={"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row},
    )  # fmt: skip
    saver = AsyncPostgresSaver(await resources.enter_async_context(pool))
    await saver.setup()
    return saver


async def how_to_run(case: str, store: JobStore, threads: ThreadMemory, theirs: Any) -> RunJob:
    """How this case runs a job's graph to its end."""
    if case == "bare":
        return run_bare
    if theirs is not None:
        shared = theirs
        graph = two_nodes.copy(update={"checkpointer": shared})

        async def run_with_theirs(job: Claimed) -> None:
            await graph.ainvoke(INPUT, {"configurable": {"thread_id": job.id}}, durability="sync")

        return run_with_theirs

    async def run_with_ours(job: Claimed) -> None:
        saver = await open_saver(writer_of(store, job), threads)
        graph = two_nodes.copy(update={"checkpointer": saver})
        await graph.ainvoke(INPUT, {"configurable": {"thread_id": job.id}}, durability="sync")
        if isinstance(saver, PinnedSaver):
            await saver.ended()
        else:
            await saver.stored.settled()

    return run_with_ours


async def run_all(run: RunJob, jobs: Sequence[Claimed], slots: int) -> None:
    left = iter(jobs)

    async def slot() -> None:
        for job in left:
            await run(job)

    await asyncio.gather(*(slot() for _ in range(slots)))


def cpu_seconds(pids: Sequence[int]) -> float:
    """User and system time of these processes and of all that they have started."""
    seconds = 0.0
    for pid in pids:
        process = psutil.Process(pid)
        times = process.cpu_times()
        seconds += times.user + times.system + times.children_user + times.children_system
        for child in process.children():
            with suppress(psutil.NoSuchProcess):  # ended just now
                times = child.cpu_times()
                seconds += times.user + times.system
    return seconds


async def measure(case: str, redis_url: str, database_url: str, jobs: int, pids: Sequence[int]) -> dict[str, float]:
    """A job's milliseconds of this process's CPU, the servers' and the clock, with so many slots, for the case and bare
    (`<what>_<slots>`, `bare_<what>_<slots>`); its round trips to Redis, and its SQL statements."""
    redis = CountedRedis(connection_pool=connect(redis_url, connections=64, answer_within=5).connection_pool)
    store, threads = JobStore(redis, result_ttl_seconds=600), ThreadMemory(database_url)
    resources = AsyncExitStack()
    theirs = await their_saver(case, database_url, resources) if case in THEIRS else None
    run = await how_to_run(case, store, threads, theirs)
    batches = max(1, jobs // BATCH)
    jobs = batches * BATCH
    taken = iter(await take_jobs(store, BATCH + 2 * jobs + COUNTED_JOBS, threads=case.endswith("_pinned")))
    sums: defaultdict[str, float] = defaultdict(float)

    async def timed(prefix: str, run: RunJob, batch: Sequence[Claimed], slots: int) -> None:
        gc.collect()  # or else a full collection falls on one side only
        servers, cpu, wall = cpu_seconds(pids), time.process_time(), time.perf_counter()
        await run_all(run, batch, slots)
        sums[f"{prefix}wall_{slots}"] += time.perf_counter() - wall
        sums[f"{prefix}cpu_{slots}"] += time.process_time() - cpu
        sums[f"{prefix}servers_{slots}"] += cpu_seconds(pids) - servers

    warm = [next(taken) for _ in range(BATCH)]
    await run_all(run_bare, warm, SLOTS)
    await run_all(run, warm, SLOTS)
    gc.freeze()
    redis.trips = 0
    for slots in (1, SLOTS):
        for _ in range(batches):
            batch = [next(taken) for _ in range(BATCH)]
            await timed("bare_", run_bare, batch, slots)
            await timed("", run, batch, slots)
    figures = {name: seconds * 1000 / jobs for name, seconds in sums.items()}
    figures["trips"] = redis.trips / (2 * jobs)
    if case.startswith(("sqlite", "postgres")):
        sqlite = None
        if case.startswith("sqlite"):
            sqlite = (theirs or await threads.ask(the_driver)).conn
        async with counted_statements(sqlite) as counts:
            await run_all(run, [next(taken) for _ in range(COUNTED_JOBS)], 1)
        figures["statements"] = counts["statements"] / COUNTED_JOBS
    await resources.aclose()
    await threads.close()
    await redis.connection_pool.disconnect()
    return figures


async def main() -> None:
    case, redis_url, database_url, jobs, *pids = sys.argv[1:]
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(SLOTS + 4))  # as a worker has it
    print(json.dumps(await measure(case, redis_url, database_url, int(jobs), [int(pid) for pid in pids])))


if __name__ == "__main__":
    uvloop.run(main())
