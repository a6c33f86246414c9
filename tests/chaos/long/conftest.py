"""A gateway, a real Valkey, a webhook receiver, and workers to be killed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.chaos.load import Planned
from tests.chaos.traces import Clock, Kill, Traces, cut_by, read_traces
from tests.chaos.workers import WorkerPool
from tests.clients import Client
from tests.receivers import Receiver
from tests.servers import Processes, Valkey, wait_until

LEASE_SECONDS = 2.0
WORKERS = 4
END_SECONDS = 60.0


class Chaos:
    """One run: submit jobs, kill workers, and read what came of it."""

    def __init__(self, folder: Path, processes: Processes, valkey: Valkey) -> None:
        self.redis_url = valkey.url
        self.redis = valkey.client()
        self.clock = Clock()
        self.random = Random(1)
        self.receiver = Receiver()
        self.lines = folder / "lines.jsonl"
        self.lines.touch()
        self.workers = WorkerPool(
            folder / "workers",
            valkey.url,
            WORKERS,
            LEASE_SECONDS=str(LEASE_SECONDS),
            WEBHOOK_TIMEOUT_SECONDS="2",
            DATABASE_URL=f"sqlite:///{folder / 'threads.db'}",
        )
        self.gateway = processes.gateway(valkey.url, WEBHOOK_ALLOW_NETWORKS="127.0.0.0/8")
        self.client = Client(self.gateway.ready().api)
        self.planned: dict[str, Planned] = {}  # by job id, in the order of submits
        self.kills: list[Kill] = []

    def ready(self) -> None:
        """Wait until all workers are on the list."""
        self.workers.started()
        wait_until(lambda: len(self.client.http.get("/workers").json()["items"]) == WORKERS, 30, what="workers are up")

    def submit(self, planned: Sequence[Planned]) -> None:
        """Submit one batch."""
        jobs = [plan.request(str(self.lines), self.receiver.url) for plan in planned]
        answer = self.client.http.post("/jobs/batch", json={"jobs": jobs})
        assert answer.status_code == 202, answer.text
        self.planned |= {item["id"]: plan for item, plan in zip(answer.json()["items"], planned, strict=True)}

    def kill_one(self) -> None:
        """`kill -9` one of the workers, and note what it held."""
        pid, killed_at = self.workers.kill(self.random.randrange(WORKERS))
        self.kills.append(Kill(pid, killed_at, cut_by(self.redis, pid, self.clock)))

    def ended(self) -> dict[str, dict[str, Any]]:
        """Each job's document, once all have ended, or as they stand after a minute."""
        deadline = time.monotonic() + END_SECONDS
        with ThreadPoolExecutor(self.client.connections) as threads:
            waits = threads.map(lambda job: self.client.job(job, max(0, deadline - time.monotonic())), self.planned)
            return dict(zip(self.planned, waits, strict=True))

    def traces(self) -> Traces:
        return read_traces(self.lines, self.redis, self.planned, self.clock)

    def wait_for_deliveries(self) -> list[str]:
        """The webhook ids of the jobs that asked for one, once each has its one delivery."""
        wanted = [job for job, plan in self.planned.items() if plan.webhook]
        for job in wanted:
            wait_until(lambda job=job: self._delivered(job), 30, what=f"one delivery of {job}")
        return [request.headers["webhook-id"] for request in self.receiver.requests]

    def close(self) -> None:
        self.client.http.close()
        self.redis.close()

    def _delivered(self, job: str) -> bool:
        deliveries = self.client.http.get(f"/jobs/{job}/deliveries").json()["items"]
        assert len(deliveries) == 1, deliveries
        return bool(deliveries[0]["status"] == "delivered")


@pytest.fixture
def chaos(tmp_path: Path, processes: Processes, valkey_server: Valkey) -> Iterator[Chaos]:
    valkey_server.flush()
    run = Chaos(tmp_path, processes, valkey_server)
    with run.receiver, run.workers:
        run.ready()
        yield run
    run.close()
