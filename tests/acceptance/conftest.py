"""A gateway and workers as real processes on a real Valkey, and a client."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients import Client
from tests.servers import PROJECT, Gateway, Process, Processes, Valkey, wait_until

GRAPHS = str(PROJECT / "tests" / "projects" / "basic" / "langgraph.json")


def start_gateway(processes: Processes, redis_url: str) -> Gateway:
    return processes.gateway(redis_url, WEBHOOK_ALLOW_NETWORKS="127.0.0.0/8")


class Service:
    """The service of one test: a gateway, and workers that serve `tests/projects/basic`."""

    def __init__(self, processes: Processes, redis_url: str, gateway: Gateway | None = None) -> None:
        self.processes = processes
        self.redis_url = redis_url
        self.gateway = gateway or start_gateway(processes, redis_url)
        self.client = Client(self.gateway.ready().api)

    def start_workers(self, count: int = 1, **environment: str) -> list[Process]:
        """Start workers, and wait until they are on the list."""
        started = [self.start_worker(**environment) for _ in range(count)]
        self.wait_for(*started)
        return started

    def start_worker(self, **environment: str) -> Process:
        """Start a worker, which is not up yet."""
        settings = {
            "GRAPHS_CONFIG": GRAPHS,
            "WEBHOOK_ALLOW_NETWORKS": "127.0.0.0/8",
            **environment,
        }
        return self.processes.worker(self.redis_url, **settings)

    def wait_for(self, *workers: Process) -> None:
        """Wait until these are on the list."""
        pids = {worker.pid for worker in workers}
        wait_until(lambda: pids <= {one["pid"] for one in self.live_workers()}, 30, what="the workers are up")

    def live_workers(self) -> list[dict[str, object]]:
        return list(self.client.http.get("/workers").json()["items"])


@pytest.fixture(scope="module")
def gateway_of_this_file(tmp_path_factory: pytest.TempPathFactory, valkey_server: Valkey) -> Iterator[Gateway]:
    """A gateway on the Valkey of the run: it has seen other tests' jobs, of which nothing is left in Valkey."""
    with Processes(tmp_path_factory.mktemp("gateway")) as processes:
        yield start_gateway(processes, valkey_server.url)


@pytest.fixture
def service(processes: Processes, valkey_url: str, gateway_of_this_file: Gateway) -> Iterator[Service]:
    """An empty Valkey, and workers of the test's own. What stops the gateway, or counts, has `lone_service`."""
    started = Service(processes, valkey_url, gateway_of_this_file)
    with started.client:
        yield started


@pytest.fixture
def lone_service(processes: Processes, valkey_url: str) -> Iterator[Service]:
    """The same, with a gateway of the test's own."""
    started = Service(processes, valkey_url)
    with started.client:
        yield started


@pytest.fixture(scope="module")
def shared_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One service for all tests of a file, on a Valkey of its own: they keep apart by their queues and threads."""
    folder = tmp_path_factory.mktemp("service")
    valkey = Valkey(folder / "valkey")
    with Processes(folder / "processes") as processes:
        started = Service(processes, valkey.url)
        with started.client:
            yield started
    valkey.stop()


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    """A file to which the counted graphs add a line for each run."""
    path = tmp_path / "runs.txt"
    path.touch()
    return path
