"""Queues, webhooks, workers and Redis as they were read a moment ago, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily

from shared.store import Backlog
from shared.store.safety import Safety

ROLES = ("jobs", "webhooks")


class StateInRedis(CollectorRegistry):
    """No `Gauge`: with several processes that would put its values into the files which `exposition` adds up.

    `workers` are their heartbeats.
    """

    def __init__(
        self, depths: Mapping[str, int], oldest_seconds: Mapping[str, float], backlog: Backlog,
        workers: Sequence[Mapping[str, Any]], server: Safety,
    ) -> None:  # fmt: skip
        super().__init__()
        self.depths = depths
        self.oldest_seconds = oldest_seconds
        self.backlog = backlog
        self.workers = workers
        self.server = server

    def collect(self) -> Iterator[GaugeMetricFamily]:
        yield redis_up(1)
        yield from self._of_queues()
        yield from self._of_webhooks()
        yield from self._of_workers()
        yield from self._of_redis()

    def _of_queues(self) -> Iterator[GaugeMetricFamily]:
        depth = GaugeMetricFamily("mas_queue_depth", "Jobs that are ready and wait for a worker.", labels=["queue"])
        oldest = GaugeMetricFamily("mas_queue_oldest_seconds", "Age of the job first in line.", labels=["queue"])
        for queue, count in self.depths.items():
            depth.add_metric([queue], count)
            oldest.add_metric([queue], self.oldest_seconds[queue])
        yield depth
        yield oldest

    def _of_webhooks(self) -> Iterator[GaugeMetricFamily]:
        backlog = self.backlog
        yield _gauge("mas_webhook_backlog", "Webhook deliveries that are due and not sent yet.", backlog.waiting)
        text = "For how long the first of them has been due."
        yield _gauge("mas_webhook_backlog_oldest_seconds", text, backlog.oldest_seconds)
        text = "Endpoints and URLs of jobs that are disabled."
        yield _gauge("mas_webhook_disabled_addresses", text, backlog.disabled)

    def _of_workers(self) -> Iterator[GaugeMetricFamily]:
        alive = GaugeMetricFamily("mas_workers", "Workers that live, by what they do.", labels=["role"])
        for role in ROLES:
            alive.add_metric([role], sum(role in worker["roles"] for worker in self.workers))
        yield alive
        text = "Jobs that all workers run now."
        yield _gauge("mas_workers_running", text, sum(len(worker["running"]) for worker in self.workers))
        away = [worker for worker in self.workers if (worker.get("threads") or {"status": "ok"})["status"] != "ok"]
        text = "Workers that cannot reach the threads' database."
        yield _gauge("mas_workers_without_threads", text, len(away))

    def _of_redis(self) -> Iterator[GaugeMetricFamily]:
        server = self.server
        if server.used_memory is not None:
            yield _gauge("mas_redis_memory_bytes", "Memory that Redis uses.", server.used_memory)
        if server.max_memory is not None:
            yield _gauge("mas_redis_memory_limit_bytes", "Its maxmemory; 0 is no limit.", server.max_memory)
        if server.replicas is not None:
            yield _gauge("mas_redis_replicas", "Replicas that are connected.", server.replicas)
        text = "Settings by which it may lose or refuse jobs, and what else health finds wrong with it."
        yield _gauge("mas_redis_unsafe", text, len(server.unsafe))
        text = "1 where its last write to disk failed (append-only file or snapshot)."
        yield _gauge("mas_redis_write_failed", text, int(server.last_write_failed))


def redis_up(value: int) -> GaugeMetricFamily:
    """Whether Redis answers this gateway."""
    return _gauge("mas_redis_up", "1 where Redis answers this gateway, else 0.", value)


class RedisIsAway(CollectorRegistry):
    """All that is known then."""

    def collect(self) -> Iterator[GaugeMetricFamily]:
        yield redis_up(0)


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value)
