"""How one worker process is, for Prometheus."""

from __future__ import annotations

from prometheus_client import Gauge, ProcessCollector

from shared.metrics import REGISTRY

JOBS_RUNNING = Gauge("mas_jobs_running", "Attempts running in this worker.", registry=REGISTRY)
# With empty labels the lag of a loop that answers; with others, for how long that node has blocked it by now.
LOOP_LAG_SECONDS = Gauge(
    "mas_loop_lag_seconds", "How late the worker's event loop is.", ["graph", "node"], registry=REGISTRY
)


def register_process_metrics() -> None:
    """Show this process's processor time, memory and open files, too (`process_…`)."""
    ProcessCollector(registry=REGISTRY)
