"""What idle workers cost: CPU of each, and of their Valkey, in percent of one core."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path

import psutil
import redis

from bench.processes import valkey, worker, workers_ready

SETTLE_SECONDS = 5.0


def measure(folder: Path, workers: int, seconds: float = 30.0) -> dict[str, float]:
    """Percent of one core of the busiest worker and of Valkey, and commands a second and worker, of so many workers."""
    with ExitStack() as running:
        url = running.enter_context(valkey(folder))
        client = running.enter_context(redis.Redis.from_url(url))
        started = [running.enter_context(worker(url, folder / "idle.log")) for _ in range(workers)]
        workers_ready(url, workers)
        time.sleep(SETTLE_SECONDS)
        server = psutil.Process(int(client.info("server")["process_id"]))  # type: ignore[index]
        processes = [*(psutil.Process(one.pid) for one in started), server]
        commands = _commands(client)
        before = [_cpu(process) for process in processes]
        time.sleep(seconds)
        *shares, of_server = (
            (_cpu(process) - begun) / seconds * 100 for process, begun in zip(processes, before, strict=True)
        )
        asked = (_commands(client) - commands) / seconds / workers
        return {"worker": max(shares), "valkey": of_server, "commands": asked}


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _commands(client: redis.Redis) -> int:
    return int(client.info("stats")["total_commands_processed"])  # type: ignore[index]
