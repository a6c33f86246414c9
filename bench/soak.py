"""The soak: many jobs of all kinds through one gateway and two workers, and what that leaves in memory and in Redis."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import redis

from bench.footprint import MB, Footprint, footprint, listener_pid, valkey_footprint
from bench.processes import ROOT, gateway, until, valkey, worker, workers_ready
from bench.report import keep, measured_on, table
from bench.soak_load import KINDS, WAITING, Load
from shared.store.keys import KEYS, key
from tests.counting_receiver import CountingReceiver

JOBS = 100_000
RETENTION_SECONDS = 30
FORGOTTEN_WITHIN = 120  # retention, the workers' next look at it, and webhooks that are tried again
WORKERS = 2
FAIL_EVERY = 20  # webhooks: the first try of each so-manyth is answered 500, 503, or not at all
JUDGED_FROM = 20_000  # jobs: in fewer, the first tenth is a process that has just started
# What may be more at 100 % than at 10 %.
GROWTH, GROWTH_MB, MORE_FILES, MORE_THREADS = 0.10, 10.0, 16, 4
SETTINGS = {
    "WEBHOOK_ALLOW_NETWORKS": "127.0.0.0/8",
    "RESULT_TTL_SECONDS": str(RETENTION_SECONDS),
    "GRAPHS_CONFIG": str(ROOT / "bench" / "soak.langgraph.json"),
}
# There once, however many jobs there were: of the workers, the catalogue, the tenant, the queue, the receiver's host.
ONCE = (
    "queues", "graphs", "turns", "workers", "worker", "claims", "catalogue", "catalogue_errors", "health", "targets",
    "wake", "deliveries_wake",
)  # fmt: skip
MARKS = ("10 %", "50 %", "100 %", "after retention")


@dataclass(frozen=True)
class Sample:
    """All that is measured, at one moment."""

    seconds: float  # since the first submit
    footprints: dict[str, Footprint]
    keys: int
    kept: int  # jobs that have ended, and deliveries, that are not forgotten yet
    threads_mb: float
    load: float


class Soak:
    """The processes that are looked at."""

    def __init__(self, client: redis.Redis, pids: dict[str, int], database: Path) -> None:
        self.client = client
        self.pids = pids
        self.database = database
        self.begun = time.perf_counter()
        self.samples: list[Sample] = []

    def sample(self) -> None:
        footprints = {name: footprint(pid) for name, pid in self.pids.items()}
        footprints["Valkey"] = valkey_footprint(self.client)
        self.samples.append(
            Sample(
                time.perf_counter() - self.begun,
                footprints,
                int(self.client.dbsize()),  # type: ignore[arg-type]
                sum(int(self.client.zcard(key(name))) for name in ("expiry", "deliveries_expiry")),  # type: ignore
                sum(file.stat().st_size for file in self.database.parent.glob(f"{self.database.name}*")) / MB,
                os.getloadavg()[0],
            )
        )
        print(f"after {self.samples[-1].seconds:.0f} s: {self.samples[-1]}", flush=True)

    async def mark(self) -> None:
        await asyncio.to_thread(self.sample)

    def left_over(self, threads: int) -> list[str]:
        """Keys that a job or a delivery has left. Each thread leaves its head: that belongs to its memory."""
        once = tuple(KEYS[name] for name in ONCE)
        keys = [found.decode() for found in self.client.scan_iter(count=1000)]
        heads = [name for name in keys if name.startswith(KEYS["head"])]
        rest = [name for name in keys if name not in heads and not name.startswith(once)]
        return rest + (heads if len(heads) > threads else [])


def run(jobs: int, folder: Path) -> tuple[Soak, Load, list[str]]:
    """The samples, what was submitted, and what is wrong but growth."""
    with ExitStack() as running:
        url = running.enter_context(valkey(folder))
        client = running.enter_context(redis.Redis.from_url(url))
        receiver = running.enter_context(CountingReceiver(folder / "webhooks.jsonl", fail_every=FAIL_EVERY))
        pids = {
            f"worker {number}": running.enter_context(worker(url, folder / f"worker-{number}.log", **SETTINGS)).pid
            for number in range(1, WORKERS + 1)
        }
        workers_ready(url, WORKERS)
        base = running.enter_context(gateway(url, folder / "gateway.log", **SETTINGS)).removesuffix("/api/v1")
        soak = Soak(client, {"gateway": listener_pid(base), **pids}, folder / "threads.db")
        load = Load(base, receiver.url, jobs, {jobs // 10: soak.mark, jobs // 2: soak.mark, jobs: soak.mark})
        asyncio.run(load.run())
        wrong = list(load.wrong)
        try:
            until(lambda: not soak.left_over(len(load.threads)), FORGOTTEN_WITHIN, "")
        except TimeoutError:
            left = soak.left_over(len(load.threads))
            wrong.append(f"{len(left)} keys are left over, such as {', '.join(sorted(left)[:10])}")
        soak.sample()
        delivered = Counter(arrival.id for arrival in receiver.arrivals() if arrival.status == 204)
    if len(delivered) != load.webhooks:
        wrong.append(f"{len(delivered)} webhooks were taken by the receiver, not {load.webhooks}")
    return soak, load, wrong


def grown(early: Sample, late: Sample) -> list[str]:
    """What is more than it may be."""
    found = []
    for name, before in early.footprints.items():
        after = late.footprints[name]
        amounts = [("RSS", before.rss, after.rss), ("USS", before.uss, after.uss)]
        if before.used is not None and after.used is not None:
            amounts.append(("used_memory", before.used, after.used))
        for what, was, now in amounts:
            if now > was * (1 + GROWTH) + GROWTH_MB:
                found.append(f"{name}: {what} grew from {was:.1f} to {now:.1f} MB")
        if after.files > before.files + MORE_FILES:
            found.append(f"{name}: open files grew from {before.files} to {after.files}")
        if after.threads > before.threads + MORE_THREADS:
            found.append(f"{name}: threads grew from {before.threads} to {after.threads}")
    return found


def rows(samples: list[Sample], jobs: int) -> list[list[str]]:
    """A row for each figure, and what it has grown by from 10 % to 100 %."""

    def row(what: str, values: list[float], unit: str = "", growth: bool = True) -> list[str]:
        digits = 1 if unit else 0
        change = f"{(values[2] / values[0] - 1) * 100:+.1f} %" if growth and values[0] else ""
        return [what, *(f"{value:,.{digits}f}{unit}" for value in values), change]

    found = []
    for name in samples[0].footprints:
        each = [sample.footprints[name] for sample in samples]
        if name == "Valkey":
            found.append(row("Valkey, `used_memory`", [one.used or 0 for one in each], " MB"))
        found += [
            row(f"{name}, RSS", [one.rss for one in each], " MB"),
            row(f"{name}, USS", [one.uss for one in each], " MB"),
            row(f"{name}, open files", [one.files for one in each], growth=False),
            row(f"{name}, threads", [one.threads for one in each], growth=False),
        ]
    marks = [0, jobs // 10, jobs // 2, jobs]
    times = [0.0, *(sample.seconds for sample in samples)]
    rates = [(marks[at + 1] - marks[at]) / (times[at + 1] - times[at]) for at in range(3)]
    return [
        *found,
        row("keys in Redis", [sample.keys for sample in samples], growth=False),
        row("jobs and deliveries that have ended and are kept", [one.kept for one in samples], growth=False),
        row("threads' SQLite file", [sample.threads_mb for sample in samples], " MB", growth=False),
        ["jobs/s since the mark before", *(f"{rate:,.0f}" for rate in rates), "", ""],
        row("seconds since the start", [sample.seconds for sample in samples], growth=False),
        ["load average of the machine", *(f"{sample.load:.1f}" for sample in samples), ""],
    ]


def measure(jobs: int) -> bool:
    """Run, print, and keep where all of it was run. Gives whether everything stayed flat and ended as planned."""
    with tempfile.TemporaryDirectory() as name:
        soak, load, wrong = run(jobs, Path(name))
    judged = jobs >= JUDGED_FROM
    if judged:
        wrong += grown(soak.samples[0], soak.samples[2])
    mix = ", ".join(f"{load.by_kind[name]:,} {name}" for name in KINDS)
    bound = f"more than {GROWTH * 100:.0f} % and {GROWTH_MB:.0f} MB, {MORE_FILES} open files or {MORE_THREADS} threads"
    body = "\n\n".join(
        (
            f"{measured_on()} {jobs:,} jobs ({mix}) through one gateway and {WORKERS} workers, at most {WAITING:,} on "
            f"their way at once, over {len(load.threads)} threads in SQLite; Valkey with `appendfsync always`; "
            f"`RESULT_TTL_SECONDS={RETENTION_SECONDS}`, of jobs and deliveries.",
            table(("what", *MARKS, "10 % to 100 %"), rows(soak.samples, jobs)).strip(),
            f"Flat is: from 10 % to 100 % no process grew by {bound}; after retention no key is left but those that "
            f"are there once, and the heads of the {len(load.threads)} threads; each job ended as planned, and each "
            "webhook arrived. "
            + ("" if judged else f"Growth is not judged in runs of less than {JUDGED_FROM:,} jobs. ")
            + ("**It is not:** " + "; ".join(wrong) if wrong else "It is."),
        )
    )
    print(body)
    if jobs >= JOBS:
        keep("Soak", body)
    return not wrong
