"""What a process has of the machine: memory, open files, threads; and what Valkey says of its own memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import psutil
import redis

MB = 1_000_000


@dataclass(frozen=True)
class Footprint:
    """Of one process. `rss` counts memory shared with other processes, `uss` does not; `used` is Valkey's own count."""

    rss: float  # MB, all three
    uss: float
    files: int
    threads: int
    used: float | None = None


def footprint(pid: int) -> Footprint:
    process = psutil.Process(pid)
    memory = process.memory_full_info()
    return Footprint(memory.rss / MB, memory.uss / MB, process.num_fds(), process.num_threads())


def valkey_footprint(client: redis.Redis) -> Footprint:
    """Of the server that `client` is connected to, on this machine."""
    info: dict[str, Any] = client.info()  # type: ignore[assignment]
    own = footprint(int(info["process_id"]))
    return Footprint(own.rss, own.uss, own.files, own.threads, used=int(info["used_memory"]) / MB)


def listener_pid(base: str) -> int:
    """The process that listens where `base` points to."""
    port = urlsplit(base).port
    return next(
        int(connection.pid)
        for connection in psutil.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid
    )
