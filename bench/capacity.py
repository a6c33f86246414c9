"""`python -m bench capacity`: what a load needs, from measured costs; `--check` measures two loads beside it.

Prints workers, memory, Redis' load, disk, what a provider's limits let through, how long jobs wait, the bottleneck.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence

from bench import capacity_costs as cost
from bench.capacity_model import Answer, Load, job_cpu, needed
from bench.capacity_queue import simulate
from bench.figures import shown
from bench.report import table

GB = 1e9


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(prog="python -m bench capacity", description=__doc__)
    add = options.add_argument
    add("--check", action="store_true", help="measure two loads on real processes, beside what is predicted")
    add("--jobs-per-second", type=_positive, default=1.0)
    add("--seconds-per-job", type=_not_negative, default=10.0, help="mostly waiting for a model")
    add("--cpu-ms-per-job", type=_not_negative, default=0.0, help="what the graph itself computes")
    add("--steps", type=_count, default=2, help="of a graph's run")
    add("--input-bytes", type=_not_negative, default=1000)
    add("--output-bytes", type=_not_negative, default=1000)
    add("--ttl", type=_not_negative, default=604_800, dest="ttl_seconds", help="RESULT_TTL_SECONDS")
    add("--backlog", type=int, default=0, help="jobs that wait, at most")
    add("--webhooks", type=_share, default=0.0, help="webhooks a job, 0 to 1")
    add("--threads", type=_share, default=0.0, help="share of the jobs that have a thread_id, 0 to 1")
    add("--polls", type=_not_negative, default=1.0, help="requests for a job, besides its submit")
    add("--batched", action="store_true", help="submits come in batches of hundreds")
    add("--tokens", type=_not_negative, default=0.0, help="of a job, input and output, all of its calls")
    add("--calls", type=_not_negative, default=1.0, help="calls of a model a job")
    add("--provider-rpm", type=_not_negative, default=0.0, help="requests a minute; 0: no limit")
    add("--provider-tpm", type=_not_negative, default=0.0, help="tokens a minute; 0: no limit")
    add("--concurrency", type=_count, default=10, help="WORKER_CONCURRENCY")
    add("--processes", type=int, default=0, help="worker processes that there are; 0: as many as it takes")
    add("--cores", type=int, default=0, help="of all machines; 0: as many as it takes")
    add("--gateway-processes", type=_count, default=1, help="GATEWAY_WORKERS, of all gateways")
    add("--burst", type=int, default=0, help="jobs that come at once")
    return options


def main(arguments: Sequence[str]) -> int:
    asked = vars(parser().parse_args(arguments))
    burst, processes = asked.pop("burst"), asked.pop("processes")
    if asked.pop("check"):
        from bench.capacity_check import check

        return check()
    load = Load(**asked)
    print(report(load, needed(load, processes), burst))
    return 0


def report(load: Load, answer: Answer, burst: int) -> str:
    """The answer as a table, and what is full first."""
    rows = [
        ("jobs that run at once", shown(answer.running)),
        (
            "workers",
            f"{answer.processes} processes of WORKER_CONCURRENCY={load.concurrency} ({answer.slots} slots needed)",
        ),
        ("CPU of the workers", f"{shown(answer.worker_cores)} cores"),
        ("CPU of the gateway", f"{shown(answer.gateway_cores)} cores"),
        (
            "Redis",
            f"{shown(answer.redis_cores * 100)} % of its one core, {shown(answer.redis_calls)} round trips/s at most",
        ),
        ("memory, gateway", f"{shown(answer.gateway_bytes / GB)} GB"),
        ("memory, workers", f"{shown(answer.worker_bytes / GB)} GB, and what the graphs keep"),
        (
            "memory, Redis",
            f"{shown(answer.redis_bytes / GB)} GB once results are kept for their TTL, with room for a rewrite",
        ),
        ("disk, Redis", f"{shown(answer.aof_bytes / GB)} GB at most"),
        ("disk, threads and logs", f"{shown(answer.disk_bytes_a_day / GB)} GB a day"),
        *_provider(load, answer),
        *_waiting(load, answer, burst),
    ]
    full = ", ".join(f"{name} {value:.0%}" for name, value in answer.utilisation.items())
    return (
        f"{table(('what', 'answer'), rows)}\nbottleneck: {answer.bottleneck} (in use: {full})\n{_advice(load, answer)}"
    )


def _provider(load: Load, answer: Answer) -> list[tuple[str, str]]:
    if math.isinf(answer.fed):
        return []
    fed = f"{shown(answer.fed)} jobs/s, {answer.fed_slots} at once: {answer.fed_processes} processes; more only wait"
    return [("the provider's limits feed", fed)]


def _waiting(load: Load, answer: Answer, burst: int) -> list[tuple[str, str]]:
    if load.jobs_per_second >= answer.fed:
        return [("waiting", "grows without end: more jobs come than the provider lets through")]
    if max(answer.utilisation["workers' slots"], answer.utilisation["workers' processes"]) >= 1:
        return [("waiting", "grows without end: more jobs come than these workers run")]
    waiting = simulate(
        rate=load.jobs_per_second, seconds=load.seconds_per_job + cost.JOB_LATENCY_SECONDS, cpu=job_cpu(load),
        provider=answer.fed,
        slots=answer.processes * load.concurrency, processes=answer.processes, burst=burst,
    )  # fmt: skip
    rows = [("a job waits before it starts", f"p50 {shown(waiting.p50)} s, p95 {shown(waiting.p95)} s (simulated)")]
    if burst:
        rows.append((f"{burst} jobs at once: the last one starts", f"after {shown(waiting.drained)} s (simulated)"))
    return rows


def _advice(load: Load, answer: Answer) -> str:
    if answer.redis_cores > cost.CORE_BUSY:
        return "Redis is above 70 % of its core: split the load over several deployments (docs/operations/scale.md).\n"
    if answer.utilisation["gateway"] > cost.CORE_BUSY:
        return "The gateway's processes are above 70 %: raise GATEWAY_WORKERS, or submit in batches.\n"
    if answer.utilisation.get("cores", 0) > cost.CORE_BUSY:
        return "The machine's cores are above 70 %: add cores or machines.\n"
    return "" if answer.processes > 1 else "Run two worker processes all the same: one may die.\n"


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError("must be above 0")
    return value


def _not_negative(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError("must be 0 or more")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError("must be from 0 to 1")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return value
