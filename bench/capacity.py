"""`python -m bench capacity`: what a load needs, from measured costs; `--check` measures two loads beside it.

Prints workers, CPU, memory, Redis' load, what a provider's limits let through, how long jobs wait, and the bottleneck.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from bench.capacity_model import (
    CORE_BUSY,
    GATEWAY_BYTES,
    MOST_SLOTS,
    OVERHEAD_SECONDS,
    Answer,
    Load,
    Range,
    arrivals,
    needed,
    p95,
    stretch,
    waiting,
)
from bench.figures import shown
from bench.report import table

GB = 1e9
DAY = 86_400
JOBS = 20_000  # that are simulated


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(prog="python -m bench capacity", description=__doc__)
    add = options.add_argument
    share, amount, whole, count = _number(float, 0, 1), _number(float, 0), _number(int, 0), _number(int, 1)
    add("--check", action="store_true", help="measure two loads on real processes, beside what is predicted")
    add("--jobs-per-second", type=_number(float, 0.001), default=1.0)
    add("--seconds-per-job", type=_number(float, 0, 30 * DAY), default=10.0, help="mostly waiting for a model")
    add("--cpu-ms-per-job", type=amount, default=0.0, help="what the graph itself computes")
    add("--steps", type=count, default=2, help="of a graph's run")
    add("--payload-bytes", type=whole, default=2_000, help="of a job: input and output")
    add("--ttl", type=amount, default=7.0 * DAY, dest="ttl_seconds", help="RESULT_TTL_SECONDS")
    add("--threads", type=share, default=0.0, help="share of the jobs that have a thread_id, 0 to 1")
    add("--polls", type=amount, default=1.0, help="requests for a job, besides its submit")
    add("--tokens", type=amount, default=0.0, help="of a job, input and output, all of its calls")
    add("--calls", type=amount, default=1.0, help="calls of a model a job")
    add("--provider-rpm", type=amount, default=0.0, help="requests a minute; 0: no limit")
    add("--provider-tpm", type=amount, default=0.0, help="tokens a minute; 0: no limit")
    add("--concurrency", type=count, default=10, help="WORKER_CONCURRENCY")
    add("--processes", type=whole, default=0, help="worker processes that there are; 0: as many as it takes")
    add("--cores", type=amount, default=0.0, help="of all machines together; 0: as many as it takes")
    add("--overhead-ms", type=amount, default=OVERHEAD_SECONDS * 1000, help="of an idle service, for a job")
    add("--burst", type=whole, default=0, help="jobs that come at once")
    return options


def main(arguments: Sequence[str]) -> int:
    asked = vars(parser().parse_args(arguments))
    burst = asked.pop("burst")
    if asked.pop("check"):
        from bench.capacity_check import check

        return check()
    print(report(Load(**asked), burst))
    return 0


def report(load: Load, burst: int = 0) -> str:
    """The answer as a table, and what is full first."""
    answer = needed(load)
    rows = [
        ("jobs that run at once", shown(answer.running)),
        ("workers", f"{answer.processes} processes of WORKER_CONCURRENCY={load.concurrency} ({answer.slots} slots)"),
        ("CPU of the workers", _cores(answer.workers)),
        ("CPU of the gateway", f"{_cores(answer.gateway)}: {answer.gateway_processes} processes"),
        ("CPU of Redis", f"{_cores(answer.redis)}, of one"),
        ("cores, all of it", f"{shown(answer.cores)} {'given' if load.cores else 'with room to spare'}"),
        ("calls of Redis", f"{shown(answer.redis_calls)} a second"),
        ("memory of the workers", f"{shown(answer.worker_bytes / GB)} GB, and what the graphs keep"),
        ("memory of the gateway", f"{shown(answer.gateway_processes * GATEWAY_BYTES / GB)} GB"),
        ("memory of Redis", f"{shown(answer.redis_bytes / GB)} GB once results are kept for their TTL"),
    ]
    if not math.isinf(answer.fed):
        slots = math.ceil(answer.fed * load.seconds_per_job)
        rows.append(("the provider's limits feed", f"{shown(answer.fed)} jobs/s: {slots} slots; more only wait"))
    rows += _waits(load, answer, burst)
    full = ", ".join(f"{name} {value:.0%}" for name, value in answer.utilisation.items())
    return f"{table(('what', 'answer'), rows)}\nbottleneck: {answer.bottleneck} (in use: {full})\n{_advice(answer)}"


def _cores(cpu: Range) -> str:
    return f"{shown(cpu[0])} cores where jobs coincide, {shown(cpu[1])} where each comes alone"


def _waits(load: Load, answer: Answer, burst: int) -> list[tuple[str, str]]:
    what = "a job waits before it starts"
    if load.jobs_per_second >= answer.fed:
        return [(what, "grows without end: more jobs come than the provider lets through")]
    if max(answer.utilisation.values()) >= 1:
        return [(what, f"grows without end: {answer.bottleneck} full")]
    if math.isinf(stretch(answer)):
        return [
            (
                what,
                "not predicted: jobs that come alone take above 70 % of these cores; add cores, or have slots to spare",
            )
        ]
    if max(answer.processes * load.concurrency, burst) > MOST_SLOTS:
        return [(what, f"not simulated above {MOST_SLOTS:,} slots or jobs at once")]
    warm = 3 * answer.processes * load.concurrency  # all slots are free at first
    waits = waiting(load, arrivals(load.jobs_per_second, warm + JOBS))[warm:]
    rows = [(what, f"p50 {shown(median(waits))} s, p95 {shown(p95(waits))} s (simulated)")]
    if burst:
        last = max(waiting(load, [0.0] * burst))
        rows.append((f"{burst} jobs at once: the last one starts", f"after {shown(last)} s (simulated)"))
    return rows


def _advice(answer: Answer) -> str:
    if answer.redis[0] > CORE_BUSY:
        return "Redis is above 70 % of its core: split the load over several deployments (docs/operations/scale.md).\n"
    return "" if answer.processes > 1 else "Run two worker processes all the same: one may die.\n"


def _number(kind: type[int] | type[float], least: float, most: float = 1e12) -> Callable[[str], Any]:
    """Reads a number within these bounds, both allowed; not a number, and infinity, are outside of any."""

    def number(text: str) -> int | float:
        value = kind(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"must be from {least:g} to {most:g}")
        return value

    return number
