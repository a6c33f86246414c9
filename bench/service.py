"""What the service must show: every figure with its target, and whether it is met."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bench import finished, idle, sleepers, startup, waiting
from bench.claims import measure as claims
from bench.drained import submit
from bench.figures import COLUMNS, Figure, at_least, at_most, over
from bench.processes import child, gateway, publish, valkey, worker, workers_ready
from bench.report import conditions, keep, table
from bench.session import Session

WAITING = 1_000_000
WAITERS = 5000
IDLE_WORKERS = 8
IDLE_SECONDS = 15.0


def submits(session: Session) -> list[Figure]:
    """Submits/s of one gateway, one by one and in batches, with no worker: the jobs only wait."""
    url, folder = session.url, session.folder
    one_by_one, batched = [], []
    publish(url, folder)
    with gateway(url, folder / "gateway.log", MAX_QUEUE_DEPTH="0", MAX_TENANT_DEPTH="0") as base:
        submit(base, 500, threads=False)
        for _ in session.rounds():
            one_by_one.append(child("bench.load", "submit", base, 4000, 32)["per_second"])
            batched.append(child("bench.load", "batches", base, 20_000, 500)["per_second"])
    return [
        Figure("submits over 32 connections, one gateway", one_by_one, "jobs/s", target=at_least(2500)),
        Figure("submits in batches of 500, one gateway", batched, "jobs/s", target=at_least(20_000)),
    ]


def latency(session: Session) -> list[Figure]:
    """One submit and wait at a time, on an idle service, less one call of the bare graph just before and after."""
    url, folder = session.url, session.folder
    more: dict[str, list[float]] = {"p50": [], "p95": []}
    with worker(url, folder / "worker.log"), gateway(url, folder / "gateway.log") as base:
        workers_ready(url, 1)
        for _ in session.rounds():
            before = child("bench.bare", 500)
            idle_one = child("bench.load", "latency", base, 200)
            after = child("bench.bare", 500)
            for at, found in more.items():
                found.append((idle_one[at] - (before["p50"] + after["p50"]) / 2) * 1000)
    bounds = {"p50": 4.0, "p95": 10.0}
    return [
        Figure(f"idle, submit and wait, {at}, over the bare graph", found, "ms", target=at_most(bounds[at]))
        for at, found in more.items()
    ]


def claimed(session: Session) -> list[Figure]:
    """Claiming and finishing alone: our queue, keeper and store with a runner that does nothing, beside plain arq."""
    rates: dict[tuple[str, int], list[float]] = {("leased", 1): [], ("leased", 8): [], ("arq", 8): []}
    for _ in session.rounds():
        for (kind, workers), found in rates.items():
            found.append(claims(session.url, kind, workers, session.folder / "noop.log"))
    one, eight, arq = rates.values()
    return [
        Figure("claimed, 1 worker", one, "jobs/s"),
        Figure("claimed, 8 workers, beside 1", eight, "jobs/s", over(eight, one), "x 1 worker", at_least(1.0)),
        Figure("claimed, 8 workers, beside plain arq", eight, "jobs/s", over(eight, arq), "x arq", at_least(5.0)),
        Figure("plain arq, 8 workers", arq, "jobs/s"),
    ]


def many_waiting(session: Session) -> list[Figure]:
    """Memory and times with very many jobs in the queue."""
    found = waiting.measure(session.folder / "waiting", session.waiting, session.repeats)
    jobs = f"{session.waiting:,} waiting"
    figures = [
        Figure(f"{jobs}: Redis memory of a job, besides its input", [found.bytes_a_job], "bytes", target=at_most(1024))
    ]
    for what in ("submit", "claim"):
        full, empty = (found.p95[f"{what} {queue}"] for queue in ("full", "empty"))
        figures.append(
            Figure(f"{jobs}: {what}, p95", full, "ms", over(full, empty), "x empty queue", at_most(1.5)),
        )
    return [*figures, Figure(f"{jobs}: time to submit them, two processes", [found.fill_seconds], "s")]


def waiters(session: Session) -> list[Figure]:
    """Clients that all wait for a job each, on one gateway, while others poll."""
    rounds = []
    for _ in session.rounds():
        with gateway(session.url, session.folder / "gateway.log", MAX_CONNECTIONS="8192") as base:
            child("bench.waiters", session.url, base, 100, "ended")  # warm
            rounds.append(child("bench.waiters", session.url, base, WAITERS, "ended"))
    what = f"{WAITERS:,} waiters, and pollers, on one gateway, MAX_CONNECTIONS=8192"
    late, size = ([one[name] for one in rounds] for name in ("p95", "bytes"))
    return [
        Figure(f"{what}: p95 from a job's end to its answer", [one * 1000 for one in late], "ms", target=at_most(100)),
        Figure(f"{what}: gateway memory a waiter", [one / 1000 for one in size], "KB", target=at_most(100)),
    ]


def sleeping(session: Session) -> list[Figure]:
    """Many jobs that wait at once in one worker."""
    rounds = [sleepers.measure(session.folder / f"sleepers-{number}") for number in session.rounds()]
    what = f"{sleepers.JOBS} jobs that sleep 1 s, WORKER_CONCURRENCY={sleepers.JOBS}"
    return [
        Figure(f"{what}, `{how}`", [one[how] for one in rounds], "s", target=at_most(1.5)) for how in sleepers.GRAPHS
    ]


def starting(session: Session) -> list[Figure]:
    """From a process's start until it is of use."""
    gateways, sizes, workers = [], [], []
    publish(session.url, session.folder)
    for _ in session.rounds():
        seconds, megabytes = startup.gateway_start(session.url, session.folder)
        gateways.append(seconds)
        sizes.append(megabytes)
        workers.append(startup.worker_start(session.url, session.folder))
    return [
        Figure("gateway, start to healthy", gateways, "s", target=at_most(1.5)),
        Figure("worker with the built-in graphs, start to its first claim", workers, "s", target=at_most(4.0)),
        Figure("gateway, memory after 1,000 jobs", sizes, "MB"),
    ]


