"""What the service takes of a machine: memory of its processes, and what a job leaves in memory and on disk."""

from __future__ import annotations

import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import psutil
import psycopg
import redis

from bench.processes import until, valkey, worker, workers_ready
from bench.report import keep, measured_on, table
from bench.savers import postgres
from bench.tuning_gateway import TUNED
from bench.tuning_jobs import burst
from bench.turns import served

MB = 1_000_000
AT_ONCE = 200
IDLE_SECONDS = 16.0
Row = tuple[str, str]


def measure(repeats: int, jobs: int) -> None:
    """Measure, print and keep. Each is measured once, `repeats` is not looked at: sizes hardly differ between runs."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name, valkey(Path(name) / "valkey") as url:
        for part in (_gateway, _worker, _idle, _jobs, _threads):
            rows += part(url, Path(name), jobs)
    rendered = table(("what", "size"), rows)
    print(rendered)
    keep("Sizes", f"{measured_on()} Graphs of one or two nodes, inputs of some bytes, {jobs} jobs.\n\n{rendered}")


def _gateway(url: str, folder: Path, jobs: int) -> list[Row]:
    with served(url, folder / "gateway.log", GATEWAY_WORKERS="4") as gateway:
        parts = [psutil.Process(gateway.pid), *psutil.Process(gateway.pid).children(recursive=True)]
        memory = [one.memory_full_info() for one in parts]
        serving = sorted(memory, key=lambda one: one.rss)[-4:]
        return [
            ("gateway process that serves, RSS (USS: its own alone)", _rss_and_uss(serving[0])),
            (
                "gateway with GATEWAY_WORKERS=4, all its processes, PSS",
                f"{sum(one.pss for one in memory) / MB:,.0f} MB",
            ),
        ]


def _worker(url: str, folder: Path, jobs: int) -> list[Row]:
    with (
        served(url, folder / "gateway.log") as gateway,
        worker(url, folder / "worker.log", GRAPHS_CONFIG=TUNED, WORKER_CONCURRENCY=str(AT_ONCE)) as one,
        redis.Redis.from_url(url) as client,
    ):
        workers_ready(url, 1)
        process = psutil.Process(one.pid)
        rows = [("worker, idle, RSS (USS)", _rss_and_uss(process.memory_full_info()))]
        idle = process.memory_info().rss
        burst(gateway.base, client, "waits", "default", AT_ONCE)
        full = process.memory_info().rss
        rows.append((f"a worker that has run {AT_ONCE} jobs at once, RSS", f"{full / MB:,.0f} MB"))
        each = f"{(full - idle) / AT_ONCE / 1000:,.0f} KB"
        rows.append(("of that for each job that ran at once, without what its graph keeps", each))
        return rows


def _jobs(url: str, folder: Path, jobs: int) -> list[Row]:
    """Of jobs that have ended: Redis' memory, its append-only file, and the logs."""
    log = folder / "app.log"
    with ExitStack() as running:
        client = running.enter_context(redis.Redis.from_url(url))
        gateway = running.enter_context(served(url, folder / "gateway.log", LOG_FILE=str(log), LOG_LEVEL="INFO"))
        running.enter_context(
            worker(
                url,
                folder / "worker.log",
                GRAPHS_CONFIG=TUNED,
                LOG_FILE=str(log),
                LOG_LEVEL="INFO",
                WORKER_ROLES="jobs",
            )
        )
        workers_ready(url, 1)
        burst(gateway.base, client, "two_nodes", "default", 200)
        before = _kept(client, folder, log)
        for _ in range(jobs // 500):
            burst(gateway.base, client, "two_nodes", "default", 500)
        small = _kept(client, folder, log)
        count = jobs // 500 * 500
        names = ("Redis' memory", "Redis' append-only file, until it is rewritten", "logs at INFO")
        return [
            (f"a job that has ended: {name}", f"{(after - begun) / count:,.0f} bytes")
            for name, after, begun in zip(names, small, before, strict=True)
        ]


def _idle(url: str, folder: Path, jobs: int) -> list[Row]:
    """What heartbeats and empty claims write, which a rewrite makes nothing of."""
    with redis.Redis.from_url(url) as client, served(url, folder / "gateway.log"), ExitStack() as running:
        for number in range(2):
            running.enter_context(worker(url, folder / f"worker-{number}.log", GRAPHS_CONFIG=TUNED))
        workers_ready(url, 2)
        time.sleep(IDLE_SECONDS / 4)
        before = _kept(client, folder, folder / "gateway.log")[1]
        time.sleep(IDLE_SECONDS)
        grown = _kept(client, folder, folder / "gateway.log")[1] - before
    each = f"{grown / IDLE_SECONDS / 2 / 1000:,.1f} KB/s"
    return [("an idle worker with 3 graphs: Redis' append-only file, until it is rewritten", each)]


def _kept(client: redis.Redis, folder: Path, log: Path) -> tuple[int, int, int]:
    memory: dict[str, Any] = client.info("memory")  # type: ignore[assignment]
    files = sum(file.stat().st_size for file in (folder / "valkey").rglob("*.aof"))
    return int(memory["used_memory"]), files, log.stat().st_size


def _threads(url: str, folder: Path, jobs: int) -> list[Row]:
    """Of jobs with a thread each, in a database that is empty at first."""
    rows = []
    for name, database in (("SQLite", _sqlite), ("PostgreSQL", _postgresql)):
        with ExitStack() as running:
            client = running.enter_context(redis.Redis.from_url(url))
            address, size = running.enter_context(database(folder))
            gateway = running.enter_context(served(url, folder / "gateway.log"))
            with worker(url, folder / "worker.log", GRAPHS_CONFIG=TUNED, DATABASE_URL=address, WORKER_ROLES="jobs"):
                workers_ready(url, 1)
                burst(gateway.base, client, "two_nodes", "default", 100, threads=True)
                before = size()
                burst(gateway.base, client, "two_nodes", "default", 500, threads=True)
                rows.append((f"a job of two steps in a thread: {name}", f"{(size() - before) / 500 / 1000:,.1f} KB"))
            _workers_gone(client)
    return rows


def _workers_gone(client: redis.Redis) -> None:
    until(lambda: not client.keys("mas:worker:*"), 10, "the worker is still there")


@contextmanager
def _sqlite(folder: Path) -> Iterator[tuple[str, Callable[[], int]]]:
    file = folder / "sizes.db"

    def size() -> int:  # as it will be once what stands in the write-ahead log is in the file
        with closing(sqlite3.connect(file)) as connection:
            pages, bytes_each = (
                connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size")
            )
        return int(pages * bytes_each)

    yield f"sqlite:///{file}", size


@contextmanager
def _postgresql(folder: Path) -> Iterator[tuple[str, Callable[[], int]]]:
    with postgres(folder / "postgres") as server:
        uri = server.get_uri()

        def size() -> int:
            with psycopg.connect(uri) as connection:
                row = connection.execute("SELECT pg_database_size(current_database())").fetchone()
            return int(row[0]) if row else 0

        yield uri, size


def _rss_and_uss(memory: Any) -> str:
    return f"{memory.rss / MB:,.0f} MB ({memory.uss / MB:,.0f})"
