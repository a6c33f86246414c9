"""What a load needs: workers, memory, Redis; what a provider's limits let through; how long jobs wait, simulated.

CPU is a range: of jobs that coincide, which share round trips and turns of the event loop, and of jobs that come alone.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

# CPU µs as (where many coincide, alone). `results.md` and `README.md` are in this folder.
MICRO = 1e-6
JOB = (151, 5_000 - 832)  # README.md, "Budget"; results.md, "Tuning", WORKER_CONCURRENCY=1, a job of one step
STEP = (832, 832)  # README.md, "Budget": the rest of 1,815 for two steps; assumption: it grows with the steps
THREAD_STEP = (2_367, 2_367)  # results.md, "Savers": (10.25 - 3.15) ms for three steps in PostgreSQL, ten at once
SUBMIT = (340, 929)  # results.md, "Tuning", submits over 32 connections; "Auth", over eight
POLL = (390, 390 * 929 / 340)  # README.md, "Budget"; assumption: alone as much dearer as a submit
CALL = (100, 433)  # of Redis: README.md, "Budget", 300 for three; results.md, "Savers", 1.73 ms for four, one at a time
IDLE_WORKER = 9_300 / 8  # of Redis, a second: results.md, "Service", 0.93 % of a core for eight
THREAD_CALLS = 4  # results.md, "Savers", a job's traffic

# Seconds that a job takes besides its graph where it has the machine for itself: results.md, "Service", idle.
OVERHEAD_SECONDS = 0.00528

# Bytes: results.md, "Sizes"; a waiting job: "Service".
GATEWAY_BYTES = 80_000_000
WORKER_BYTES = 107_000_000
RUNNING_BYTES = 107_000
WAITING_BYTES = 638
ENDED_BYTES = 1_997

# What is planned for. Assumptions: room for bursts, and for what the figures do not know.
SLOTS_BUSY = 0.8
CORE_BUSY = 0.7
REWRITE_ROOM = 1.5  # Redis' copy while the append-only file is rewritten

MOST_SLOTS = 100_000  # that are simulated
Range = tuple[float, float]


@dataclass(frozen=True)
class Load:
    """A load as an operator knows it; a limit of 0 is none, `cores` and `processes` of 0 are as many as it takes."""

    jobs_per_second: float
    seconds_per_job: float
    cpu_ms_per_job: float = 0
    steps: int = 2
    payload_bytes: int = 2_000
    ttl_seconds: float = 604_800
    threads: float = 0
    polls: float = 1
    tokens: float = 0
    calls: float = 1
    provider_rpm: float = 0
    provider_tpm: float = 0
    concurrency: int = 10
    processes: int = 0
    cores: float = 0
    overhead_ms: float = OVERHEAD_SECONDS * 1000


@dataclass(frozen=True)
class Answer:
    """What a load needs. CPU is in cores, (where jobs coincide, where each comes alone); memory in bytes."""

    fed: float  # jobs/s that the provider lets through
    running: float
    slots: int
    processes: int
    workers: Range
    gateway: Range
    gateway_processes: int
    redis: Range
    cores: float
    redis_calls: float
    worker_bytes: float
    redis_bytes: float
    utilisation: dict[str, float]

    @property
    def total(self) -> Range:
        """Cores of everything together."""
        coinciding, alone = map(sum, zip(self.workers, self.gateway, self.redis, strict=True))
        return coinciding, alone

    @property
    def bottleneck(self) -> str:
        """What is full first as the load grows."""
        return max(self.utilisation, key=self.utilisation.__getitem__)


def provider_rate(load: Load) -> float:
    """Jobs/s that the provider's limits let through; infinite without any."""
    by_requests = load.provider_rpm / 60 / load.calls if load.provider_rpm and load.calls else math.inf
    by_tokens = load.provider_tpm / 60 / load.tokens if load.provider_tpm and load.tokens else math.inf
    return min(by_requests, by_tokens)


def job_cpu(load: Load) -> Range:
    """CPU seconds of a worker for a job, what the graph itself computes included."""
    coinciding, alone = (
        (JOB[which] + load.steps * (STEP[which] + load.threads * THREAD_STEP[which])) * MICRO
        + load.cpu_ms_per_job / 1000
        for which in (0, 1)
    )
    return coinciding, alone


