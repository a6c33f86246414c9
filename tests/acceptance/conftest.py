"""A gateway and workers as real processes on a real Valkey, and a client."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients import Client
from tests.servers import PROJECT, Gateway, Process, Processes, wait_until

GRAPHS = str(PROJECT / "tests" / "projects" / "basic" / "langgraph.json")


class Service:
    """The service of one test: a gateway, and workers that serve `tests/projects/basic`."""

    def __init__(self, processes: Processes, redis_url: str) -> None:
        self.processes = processes
        self.redis_url = redis_url
        self.gateway: Gateway = processes.gateway(redis_url, WEBHOOK_ALLOW_NETWORKS="127.0.0.0/8")
        self.client = Client(self.gateway.ready().api)

    def start_workers(self, count: int = 1, **environment: str) -> list[Process]:
        """Start workers, and wait until they are on the list."""
        before = len(self.live_workers())
        settings = {
            "GRAPHS_CONFIG": GRAPHS,
            "WEBHOOK_ALLOW_NETWORKS": "127.0.0.0/8",
            **environment,
        }
        started = [self.processes.worker(self.redis_url, **settings) for _ in range(count)]
        wait_until(lambda: len(self.live_workers()) == before + count, 30, what="the workers are up")
        return started

    def live_workers(self) -> list[dict[str, object]]:
        return list(self.client.http.get("/workers").json()["items"])


@pytest.fixture
def service(processes: Processes, valkey_url: str) -> Iterator[Service]:
    started = Service(processes, valkey_url)
    with started.client:
        yield started


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    """A file to which the counted graphs add a line for each run."""
    path = tmp_path / "runs.txt"
    path.touch()
    return path
