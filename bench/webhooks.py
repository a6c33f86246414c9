"""Webhooks: how many deliveries a second workers send, what each costs them, and what that costs their jobs."""

from __future__ import annotations

import statistics
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import redis
import trustme

from bench.backlog import all_delivered, delivered, held_back
from bench.processes import child, gateway, until, valkey, worker, workers_ready
from bench.report import conditions, keep, table
from tests.counting_receiver import CountingReceiver

FINISHED = "mas:index:default:two_nodes:succeeded"
SETTINGS = {"WEBHOOK_ALLOW_NETWORKS": "127.0.0.0/8", "WEBHOOK_HOST_CONCURRENCY": "64"}


@dataclass(frozen=True)
class Sent:
    """How one backlog was sent. The CPU time is user and system time, of all workers, for one delivery."""

    per_second: float
    worker_us: float
    valkey_us: float
    receiver_us: float


@dataclass(frozen=True)
class Burst:
    """Jobs/s until all have ended, and until all webhooks are delivered; the CPU time of all workers for one job."""

    per_second: float
    delivered_per_second: float
    worker_us: float


def cpu_seconds(*pids: int) -> float:
    return sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in pids)


def send(url: str, folder: Path, receiver: CountingReceiver, deliveries: int, workers: int, **settings: str) -> Sent:
    """Send a backlog of so many deliveries with workers that are up, and have nothing else to do."""
    with ExitStack() as running, redis.Redis.from_url(url) as client:
        client.flushall()
        pids = [
            running.enter_context(worker(url, folder / "worker.log", **SETTINGS, **settings)).pid
            for _ in range(workers)
        ]
        workers_ready(url, workers)
        with held_back(client, url, receiver.url, 500):  # warm
            all_delivered(client, 500)
        server = int(client.info("server")["process_id"])  # type: ignore[index]
        with held_back(client, url, receiver.url, deliveries):
            begun = time.perf_counter()
            before = [cpu_seconds(*pids), cpu_seconds(server), cpu_seconds(receiver.process.pid)]
            all_delivered(client, 500 + deliveries)
            seconds = time.perf_counter() - begun
            after = [cpu_seconds(*pids), cpu_seconds(server), cpu_seconds(receiver.process.pid)]
    each = [(late - early) / deliveries * 1e6 for early, late in zip(before, after, strict=True)]
    return Sent(deliveries / seconds, *each)


def run_jobs(client: redis.Redis, base: str, pids: list[int], jobs: int, webhook: str = "") -> Burst:
    """Submit a burst of jobs, and wait until the last one has ended, and the last webhook, if any, is delivered."""
    ended, sent, cpu = int(client.zcard(FINISHED)), delivered(client), cpu_seconds(*pids)  # type: ignore[arg-type]
    begun = time.perf_counter()
    child("bench.load", "batches", base, jobs, 500, *([webhook] if webhook else []))
    until(lambda: int(client.zcard(FINISHED)) >= ended + jobs, 180, "not all jobs ended")  # type: ignore[arg-type]
    all_ended = time.perf_counter()
    if webhook:
        all_delivered(client, sent + jobs)
    all_sent = time.perf_counter()
    return Burst(jobs / (all_ended - begun), jobs / (all_sent - begun), (cpu_seconds(*pids) - cpu) / jobs * 1e6)


