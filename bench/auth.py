"""What authentication and the rate limit cost a submit: three gateways on one Valkey take turns, round by round.

The measure is the CPU time of the gateway's process for one request, for the machine's other work does not change that.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import psutil

from bench.footprint import listener_pid
from bench.processes import ROOT, child, gateway, valkey, worker, workers_ready
from bench.report import conditions, keep, table

CONNECTIONS = 8
# The rate limit is so high that it is counted and never reached.
WAYS: dict[str, dict[str, str]] = {
    "AUTH_REQUIRED=false": {"AUTH_REQUIRED": "false"},
    "with a key": {"AUTH_REQUIRED": "true"},
    "with a key and RATE_LIMIT_PER_MINUTE=1000000": {"AUTH_REQUIRED": "true", "RATE_LIMIT_PER_MINUTE": "1000000"},
}


def measure(repeats: int, jobs: int) -> None:
    """Measure, print and keep. `jobs` is the requests of a round; there are ten rounds to a repeat."""
    spent: dict[str, list[float]] = {way: [] for way in WAYS}
    with ExitStack() as running, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        url = running.enter_context(valkey(folder))
        with worker(url, folder / "worker.log", WORKER_ROLES="jobs"):
            workers_ready(url, 1)  # it publishes the graph
        key = new_key(url)
        bases = {
            way: running.enter_context(gateway(url, folder / "gateway.log", **settings))
            for way, settings in WAYS.items()
        }
        for way, base in bases.items():
            cpu_of_round(base, jobs, key if "key" in way else "")  # warm
        ways = list(WAYS)
        for number in range(repeats * 10):
            turn = number % len(ways)
            for way in ways[turn:] + ways[:turn]:
                spent[way].append(cpu_of_round(bases[way], jobs, key if "key" in way else ""))
    plain = spent["AUTH_REQUIRED=false"]
    rows = [(way, _micro(values), _ratio(values, plain)) for way, values in spent.items()]
    text = f"{conditions(repeats * 10)} {jobs} submits a round over {CONNECTIONS} connections; the rounds take turns."
    rendered = table(("gateway", "CPU µs a submit", "x without"), rows)
    print(rendered)
    keep("Auth", f"{text}\n\n{rendered}")


def cpu_of_round(base: str, jobs: int, key: str) -> float:
    """Seconds of CPU time that the gateway spends on a submit."""
    process = psutil.Process(listener_pid(base))
    before = process.cpu_times()
    child("bench.load", "submit", base, jobs, CONNECTIONS, *([key] if key else []))
    after = process.cpu_times()
    return (after.user + after.system - before.user - before.system) / jobs


def new_key(url: str) -> str:
    """An API key, made as an operator does."""
    command = [sys.executable, "-m", "gateway", "keys", "create", "--tenant", "bench", "--name", "bench"]
    environment = {"REDIS_URL": url, "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, env=environment)
    return done.stdout.split()[-1]


def _micro(values: list[float]) -> str:
    return f"{statistics.median(values) * 1e6:,.0f} ({min(values) * 1e6:,.0f} to {max(values) * 1e6:,.0f})"


def _ratio(values: list[float], plain: list[float]) -> str:
    ratios = sorted(one / base for one, base in zip(values, plain, strict=True))
    quarter = len(ratios) // 4
    middle = statistics.median(ratios)
    return f"{middle:.3f} (half of the rounds: {ratios[quarter]:.3f} to {ratios[-1 - quarter]:.3f})"
