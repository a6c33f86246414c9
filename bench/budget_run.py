"""One checkout's parts of a job, in a process of its own: CPU µs each, from the bare graph up to a whole attempt.

`python budget_run.py REDIS_URL ROUNDS`, with the checkout as `PYTHONPATH`: it uses only what every version has. Each
step does what the one before does, and one part more; they take turns, ten jobs at once.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from statistics import median
from typing import Any

import uvloop
from langgraph.checkpoint.memory import InMemorySaver
from redis.asyncio import Redis
from uuid_utils import uuid7

from bench.graph import INPUT, two_nodes
from shared.jobs import JobRequest
from shared.logs import configure_logs
from shared.settings import Settings
from shared.store import JobStore, NewJob, connect
from worker.graphs.catalogue import Catalogue
from worker.graphs.loading import LoadedGraph
from worker.lease import Lease
from worker.runner import Runner
from worker.usage import UsageCounter

WORKER, LEASE_SECONDS, SLOTS, BATCH = "bench", 3600, 10, 100
PAYLOAD = json.dumps({"input": INPUT}).encode()
BODY = json.dumps({"graph": "two_nodes", "input": INPUT}).encode()
Step = Callable[[Any], Awaitable[object]]


class StoreNowhere(JobStore):
    """Takes what an attempt writes, at once."""

    async def checkpoint(self, *_: Any, **__: Any) -> bool:
        return True

    async def append(self, *_: Any, **__: Any) -> bool:
        return True

    async def finish(self, *_: Any, **__: Any) -> Any:
        return "done"


async def taken(store: JobStore, jobs: int) -> list[Lease]:
    """Submit and claim so many jobs."""
    await store.submit_many([NewJob("default", uuid7().hex, "two_nodes", PAYLOAD, 3) for _ in range(jobs)])
    leases: list[Lease] = []
    while len(leases) < jobs:
        claim = await store.claim(
            WORKER, lease_seconds=LEASE_SECONDS, limit=500, max_bytes=10_000_000, recover=False,
            queues=["default"], graphs=["two_nodes"],
        )  # fmt: skip
        leases += [Lease(job, time.monotonic() + LEASE_SECONDS) for job in claim.jobs]
    return leases


async def steps(store: JobStore) -> dict[str, Step]:
    """What each step runs, in the order in which they grow."""
    catalogue = Catalogue([LoadedGraph("two_nodes", "", two_nodes)], [])
    await catalogue.describe()
    threads: Any = None  # no job here has one
    nowhere = StoreNowhere(store.redis, result_ttl_seconds=600)
    checkpointed = two_nodes.copy(update={"checkpointer": InMemorySaver()})

    async def stream(graph: Any, **options: Any) -> None:
        config = {"configurable": {"thread_id": uuid7().hex}, "callbacks": [UsageCounter()]}
        async for _ in graph.astream(INPUT, config, stream_mode=["values", "updates"], subgraphs=True, **options):
            pass

    def attempts(on: JobStore) -> Step:
        return Runner(on, WORKER, catalogue, threads, job_timeout_seconds=3600, max_output_bytes=0).run

    return {
        "graph": lambda _: two_nodes.ainvoke(INPUT),
        "streamed": lambda _: stream(two_nodes),
        "checkpointed": lambda _: stream(checkpointed, durability="sync"),
        "attempt": attempts(nowhere),
        "stored": attempts(store),
    }


async def cpu_us(step: Step, leases: Sequence[Lease]) -> float:
    """CPU µs a job, so many at once."""
    left = iter(leases)

    async def slot() -> None:
        for lease in left:
            await step(lease)

    gc.collect()  # or else a full collection falls on one step only
    begun = time.process_time()
    await asyncio.gather(*(slot() for _ in range(SLOTS)))
    return (time.process_time() - begun) / len(leases) * 1e6


def validation_us() -> float:
    """CPU µs to read the body of a submit."""
    begun = time.process_time()
    for _ in range(1000):
        JobRequest.model_validate_json(BODY)
    return (time.process_time() - begun) * 1e3


async def main(url: str, rounds: int) -> dict[str, float]:
    redis = Redis(connection_pool=connect(url, connections=64, answer_within=5).connection_pool)
    store = JobStore(redis, result_ttl_seconds=600)
    found: dict[str, list[float]] = {}

    async def submit(_: object) -> None:
        await store.submit(NewJob("default", uuid7().hex, "submitted", PAYLOAD, 3))

    by_name = await steps(store) | {"submit": submit}
    for number in range(rounds + 1):
        for name, step in by_name.items():
            took = await cpu_us(step, await taken(store, BATCH))
            if number:  # the first round was to get warm
                found.setdefault(name, []).append(took)
        found.setdefault("validation", []).append(validation_us())
    await redis.connection_pool.disconnect()
    return {name: median(values) for name, values in found.items()}


if __name__ == "__main__":
    configure_logs(Settings(log_level="WARNING"))  # as the workers of the benchmark have it
    print(json.dumps(uvloop.run(main(sys.argv[1], int(sys.argv[2])))))
