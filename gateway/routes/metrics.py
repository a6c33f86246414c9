"""`/metrics`, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator

import structlog
from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily

from gateway.auth import Operator
from gateway.documents import answers
from gateway.limits import answered_in_time
from gateway.services import CurrentServices
from shared.metrics import exposition
from shared.store import Backlog, StoreError

logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)
router = APIRouter(tags=["operations"])


class StateInRedis(CollectorRegistry):
    """The queues, and the webhooks that wait, as they were read a moment ago.

    No `Gauge`: with several processes that would put its values into the files which `exposition` adds up.
    """

    def __init__(self, depths: dict[str, int], oldest_seconds: dict[str, float], backlog: Backlog) -> None:
        super().__init__()
        self.depths = depths
        self.oldest_seconds = oldest_seconds
        self.backlog = backlog

    def collect(self) -> Iterator[GaugeMetricFamily]:
        depth = GaugeMetricFamily("mas_queue_depth", "Jobs that are ready and wait for a worker.", labels=["queue"])
        oldest = GaugeMetricFamily("mas_queue_oldest_seconds", "Age of the job first in line.", labels=["queue"])
        for queue, count in self.depths.items():
            depth.add_metric([queue], count)
            oldest.add_metric([queue], self.oldest_seconds[queue])
        yield depth
        yield oldest
        yield GaugeMetricFamily(
            "mas_webhook_backlog", "Webhook deliveries that are due and not sent yet.", self.backlog.waiting
        )
        yield GaugeMetricFamily(
            "mas_webhook_backlog_oldest_seconds", "For how long the first of them has been due.",
            self.backlog.oldest_seconds,
        )  # fmt: skip
        yield GaugeMetricFamily(
            "mas_webhook_disabled_addresses", "Endpoints and URLs of jobs that are disabled.", self.backlog.disabled
        )


@router.get(
    "/metrics",
    summary="Metrics for Prometheus",
    description="What this gateway counts, and how queues and webhooks stand; without the latter while Redis is away.",
    responses=answers(200, None, "Prometheus' text format.", uses_store=False),
    response_class=Response,
)
async def get_metrics(_: Operator, services: CurrentServices) -> Response:
    text = exposition()
    try:
        async with answered_in_time():
            depths, oldest_seconds = await services.jobs.queue_state()
            backlog = await services.deliveries.backlog()
            text += generate_latest(StateInRedis(depths, oldest_seconds, backlog))
    except StoreError as error:
        logger.warning("no metrics of queues and webhooks: Redis is away", error=str(error))
    return Response(text, media_type=CONTENT_TYPE_LATEST)
