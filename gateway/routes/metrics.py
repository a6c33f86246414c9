"""`/metrics`, for Prometheus."""

from __future__ import annotations

import structlog
from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from gateway.documents import answers
from gateway.limits import JSONRoute, answered_in_time
from gateway.services import CurrentServices
from shared.metrics import QueueState, exposition
from shared.store import StoreError

logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)
router = APIRouter(tags=["operations"], route_class=JSONRoute)


@router.get(
    "/metrics",
    summary="Metrics for Prometheus",
    description="What this gateway counts, and the state of the queues; without the latter while Redis is away.",
    responses=answers(200, None, "Prometheus' text format.", uses_store=False),
    response_class=Response,
)
async def get_metrics(services: CurrentServices) -> Response:
    text = exposition()
    try:
        async with answered_in_time():
            text += generate_latest(QueueState(*await services.jobs.queue_state()))
    except StoreError as error:
        logger.warning("no queue metrics: Redis is away", error=str(error))
    return Response(text, media_type=CONTENT_TYPE_LATEST)
