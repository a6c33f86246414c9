"""What idle workers cost: CPU of each, and of their Valkey, in percent of one core."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path

import psutil
import redis

from bench.processes import valkey, worker, workers_ready

SETTLE_SECONDS = 5.0


def measure(folder: Path, workers: int, repeats: int, seconds: float) -> dict[str, list[float]]:
    """Of each stretch of so many seconds: percent of one core of the busiest worker and of Valkey, and the commands a
    second and worker that Valkey executes, those in scripts too."""
    found: dict[str, list[float]] = {"worker": [], "valkey": [], "commands": []}
    with ExitStack() as running:
        url = running.enter_context(valkey(folder))
        client = running.enter_context(redis.Redis.from_url(url))
        started = [running.enter_context(worker(url, folder / "worker.log")) for _ in range(workers)]
        workers_ready(url, workers)
        time.sleep(SETTLE_SECONDS)
        server = psutil.Process(int(client.info("server")["process_id"]))  # type: ignore[index]
        processes = [*(psutil.Process(one.pid) for one in started), server]
        for _ in range(repeats):
            commands, before = _commands(client), [_cpu(process) for process in processes]
            time.sleep(seconds)
            took = [_cpu(process) - begun for process, begun in zip(processes, before, strict=True)]
            found["worker"].append(max(took[:-1]) / seconds * 100)
            found["valkey"].append(took[-1] / seconds * 100)
            found["commands"].append((_commands(client) - commands) / seconds / workers)
    return found


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _commands(client: redis.Redis) -> int:
    return int(client.info("stats")["total_commands_processed"])  # type: ignore[index]