def spread(values: list[float], digits: int = 0) -> str:
    return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def sending(url: str, folder: Path, repeats: int, deliveries: int) -> list[list[str]]:
    """A row for each kind of sender. They take turns, so that a busy moment of the machine is not one kind's alone."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "authority.pem"))
    certificate = folder / "receiver.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(certificate))
    trust = {"SSL_CERT_FILE": str(folder / "authority.pem")}
    kinds: dict[str, tuple[str, int, dict[str, str]]] = {
        "1 worker": ("http", 1, {}),
        "2 workers": ("http", 2, {}),
        "1 worker, `WORKER_ROLES=webhooks`": ("http", 1, {"WORKER_ROLES": "webhooks"}),
        "1 worker, https": ("https", 1, trust),
        "1 worker, `LOG_LEVEL=INFO`": ("http", 1, {"LOG_LEVEL": "INFO"}),
    }
    found: dict[str, list[Sent]] = {kind: [] for kind in kinds}
    with (
        CountingReceiver(folder / "http.jsonl") as plain,
        CountingReceiver(folder / "https.jsonl", certificate=certificate) as secure,
    ):
        for _ in range(repeats):
            for kind, (scheme, workers, settings) in kinds.items():
                receiver = plain if scheme == "http" else secure
                found[kind].append(send(url, folder, receiver, deliveries, workers, **settings))
                print(f"{kind}: {found[kind][-1]}", flush=True)
    return [
        [
            kind,
            spread([one.per_second for one in sent]),
            spread([one.worker_us for one in sent]),
            spread([one.valkey_us for one in sent]),
            spread([one.receiver_us for one in sent]),
        ]
        for kind, sent in found.items()
    ]


def cost(url: str, folder: Path, repeats: int, jobs: int) -> list[list[str]]:
    """A row for each set of workers: bursts of jobs without and with webhooks, in turn."""
    kinds: dict[str, list[dict[str, Any]]] = {
        "1 worker": [{}],
        "2 workers": [{}, {}],
        "1 worker for jobs, 1 for webhooks": [{"WORKER_ROLES": "jobs"}, {"WORKER_ROLES": "webhooks"}],
    }
    rows = []
    with (
        CountingReceiver(folder / "jobs.jsonl") as receiver,
        redis.Redis.from_url(url) as client,
        gateway(url, folder / "gateway.log", WEBHOOK_ALLOW_NETWORKS="127.0.0.0/8") as base,
    ):
        for kind, workers in kinds.items():
            with ExitStack() as running:
                pids = [
                    running.enter_context(worker(url, folder / "worker.log", **SETTINGS, **settings)).pid
                    for settings in workers
                ]
                workers_ready(url, len(workers))
                run_jobs(client, base, pids, 500, receiver.url)  # warm
                without, with_one = [], []
                for number in range(repeats):
                    for webhook in ("", receiver.url) if number % 2 else (receiver.url, ""):
                        (with_one if webhook else without).append(run_jobs(client, base, pids, jobs, webhook))
                    print(f"{kind}: {without[-1]}, with webhooks {with_one[-1]}", flush=True)
            rows.append(
                [
                    kind,
                    spread([one.per_second for one in without]),
                    spread([one.per_second for one in with_one]),
                    spread([one.per_second / two.per_second for one, two in zip(with_one, without, strict=True)], 2),
                    spread([one.delivered_per_second for one in with_one]),
                    spread([one.worker_us for one in without]),
                    spread([one.worker_us for one in with_one]),
                ]
            )
    return rows


def measure(repeats: int, jobs: int) -> None:
    """Measure, print and keep."""
    with tempfile.TemporaryDirectory() as name, valkey(Path(name)) as url:
        sent = sending(url, Path(name), repeats, jobs)
        costs = cost(url, Path(name), repeats, jobs)
    sent_columns = ("senders", "deliveries/s", "workers' CPU µs a delivery", "Valkey's", "the receiver's")
    cost_columns = (
        "workers", "jobs/s without", "jobs/s with", "ratio", "deliveries/s", "workers' CPU µs a job without", "with"
    )  # fmt: skip
    body = "\n\n".join(
        (
            f"{conditions(repeats)} {jobs} deliveries or jobs a run and a row; "
            "load, gateway, workers, receiver and Valkey (`appendfsync always`) share the cores.",
            f"A backlog of deliveries, and no jobs:\n\n{table(sent_columns, sent).strip()}",
            f"What webhooks cost jobs, in turns on the same workers:\n\n{table(cost_columns, costs).strip()}",
        )
    )
    print(body)
    keep("Webhooks", body)
