"""`python -m bench` (or `make bench`): measures everything, prints the tables and keeps them in `results.md`.

`python -m bench service`, `savers`, `webhooks`, `protocol`, `auth` or `waiters` measures that part, and replaces its
section only.
`python -m bench soak` (or `make soak`) is no part of the whole, for it takes long; its exit status is 1 where something
grew.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import psutil
import redis

from bench.auth import measure as auth
from bench.claims import measure as claims
from bench.footprint import listener_pid
from bench.processes import child, gateway, until, valkey, worker, workers_ready
from bench.protocol import measure as protocol
from bench.report import conditions, keep, table
from bench.savers import measure as savers
from bench.soak import JOBS as SOAK_JOBS
from bench.soak import measure as soak
from bench.waiters import measure as waiters
from bench.webhooks import measure as webhooks

Row = tuple[str, str, str]


def finished(url: str, before: int, jobs: int) -> None:
    with redis.Redis.from_url(url) as client:
        until(
            lambda: int(client.zcard("mas:index:default:two_nodes:succeeded")) >= before + jobs,  # type: ignore[arg-type]
            180,
            "not all jobs ended",
        )


def drained_per_second(url: str, base: str, jobs: int, workers: int, folder: Path) -> float:
    """Finished jobs/s of a burst, from the first submit to the last end, with warm workers."""
    with ExitStack() as running, redis.Redis.from_url(url) as client:
        for _ in range(workers):
            running.enter_context(worker(url, folder / "worker.log", WORKER_ROLES="jobs"))
        workers_ready(url, workers)
        child("bench.load", "submit", base, 100, 8)  # warm
        until(
            lambda: not client.zcard("mas:leases") and not client.zcard("mas:index:default:two_nodes:queued"),
            30,
            "warm",
        )
        before = int(client.zcard("mas:index:default:two_nodes:succeeded"))  # type: ignore[arg-type]
        started = time.perf_counter()
        child("bench.load", "batches", base, jobs, 500)
        finished(url, before, jobs)
        return jobs / (time.perf_counter() - started)


def gateway_cost(url: str, folder: Path) -> tuple[float, float]:
    """Seconds from a gateway's start to healthy, and its memory in MB after it has accepted 1,000 jobs."""
    started = time.perf_counter()
    with gateway(url, folder / "gateway.log") as base:
        seconds = time.perf_counter() - started
        child("bench.load", "submit", base, 1000, 32)
        return seconds, psutil.Process(listener_pid(base)).memory_info().rss / 1e6


def run(repeats: int, jobs: int) -> list[Row]:
    """All figures: what, the median with its least and most, the ratio it stands for."""
    rows: list[Row] = []

    def note(what: str, values: list[float], unit: str, ratio: str = "") -> float:
        middle = statistics.median(values)
        rows.append((what, f"{middle:,.1f} {unit} ({min(values):,.1f} to {max(values):,.1f})", ratio))
        print(f"{what}: {rows[-1][1]} {ratio}", flush=True)
        return middle

    with tempfile.TemporaryDirectory() as name, valkey(Path(name)) as url:
        folder = Path(name)
        bare = [child("bench.bare", 1000) for _ in range(repeats)]
        bare_rate = note("bare graph, one process", [one["per_second"] for one in bare], "runs/s")
        bare_p50 = note("bare graph, p50", [one["p50"] * 1000 for one in bare], "ms")
        with worker(url, folder / "worker.log", WORKER_ROLES="jobs"):
            workers_ready(url, 1)  # it publishes the graph
        with gateway(url, folder / "gateway.log") as base:
            submits = [child("bench.load", "submit", base, 2000, 32)["per_second"] for _ in range(repeats)]
            note("submits over 32 connections, one gateway", submits, "jobs/s")
            batched = [child("bench.load", "batches", base, 5000, 500)["per_second"] for _ in range(repeats)]
            note("submits in batches of 500", batched, "jobs/s")
            for workers in (1, 2):
                rates = []
                for _ in range(repeats):
                    with redis.Redis.from_url(url) as client:
                        client.flushall()
                    rates.append(drained_per_second(url, base, jobs, workers, folder))
                rate = statistics.median(rates)
                note(f"finished, {workers} worker(s)", rates, "jobs/s", f"{rate / bare_rate:.2f} of the bare graph")
            with worker(url, folder / "worker.log", WORKER_ROLES="jobs"):
                workers_ready(url, 1)
                idle = [child("bench.load", "latency", base, 200) for _ in range(repeats)]
            p50 = statistics.median(one["p50"] * 1000 for one in idle)
            note(
                "idle, submit and wait, p50",
                [one["p50"] * 1000 for one in idle],
                "ms",
                f"bare graph + {p50 - bare_p50:.1f} ms",
            )
            note("idle, submit and wait, p95", [one["p95"] * 1000 for one in idle], "ms")
        starts, sizes = zip(*(gateway_cost(url, folder) for _ in range(repeats)), strict=True)
        note("gateway, start to healthy", list(starts), "s")
        note("gateway, memory after 1,000 jobs", list(sizes), "MB")
        for workers in (1, 2, 4, 8):
            ours = [claims(url, "leased", workers, folder / "noop.log") for _ in range(repeats)]
            theirs = [claims(url, "arq", workers, folder / "noop.log") for _ in range(repeats)]
            ratio = statistics.median(ours) / statistics.median(theirs)
            note(f"no-op jobs, {workers} worker(s), leased", ours, "jobs/s", f"{ratio:.1f} x plain arq")
            note(f"no-op jobs, {workers} worker(s), plain arq", theirs, "jobs/s")
    return rows


def service(repeats: int, jobs: int) -> None:
    """Measure the service as a whole, print and keep."""
    rows = run(repeats, jobs)
    servers = "Valkey with `appendfsync always`; load, gateway, workers and Valkey share the cores."
    keep("Service", f"{conditions(repeats)} {servers}\n\n{table(('what', 'figure', 'ratio'), rows)}")


PARTS = {
    "service": (service, 2000),
    "savers": (savers, 300),
    "webhooks": (webhooks, 2000),
    "protocol": (protocol, 2000),
    "auth": (auth, 1000),
    "waiters": (waiters, 5000),
}

if __name__ == "__main__":
    options = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    options.add_argument("part", nargs="?", choices=[*PARTS, "soak"], help="all but the soak, if not given")
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--jobs", type=int, help="jobs of a run")
    asked = options.parse_args()
    if asked.part == "soak":
        sys.exit(0 if soak(asked.jobs or SOAK_JOBS) else 1)
    for part in [asked.part] if asked.part else PARTS:
        measure, jobs = PARTS[part]
        measure(asked.repeats, asked.jobs or jobs)
