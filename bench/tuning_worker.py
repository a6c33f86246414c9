"""What the workers' settings do to jobs that wait and to jobs that compute."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack

import redis

from bench.processes import until, worker, workers_ready
from bench.savers import postgres
from bench.session import Session
from bench.tuning_gateway import TUNED
from bench.tuning_jobs import burst, post
from bench.turns import Knob, Measured, Served, Spent, in_turns, served
from shared.store.keys import key

# Of the graphs in tuning_graphs.py, jobs of a round: some seconds with the slowest setting.
JOBS = {"waits": 100, "computes": 100, "two_nodes": 200}
TAKEN = 20


def with_settings(
    session: Session, name: str, graph: str, ways: Mapping[str, dict[str, str]], *, threads: bool = False,
    jobs: Mapping[str, int] | None = None,
) -> Knob:  # fmt: skip
    """Workers that differ in these settings, each with a queue of its own, on one Valkey."""
    url, folder = session.url, session.folder
    with ExitStack() as running:
        client = running.enter_context(redis.Redis.from_url(url))
        gateway = running.enter_context(served(url, folder / "gateway.log"))
        measured: dict[str, Callable[[], Measured]] = {}
        expected = 0
        for number, (way, settings) in enumerate(ways.items()):
            queue = f"q{number}"
            one = running.enter_context(
                worker(url, folder / f"worker-{number}.log", GRAPHS_CONFIG=TUNED, WORKER_QUEUES=queue, **settings)
            )
            expected += int(settings.get("WORKER_PROCESSES", "1"))
            count = (jobs or {}).get(way, JOBS[graph])
            measured[way] = _one(client, gateway, one, graph, queue, count, threads)
        workers_ready(url, expected)
        for run in measured.values():
            run()  # warm
        return in_turns(name, session.rounds(), measured)


def _one(
    client: redis.Redis, gateway: Served, one: subprocess.Popen[bytes], graph: str, queue: str, jobs: int, threads: bool
) -> Callable[[], Measured]:
    def run() -> Measured:
        spent = Spent(worker=one.pid)
        seconds = burst(gateway.base, client, graph, queue, jobs, threads=threads)
        return {"jobs/s": jobs / seconds, "CPU ms of workers a job": spent.micros("worker", jobs) / 1000}

    return run


def waiting_jobs(session: Session) -> Knob:
    ways = {str(count): {"WORKER_CONCURRENCY": str(count)} for count in (10, 1, 50)}
    return with_settings(session, "WORKER_CONCURRENCY, jobs that wait 0.2 s", "waits", ways, jobs={"1": 10})


def computing_jobs(session: Session) -> Knob:
    ways = {str(count): {"WORKER_CONCURRENCY": str(count)} for count in (10, 1, 50)}
    return with_settings(session, "WORKER_CONCURRENCY, jobs that compute 20 ms", "computes", ways)


def processes(session: Session) -> Knob:
    ways = {str(count): {"WORKER_PROCESSES": str(count)} for count in (1, 2, 4)}
    return with_settings(session, "worker processes, jobs that compute 20 ms", "computes", ways)


def log_level(session: Session) -> Knob:
    ways = {level: {"LOG_LEVEL": level} for level in ("INFO", "WARNING", "DEBUG")}
    return with_settings(session, "LOG_LEVEL, worker", "two_nodes", ways)


def threads(session: Session) -> Knob:
    """The database of threads; without `synchronous_commit` PostgreSQL answers before a commit is on disk."""
    with postgres(session.folder / "postgres") as server:
        uri = server.get_uri()
        lazy = f"{uri}{'&' if '?' in uri else '?'}options=-c%20synchronous_commit%3Doff"
        ways = {
            "SQLite": {"DATABASE_URL": f"sqlite:///{session.folder}/bench-threads.db"},
            "PostgreSQL": {"DATABASE_URL": uri},
            "PostgreSQL, synchronous_commit=off": {"DATABASE_URL": lazy},
        }
        return with_settings(session, "DATABASE_URL, jobs with a thread each", "two_nodes", ways, threads=True)


def takeover(session: Session) -> Knob:
    """A worker is killed while it runs a job: how long until another one has started it again."""

    def measured(lease: str) -> Callable[[], Measured]:
        return lambda: {"s until a killed worker's job runs again": _takeover(session, lease)}

    ways = {lease: measured(lease) for lease in ("10", "2")}
    return in_turns("LEASE_SECONDS", iter(range(1)), ways)


def _takeover(session: Session, lease: str) -> float:
    """The other worker stands still until then, so that the first one takes the jobs."""
    url, folder = session.url, session.folder
    settings = {"GRAPHS_CONFIG": TUNED, "LEASE_SECONDS": lease, "WORKER_CONCURRENCY": str(TAKEN)}
    index = key("index", "default", "waits", "succeeded")
    with redis.Redis.from_url(url) as client, served(url, folder / "gateway.log") as gateway:
        client.flushall()
        with (
            worker(url, folder / "killed.log", **settings) as killed,
            worker(url, folder / "other.log", **settings) as other,
        ):
            workers_ready(url, 2)
            other.send_signal(signal.SIGSTOP)
            post(gateway.base, "/jobs/batch", {"jobs": [{"graph": "waits", "input": {"seconds": 1}}] * TAKEN})
            until(lambda: int(client.zcard(key("leases"))) == TAKEN, 10, "not all are claimed", every=0.002)  # type: ignore[arg-type]
            killed.kill()
            started = time.perf_counter()
            other.send_signal(signal.SIGCONT)
            until(lambda: int(client.zcard(index)) == TAKEN, 60, "not all ended", every=0.01)  # type: ignore[arg-type]
            return time.perf_counter() - started - 1
