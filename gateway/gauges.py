"""How a gateway's processes are, for Prometheus: of several the sum, or the worst."""

from __future__ import annotations

import os
import time
from collections import deque
from typing import TYPE_CHECKING

from prometheus_client import Gauge

from shared.metrics import REGISTRY

if TYPE_CHECKING:
    from gateway.connections import Connections

LAG_SECONDS = 10  # for how long a lag is shown: a scrape comes seldom
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096

PROCESSES = Gauge(
    "mas_gateway_processes", "Processes of this gateway that serve.", multiprocess_mode="livesum", registry=REGISTRY
)
CONNECTIONS = Gauge(
    "mas_gateway_connections", "Connections of clients.", multiprocess_mode="livesum", registry=REGISTRY
)
MEMORY_BYTES = Gauge(
    "mas_gateway_memory_bytes", "Resident memory of its processes.", multiprocess_mode="livesum", registry=REGISTRY
)
LOOP_LAG_SECONDS = Gauge(
    "mas_gateway_loop_lag_seconds", "How late the event loop was at worst, in the last ten seconds.",
    multiprocess_mode="livemax", registry=REGISTRY,
)  # fmt: skip


class OwnState:
    """What this process shows of itself. `tick` is to be called every `tick_seconds`: how late that is, is the lag."""

    def __init__(self, tick_seconds: float) -> None:
        self._tick_seconds = tick_seconds
        self._ticked_at = time.monotonic()
        self._worst = 0.0
        self._latest_worst: deque[float] = deque(maxlen=LAG_SECONDS)

    def tick(self) -> None:
        now = time.monotonic()
        self._worst = max(self._worst, now - self._ticked_at - self._tick_seconds)
        self._ticked_at = now

    def show(self, connections: Connections | None) -> None:
        """Once a second."""
        self._latest_worst.append(self._worst)
        self._worst = 0.0
        LOOP_LAG_SECONDS.set(max(self._latest_worst))
        PROCESSES.set(1)
        MEMORY_BYTES.set(_resident_bytes())
        if connections is not None:
            CONNECTIONS.set(len(connections.open))


def _resident_bytes() -> int:
    """Of this process now; 0 where the system does not tell."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE_BYTES
    except OSError:
        return 0
