"""Many jobs that each wait for a second, at once in one worker: from the first submit to the last end."""

from __future__ import annotations

import json
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path

import redis

from bench.processes import ROOT, gateway, until, valkey, worker, workers_ready
from shared.store.keys import key

JOBS = 200
GRAPHS_CONFIG = str(ROOT / "bench" / "sleepers.langgraph.json")
GRAPHS = {"asyncio.sleep": "sleeps", "time.sleep": "sleeps_in_threads"}


def measure(folder: Path) -> dict[str, float]:
    """Seconds until `JOBS` jobs are done, by how they wait, in a worker that has run none before."""
    with ExitStack() as running:
        url = running.enter_context(valkey(folder))
        client = running.enter_context(redis.Redis.from_url(url))
        settings = {"WORKER_CONCURRENCY": str(JOBS), "GRAPHS_CONFIG": GRAPHS_CONFIG}
        running.enter_context(worker(url, folder / "worker.log", **settings))
        workers_ready(url, 1)
        base = running.enter_context(gateway(url, folder / "gateway.log"))
        return {how: _seconds(base, client, graph) for how, graph in GRAPHS.items()}


def _seconds(base: str, client: redis.Redis, graph: str) -> float:
    body = json.dumps({"jobs": [{"graph": graph, "input": {}}] * JOBS}).encode()
    request = urllib.request.Request(f"{base}/jobs/batch", body, {"content-type": "application/json"})
    index = key("index", "default", graph, "succeeded")
    started = time.perf_counter()
    with urllib.request.urlopen(request, timeout=10) as answer:
        if not all("id" in item for item in json.load(answer)["items"]):
            raise RuntimeError("not all jobs were accepted")
    until(lambda: int(client.zcard(index)) == JOBS, 60, "not all sleepers ended", every=0.002)  # type: ignore[arg-type]
    return time.perf_counter() - started
