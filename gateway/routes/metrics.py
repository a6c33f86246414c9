"""`/metrics`, for Prometheus."""

from __future__ import annotations

import structlog
from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from gateway.auth import Operator
from gateway.documents import answers
from gateway.limits import answered_in_time
from gateway.services import CurrentServices
from gateway.state_metrics import RedisIsAway, StateInRedis
from shared.metrics import exposition
from shared.store import StoreError
from shared.store.safety import look_at_server

logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)
router = APIRouter(tags=["operations"])


@router.get(
    "/metrics",
    summary="Metrics for Prometheus",
    description=(
        "What this gateway counts, and how queues, webhooks, workers and Redis stand. While Redis is away, of those "
        "only that it is."
    ),
    responses=answers(200, None, "Prometheus' text format.", uses_store=False),
    response_class=Response,
)
async def get_metrics(_: Operator, services: CurrentServices) -> Response:
    text = exposition()
    try:
        async with answered_in_time():
            depths, oldest_seconds = await services.jobs.queue_state()
            backlog = await services.deliveries.backlog()
            workers = await services.registry.workers()
            server = await look_at_server(services.redis, wait_replicas=services.settings.wait_replicas)
            text += generate_latest(StateInRedis(depths, oldest_seconds, backlog, workers, server))
    except StoreError as error:
        logger.warning("no metrics of queues and webhooks: Redis is away", error=str(error))
        text += generate_latest(RedisIsAway())
    return Response(text, media_type=CONTENT_TYPE_LATEST)