def needed(load: Load) -> Answer:
    """What it takes to serve this load, or as much of it as the provider lets through."""
    fed = provider_rate(load)
    rate = min(load.jobs_per_second, fed)
    cpu = job_cpu(load)
    workers = (rate * cpu[0], rate * cpu[1])
    own = load.overhead_ms / 1000 + cpu[0]
    running = rate * (load.seconds_per_job + own)
    # Enough also where the cores are as busy as is planned for, and what computes takes so much longer.
    slots = max(math.ceil(rate * (load.seconds_per_job + own / (1 - CORE_BUSY)) / SLOTS_BUSY), 1)
    processes = load.processes or max(math.ceil(slots / load.concurrency), math.ceil(workers[0] / CORE_BUSY))
    gateway = _scaled(load.jobs_per_second * MICRO, SUBMIT, load.polls, POLL)
    gateway_processes = math.ceil(gateway[1] / CORE_BUSY)
    # Submits and polls come at the load's own rate; a run is wake-up, claim, each step but the last, end.
    calls = load.jobs_per_second * (1 + load.polls) + rate * (load.steps + 2 + load.threads * THREAD_CALLS)
    idle = processes * IDLE_WORKER * MICRO
    coinciding, alone = calls * CALL[0] * MICRO + idle, calls * CALL[1] * MICRO + idle
    redis = (coinciding, max(coinciding, min(alone, 1)))  # it has one core: calls coincide before they need more
    cores = load.cores or math.ceil((workers[1] + gateway[1] + redis[1]) / CORE_BUSY)
    kept = rate * load.ttl_seconds * (ENDED_BYTES + load.payload_bytes) + running * WAITING_BYTES
    return Answer(
        fed=fed,
        running=running,
        slots=slots,
        processes=processes,
        workers=workers,
        gateway=gateway,
        gateway_processes=gateway_processes,
        redis=redis,
        cores=cores,
        redis_calls=calls,
        worker_bytes=processes * WORKER_BYTES + running * RUNNING_BYTES,
        redis_bytes=kept * REWRITE_ROOM,
        utilisation={
            "workers' slots": running / (processes * load.concurrency),
            "workers' processes": workers[0] / processes,
            "Redis": redis[0],
            "cores": (workers[0] + gateway[0] + redis[0]) / cores,
            "provider": load.jobs_per_second / fed,
        },
    )


def stretch(answer: Answer) -> float:
    """How much longer what computes takes where the cores are shared; infinite where it is not known.

    Jobs that come alone may fill what is planned for and no more: above, they begin to coincide, and cost less.
    """
    busy = answer.total[1] / answer.cores
    return 1 / (1 - busy) if busy <= CORE_BUSY + 1e-9 else math.inf


def slot_seconds(load: Load) -> float:
    """How long a job holds its slot, by what `needed` answers, but for what it waits for a process."""
    slower = stretch(needed(load))
    return load.seconds_per_job + (load.overhead_ms / 1000 + job_cpu(load)[0]) * slower


def waiting(load: Load, times: Sequence[float]) -> list[float]:
    """How long jobs that come at these times wait, by what `needed` answers. `stretch` must be finite for it."""
    answer = needed(load)
    cpu = job_cpu(load)[0]
    return simulate(
        times, seconds=slot_seconds(load) - cpu, cpu=cpu, slots=answer.processes * load.concurrency,
        processes=answer.processes, provider=answer.fed,
    )  # fmt: skip


def arrivals(rate: float, jobs: int, seed: int = 1) -> list[float]:
    """Seconds at which jobs come, at random, `rate` a second on average."""
    chance = random.Random(seed)  # noqa: S311
    return list(accumulate(chance.expovariate(rate) for _ in range(jobs)))


def simulate(
    times: Sequence[float], *, seconds: float, cpu: float, slots: int, processes: int, provider: float = math.inf
) -> list[float]:
    """Seconds that each job waits for its start, of jobs that come at these times.

    A job holds a slot for `seconds`, and before that one of the processes for `cpu` seconds; `provider` is how many a
    second the provider lets begin.
    """
    free, idle, allowed, waits = [0.0] * slots, [0.0] * processes, 0.0, []
    for now in times:
        computed = max(now, heapq.heappop(free), heapq.heappop(idle)) + cpu
        heapq.heappush(idle, computed)
        # The provider holds the slot: the call waits inside of the job.
        called = max(computed, allowed)
        allowed = called + 1 / provider
        heapq.heappush(free, called + seconds)
        waits.append(called - cpu - now)
    return waits


def p95(values: Sequence[float]) -> float:
    return sorted(values)[int(len(values) * 0.95)]


def _scaled(rate: float, one: Range, times: float, other: Range) -> Range:
    return rate * (one[0] + times * other[0]), rate * (one[1] + times * other[1])
