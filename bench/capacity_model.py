"""What a load needs: workers, memory, Redis, disk; how much of it a provider's limits let through."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bench import capacity_costs as cost


@dataclass(frozen=True)
class Load:
    """A load as an operator knows it. Shares are 0 to 1; a limit of 0 is none; `cores` of 0 is as many as it takes."""

    jobs_per_second: float
    seconds_per_job: float
    cpu_ms_per_job: float = 0
    steps: int = 2
    input_bytes: int = 1_000
    output_bytes: int = 1_000
    ttl_seconds: float = 7 * cost.SECONDS_A_DAY
    backlog: int = 0
    webhooks: float = 0
    threads: float = 0
    polls: float = 1
    batched: bool = False
    tokens: float = 0
    calls: float = 1
    provider_rpm: float = 0
    provider_tpm: float = 0
    concurrency: int = 10
    cores: int = 0
    gateway_processes: int = 1


@dataclass(frozen=True)
class Answer:
    """What a load needs. `*_cores` are shares of one core, all processes together; bytes; `fed` are jobs/s, at most."""

    fed: float
    fed_slots: int
    fed_processes: int
    running: float
    slots: int
    processes: int
    worker_cores: float
    gateway_cores: float
    redis_cores: float
    redis_calls: float
    gateway_bytes: float
    worker_bytes: float
    redis_bytes: float
    disk_bytes_a_day: float
    aof_bytes: float
    utilisation: dict[str, float]

    @property
    def bottleneck(self) -> str:
        """What is full first as the load grows."""
        return max(self.utilisation, key=self.utilisation.__getitem__)


def provider_rate(load: Load) -> float:
    """Jobs/s that the provider's limits let through; infinite without any."""
    by_requests = load.provider_rpm / 60 / load.calls if load.provider_rpm and load.calls else math.inf
    by_tokens = load.provider_tpm / 60 / load.tokens if load.provider_tpm and load.tokens else math.inf
    return min(by_requests, by_tokens)


def job_cpu(load: Load) -> float:
    """CPU seconds of a worker for a job of a busy worker, what the graph itself computes included."""
    micros = cost.WORKER_JOB_MICROS + load.steps * cost.WORKER_STEP_MICROS
    micros += load.threads * load.steps * cost.WORKER_THREAD_STEP_MICROS + load.webhooks * cost.WORKER_WEBHOOK_MICROS
    return micros * cost.MICRO + load.cpu_ms_per_job / 1000


def sparse(share: float) -> float:
    """The share of a core that is taken where `share` is what it would be at full load: less is shared by fewer."""
    room = max(1 - share, 0)
    return share * (1 + (cost.ALONE - 1) * room**2)


def needed(load: Load, processes: int = 0) -> Answer:
    """What it takes to serve this load, or as much of it as the provider lets through; by so many workers, if given."""
    fed = provider_rate(load)
    rate = min(load.jobs_per_second, fed)
    own = rate * load.cpu_ms_per_job / 1000
    full = rate * job_cpu(load)
    running = rate * (load.seconds_per_job + cost.JOB_LATENCY_SECONDS) + full
    slots = max(math.ceil(running / cost.SLOTS_BUSY), 1)
    processes = processes or max(math.ceil(slots / load.concurrency), math.ceil(full / cost.CORE_BUSY), 1)
    each = (full - own) / processes
    worker_cores = own + sparse(each) * processes
    gateway_cores, redis_cores, calls = _gateway(load), _redis(load, rate, processes), _calls(load, rate)
    utilisation = {
        "workers' slots": running / (processes * load.concurrency),
        "workers' processes": full / processes,
        "gateway": gateway_cores / load.gateway_processes,
        "Redis": redis_cores,
        "provider": load.jobs_per_second / fed,
    }
    if load.cores:
        utilisation["cores"] = (full + gateway_cores + redis_cores) / load.cores
    fed_slots = 0 if math.isinf(fed) else max(math.ceil(fed * load.seconds_per_job), 1)
    payload = load.input_bytes + load.output_bytes
    kept = rate * load.ttl_seconds * (cost.ENDED_JOB_BYTES + payload)
    waiting = (load.backlog + running) * (cost.WAITING_JOB_BYTES + load.input_bytes)
    written = rate * cost.JOB_LOG_BYTES + rate * load.threads * (load.steps * cost.THREAD_STEP_BYTES + payload)
    return Answer(
        fed=fed,
        fed_slots=fed_slots,
        fed_processes=math.ceil(fed_slots / load.concurrency),
        running=running,
        slots=slots,
        processes=processes,
        worker_cores=worker_cores,
        gateway_cores=gateway_cores,
        redis_cores=redis_cores,
        redis_calls=calls,
        gateway_bytes=load.gateway_processes * cost.GATEWAY_PROCESS_BYTES,
        worker_bytes=processes * cost.WORKER_PROCESS_BYTES + running * cost.RUNNING_JOB_BYTES,
        redis_bytes=(cost.REDIS_EMPTY_BYTES + kept + waiting) * cost.REDIS_MEMORY_ROOM,
        disk_bytes_a_day=written * cost.SECONDS_A_DAY,
        aof_bytes=(kept + waiting) * cost.AOF_GROWTH,
        utilisation=utilisation,
    )


def _gateway(load: Load) -> float:
    submit = cost.GATEWAY_BATCHED_SUBMIT_MICROS if load.batched else cost.GATEWAY_SUBMIT_MICROS
    each = load.jobs_per_second * (submit + load.polls * cost.GATEWAY_POLL_MICROS) * cost.MICRO / load.gateway_processes
    return sparse(each) * load.gateway_processes


def _redis(load: Load, rate: float, processes: int) -> float:
    """Submits come at the load's rate, runs at the rate that the provider lets through."""
    submit = cost.VALKEY_BATCHED_SUBMIT_MICROS if load.batched else cost.VALKEY_SUBMIT_MICROS
    come = load.jobs_per_second * (submit + load.polls * cost.VALKEY_POLL_MICROS) * cost.MICRO
    calls = load.steps + 1 + load.threads * cost.THREAD_CALLS
    run = rate * (calls * cost.VALKEY_CALL_MICROS + load.webhooks * cost.VALKEY_WEBHOOK_MICROS) * cost.MICRO
    return come + sparse(run) + processes * cost.VALKEY_IDLE_WORKER_MICROS * cost.MICRO


def _calls(load: Load, rate: float) -> float:
    """Round trips a second at most: busy workers and gateways send several in one."""
    run = load.steps + 2 + load.threads * cost.THREAD_CALLS + load.webhooks * cost.WEBHOOK_CALLS
    return load.jobs_per_second * (1 + load.polls) + rate * run
