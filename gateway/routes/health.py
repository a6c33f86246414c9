"""`/health`: for probes and load balancers. No credential is needed, and no host name."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response

from gateway.documents import Alive, HealthDocument, answers
from gateway.limits import answered_in_time
from gateway.routes.answer import json_answer
from gateway.services import CurrentServices
from shared.records import API
from shared.store import StoreError
from shared.store.errors import store_errors
from shared.store.safety import Safety, look_at_server

router = APIRouter(prefix=f"{API}/health", tags=["health"])
_DEGRADED = "It works, but Redis may lose or refuse jobs"


@router.get(
    "/live",
    summary="Is this process alive?",
    description="Asks nothing of anyone else: where this does not answer, restart the process.",
    responses=answers(200, Alive, "It is.", uses_store=False),
)
async def get_live() -> Response:
    return json_answer({"status": "ok"})


@router.get(
    "/ready",
    summary="Can this process serve?",
    description="Whether Redis answers: where it does not, send requests elsewhere.",
    responses=answers(200, Alive, "It can."),
)
async def get_ready(services: CurrentServices) -> Response:
    async with answered_in_time():
        with store_errors():
            await services.redis.ping()
    return json_answer({"status": "ok"})


@router.get(
    "",
    summary="How is the service?",
    description="Its parts, each `ok`, `degraded` or `down`, and the worst of them. A 503 here is this document too.",
    responses={
        **answers(200, HealthDocument, "It serves, `ok` or `degraded`."),
        503: {"model": HealthDocument, "description": "It is `down`."},
    },
)
async def get_health(services: CurrentServices) -> Response:
    try:
        async with answered_in_time():
            safety = await look_at_server(services.redis, wait_replicas=services.settings.wait_replicas)
            workers = await services.registry.workers()
    except StoreError:
        down = {"status": "down", "detail": "Redis cannot be reached."}
        unknown = {"status": "down", "detail": "Unknown while Redis is away."}
        return json_answer({"status": "down", "parts": {"redis": down, "workers": unknown}}, 503)
    redis = _redis_part(safety)
    at_work: dict[str, Any] = {"status": "ok", "count": len(workers)}
    if not workers:
        at_work |= {"status": "degraded", "detail": "No worker is running: jobs are accepted and wait."}
    status = "ok" if redis["status"] == at_work["status"] == "ok" else "degraded"
    return json_answer({"status": status, "parts": {"redis": redis, "workers": at_work}})


def _redis_part(safety: Safety) -> dict[str, Any]:
    if safety.unsafe:
        return {"status": "degraded", "detail": f"{_DEGRADED}: {'; '.join(safety.unsafe)}."}
    if safety.unknown:
        return {"status": "ok", "detail": f"This server does not tell whether it is safe: {', '.join(safety.unknown)}."}
    return {"status": "ok"}