def idling(session: Session) -> list[Figure]:
    """What workers cost that have nothing to do."""
    found = idle.measure(session.folder / "idle", IDLE_WORKERS, session.repeats, IDLE_SECONDS)
    what = f"{IDLE_WORKERS} idle workers"
    return [
        Figure(f"{what}: the busiest one", found["worker"], "% of a core", target=at_most(1.0)),
        Figure(f"{what}: their Valkey", found["valkey"], "% of a core"),
    ]


MEASUREMENTS: dict[str, Callable[[Session], list[Figure]]] = {
    "finished": finished.measure,
    "submits": submits,
    "latency": latency,
    "claims": claimed,
    "waiting": many_waiting,
    "waiters": waiters,
    "sleepers": sleeping,
    "startup": starting,
    "idle": idling,
}


def measure(repeats: int, jobs: int, *, many: int = WAITING, only: Sequence[str] = ()) -> None:
    """Measure and print; keep where nothing is left out."""
    figures: list[Figure] = []
    started = time.perf_counter()
    for name in only or MEASUREMENTS:
        # A folder and a Valkey of its own each: what one leaves behind costs the next nothing.
        with tempfile.TemporaryDirectory() as temporary, valkey(Path(temporary)) as url:
            begun = time.perf_counter()
            found = MEASUREMENTS[name](Session(url, Path(temporary), repeats, jobs, many))
        for figure in found:
            print(" | ".join(figure.row), flush=True)
        print(f"{name}: {time.perf_counter() - begun:.0f} s", flush=True)
        figures += found
    missed = sum(not figure.target.met(figure.judged) for figure in figures if figure.target)
    judged = sum(figure.target is not None for figure in figures)
    body = (
        f"{conditions(repeats)} Valkey with `appendfsync always`; load, gateway, workers and Valkey share the cores. "
        f"It took {(time.perf_counter() - started) / 60:.0f} minutes. {judged - missed} of {judged} targets are met."
        "\n\n"
        f"{table(COLUMNS, [figure.row for figure in figures])}"
    )
    print(body)
    if not only and many == WAITING:
        keep("Service", body)
