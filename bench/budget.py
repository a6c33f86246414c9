"""A job's budget: CPU µs by part, of this checkout and, in turns with it, of an earlier one."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

import psutil
import redis

from bench.drained import SUCCEEDED, ended, submit
from bench.footprint import listener_pid
from bench.processes import ROOT, child, gateway, valkey, worker, workers_ready
from bench.report import keep, measured_on, table

ROUNDS = 5
REQUESTS = 1000
# By process: a part, and the measured steps that it is the difference of.
PARTS = {
    "worker": {
        "LangGraph: the graph alone": ("graph", None),
        "streaming its steps, counting tokens": ("streamed", "graph"),
        "checkpoints, as LangGraph makes them": ("checkpointed", "streamed"),
        "packing them, events, output as JSON, lease and fence": ("attempt", "checkpointed"),
        "Redis round trips: checkpoints, events, end": ("stored", "attempt"),
        "claiming, tasks, keeper, metrics, logs": ("worker", "stored"),
        "**a job, in the worker**": ("worker", None),
    },
    "Valkey": {
        "a submit, in batches": ("valkey submit", None),
        "**a run: claim, checkpoints, events, end**": ("valkey run", None),
    },
    "gateway": {
        "HTTP and the layers (`GET /health/live`)": ("live", None),
        "reading and checking the body": ("validation", None),
        "Redis round trip": ("submit", None),
        "**a submit, one by one**": ("posted", None),
        "**a submit, in batches of 500**": ("batched", None),
        "**a poll of a job that has ended**": ("polled", None),
    },
}


def cpu(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


class _Watch:
    """The CPU µs that processes have used since it was made, by so many jobs."""

    def __init__(self, **pids: int) -> None:
        self._pids = pids
        self._begun = {name: cpu(pid) for name, pid in pids.items()}

    def a(self, name: str, jobs: int) -> float:
        return (cpu(self._pids[name]) - self._begun[name]) / jobs * 1e6


def once(checkout: Path, folder: Path, jobs: int) -> dict[str, float]:
    """All steps of one checkout, on a Valkey of its own."""
    with ExitStack() as running:
        url = running.enter_context(valkey(folder))
        client = running.enter_context(redis.Redis.from_url(url))
        found = _in_process(checkout, url)
        client.flushall()
        one = running.enter_context(worker(url, folder / "worker.log", checkout=checkout, WORKER_ROLES="jobs"))
        workers_ready(url, 1)
        base = running.enter_context(gateway(url, folder / "gateway.log", checkout=checkout))
        server = int(client.info("server")["process_id"])  # type: ignore[index]
        pids = {"worker": one.pid, "gateway": listener_pid(base), "valkey": server}
        submit(base, 200, threads=False)
        ended(client, 200)
        one.send_signal(signal.SIGSTOP)
        watch = _Watch(**pids)
        submit(base, jobs, threads=False)
        found |= {"batched": watch.a("gateway", jobs), "valkey submit": watch.a("valkey", jobs)}
        watch = _Watch(**pids)
        one.send_signal(signal.SIGCONT)
        ended(client, 200 + jobs)
        found |= {"worker": watch.a("worker", jobs), "valkey run": watch.a("valkey", jobs)}
        one.send_signal(signal.SIGSTOP)
        job = client.zrange(SUCCEEDED, 0, 0)[0].decode()  # type: ignore[index]
        for what, path in (("live", "/health/live"), ("polled", f"/jobs/{job}")):
            watch = _Watch(**pids)
            _get(base, path)
            found[what] = watch.a("gateway", REQUESTS)
        watch = _Watch(**pids)
        child("bench.load", "submit", base, REQUESTS, 8)
        found["posted"] = watch.a("gateway", REQUESTS)
        one.send_signal(signal.SIGCONT)
        return found


def _in_process(checkout: Path, url: str) -> dict[str, float]:
    program = str(Path(__file__).with_name("budget_run.py"))
    command = [sys.executable, "-P", program, url, str(ROUNDS)]
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    done = subprocess.run(command, cwd=checkout, env=environment, check=True, stdout=subprocess.PIPE)
    return dict(json.loads(done.stdout))


def _get(base: str, path: str) -> None:
    """So many requests, one after the other on one connection."""
    address = urlsplit(base)
    connection = http.client.HTTPConnection(str(address.hostname), address.port)
    for _ in range(REQUESTS):
        connection.request("GET", f"{address.path}{path}")
        with connection.getresponse() as answer:
            answer.read()
            if answer.status != 200:
                raise RuntimeError(f"{path}: {answer.status}")
    connection.close()


def rows(runs: Mapping[str, list[dict[str, float]]]) -> list[list[str]]:
    """A row for each part, a column for each checkout; a part is the median of the differences in a run."""
    found = []
    for process, parts in PARTS.items():
        for part, (step, less) in parts.items():
            cells = [f"{median(run[step] - (run[less] if less else 0) for run in each):,.0f}" for each in runs.values()]
            found.append([process, part, *cells])
    return found


def measure(repeats: int, jobs: int, *, before: Path | None = None) -> None:
    """Measure and print; keep where there is a checkout to compare with."""
    checkouts = ({"before": before.resolve()} if before else {}) | {"after" if before else "CPU µs": ROOT}
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in checkouts}
    started = time.perf_counter()
    for _ in range(repeats):
        for name, checkout in checkouts.items():
            with tempfile.TemporaryDirectory() as folder:
                runs[name].append(once(checkout, Path(folder), jobs))
    commits = ", ".join(f"{name}: {_commit(checkout)}" for name, checkout in checkouts.items())
    body = (
        f"{measured_on()} CPU µs (user and system), median of {repeats} runs in turns ({commits}), which took "
        f"{(time.perf_counter() - started) / 60:.0f} minutes.\n\n{table(('process', 'part', *checkouts), rows(runs))}"
    )
    print(body)
    if before:
        keep("Budget", body)


def _commit(checkout: Path) -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, cwd=checkout, stdout=subprocess.PIPE, text=True, check=False).stdout.strip()
