"""Attempts of jobs of one graph, run one at a time by the real runner on a Redis in memory."""

from __future__ import annotations

import asyncio
import operator
import time
from itertools import count, pairwise
from typing import Annotated, Any

import orjson
from langgraph.graph import END, START, StateGraph
from typing_extensions import TypedDict

from shared.store.keys import key
from tests.job_queue import GRAPH, TENANT, JobQueue
from worker.checkpoints.threads import ThreadMemory
from worker.encoding import to_json
from worker.graphs.catalogue import Catalogue
from worker.graphs.loading import LoadedGraph
from worker.lease import Lease
from worker.runner import Runner

WORKER = "w1"


class State(TypedDict, total=False):
    x: Any
    log: Annotated[list[str], operator.add]


def chain(*nodes: Any, state: type = State, **options: Any) -> StateGraph[Any, Any, Any, Any]:
    """A graph that runs these functions one after the other; each is a node by its own name."""
    graph = StateGraph(state, **options)
    names = [START, *(node.__name__ for node in nodes), END]
    for node in nodes:
        graph.add_node(node.__name__, node)
    for before, after in pairwise(names):
        graph.add_edge(before, after)
    return graph


class Attempts:
    """Submits jobs of one graph and runs their attempts, one at a time."""

    def __init__(self, queue: JobQueue, threads: ThreadMemory) -> None:
        self.queue = queue
        self.threads = threads
        self.limits: dict[str, Any] = {"job_timeout_seconds": 60, "max_output_bytes": 10_000_000}
        self.ids = (f"j{number}" for number in count(1))
        self.id = ""

    async def serve(self, source: Any) -> None:
        self.catalogue = Catalogue([LoadedGraph(GRAPH, "", source)], [])
        await self.catalogue.describe()
        assert self.catalogue.failures == {}

    async def submit(self, input_: Any = None, *, payload: bytes | None = None, **request: Any) -> None:
        """Submit a job; `max_attempts` and `thread_id` go into its record, the rest into what the worker reads."""
        self.id = next(self.ids)
        options = {name: request.pop(name) for name in ("max_attempts", "thread_id") if name in request}
        body = to_json({"input": {} if input_ is None else input_, **request})
        await self.queue.submit(self.id, payload=body if payload is None else payload, **options)

    async def claim(self) -> Lease:
        return Lease(await self.queue.take(WORKER), time.monotonic() + 60)

    async def run(self, lease: Lease | None = None) -> dict[str, Any]:
        """Run the next attempt; gives the record with its JSON parts read, and the output."""
        runner = Runner(self.queue.store, WORKER, self.catalogue, self.threads, **self.limits)
        await asyncio.wait_for(runner.run(lease or await self.claim()), 20)
        return await self.record()

    async def record(self) -> dict[str, Any]:
        job = await self.queue.store.get(TENANT, self.id)
        assert job is not None
        record: dict[str, Any] = {name.decode(): value.decode() for name, value in job.record.items()}
        for name in ("error", "interrupts", "usage"):
            record[name] = orjson.loads(record[name]) if record.get(name) else None
        return {**record, "output": orjson.loads(job.output) if job.output else None}

    async def events(self, type_: str | None = None) -> list[dict[str, Any]]:
        """The job's events but for those of its status."""
        raw: list[bytes] = await self.queue.redis.lrange(key("events", f"{TENANT}:{self.id}"), 0, -1)  # type: ignore[misc]
        events = [orjson.loads(event) for event in raw]
        return [event for event in events if event["type"] != "status" and type_ in (None, event["type"])]
