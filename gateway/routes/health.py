"""`/health`: for probes and load balancers. No credential is needed, and no host name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Request, Response

from gateway.documents import Alive, HealthDocument, answers
from gateway.errors import RETRY_AFTER_SECONDS
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
    description=(
        "Its parts, each `ok`, `degraded` or `down`. The whole is `down` (a 503, with this document too) where Redis "
        "is, and `degraded` where any other part is not `ok`."
    ),
    responses={
        **answers(200, HealthDocument, "It serves, `ok` or `degraded`."),
        503: {"model": HealthDocument, "description": "It is `down`."},
    },
)
async def get_health(request: Request, services: CurrentServices) -> Response:
    try:
        async with answered_in_time():
            safety = await look_at_server(services.redis, wait_replicas=services.settings.wait_replicas)
            workers = await services.registry.workers()
    except StoreError:
        down = {"status": "down", "detail": "Redis cannot be reached."}
        unknown = {"status": "down", "detail": "Unknown while Redis is away."}
        parts = {"redis": down, "workers": unknown, **_connections(request)}
        return json_answer({"status": "down", "parts": parts}, 503, {"Retry-After": str(RETRY_AFTER_SECONDS)})
    at_work: dict[str, Any] = {"status": "ok", "count": len(workers)}
    if not workers:
        at_work |= {"status": "degraded", "detail": "No worker is running: jobs are accepted and wait."}
    parts = {"redis": _redis(safety), "workers": at_work, **_threads(workers), **_connections(request)}
    status = "ok" if all(part["status"] == "ok" for part in parts.values()) else "degraded"
    return json_answer({"status": status, "parts": parts})


def _redis(safety: Safety) -> dict[str, Any]:
    if safety.unsafe:
        return {"status": "degraded", "detail": f"{_DEGRADED}: {'; '.join(safety.unsafe)}."}
    if safety.unknown:
        return {"status": "ok", "detail": f"This server does not tell whether it is safe: {', '.join(safety.unknown)}."}
    return {"status": "ok"}


def _threads(workers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The database of the threads, as the workers find it; nothing where none of them has needed it yet.

    While it is down the service is not: jobs without a thread run on, and those with one wait for it.
    """
    told = [worker["threads"] for worker in workers if worker.get("threads")]
    away = [one for one in told if one["status"] != "ok"]
    if not told:
        return {}
    if not away:
        return {"threads": {"status": "ok"}}
    count = f"{len(away)} of {len(told)} workers"
    detail = f"{count} cannot reach the threads' database ({away[0]['error']}): jobs of threads wait."
    return {"threads": {"status": "down" if len(away) == len(told) else "degraded", "detail": detail}}


def _connections(request: Request) -> dict[str, Any]:
    """Those of this process; nothing where another server than ours runs it."""
    bounds = request.scope.get("state", {}).get("connections")
    if bounds is None:
        return {}
    detail: str | None = bounds.detail
    return {"connections": {"status": "degraded", "detail": detail} if detail else {"status": "ok"}}
