"""Finished jobs/s: from the first submit of a burst over HTTP to the last end, by workers that are up and warm."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import redis
from uuid_utils import uuid7

from bench.graph import INPUT
from bench.processes import until, worker, workers_ready
from shared.store.keys import key

BATCH = 500
WARM = 100
SUCCEEDED = key("index", "default", "two_nodes", "succeeded")


def submit(base: str, jobs: int, *, threads: bool) -> None:
    """Submit so many jobs in batches, each of a thread of its own, or of none."""
    for begun in range(0, jobs, BATCH):
        own = [{"thread_id": uuid7().hex} if threads else {} for _ in range(min(BATCH, jobs - begun))]
        batch = [{"graph": "two_nodes", "input": INPUT, **one} for one in own]
        body = json.dumps({"jobs": batch}).encode()
        request = urllib.request.Request(f"{base}/jobs/batch", body, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            if not all("id" in item for item in json.load(answer)["items"]):
                raise RuntimeError("not all jobs were accepted")


def per_second(
    url: str, base: str, jobs: int, workers: int, folder: Path, *, threads: bool = False,
    settings: Mapping[str, str] | None = None,
) -> float:  # fmt: skip
    """Finished jobs/s of one burst, on an empty Valkey."""
    with ExitStack() as running, redis.Redis.from_url(url) as client:
        client.flushall()
        options = {"WORKER_ROLES": "jobs", **(settings or {})}
        for _ in range(workers):
            running.enter_context(worker(url, folder / "worker.log", **options))
        workers_ready(url, workers)
        submit(base, WARM * workers, threads=threads)
        ended(client, WARM * workers)
        started = time.perf_counter()
        submit(base, jobs, threads=threads)
        ended(client, WARM * workers + jobs)
        return jobs / (time.perf_counter() - started)


def ended(client: redis.Redis, jobs: int) -> None:
    """Wait until so many jobs have succeeded."""
    until(lambda: int(client.zcard(SUCCEEDED)) >= jobs, 180, "not all jobs ended")  # type: ignore[arg-type]
