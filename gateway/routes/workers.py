"""`/workers`: who is at work."""

from __future__ import annotations

from fastapi import APIRouter, Response

from gateway.auth import Operator
from gateway.documents import WorkerList, answers
from gateway.limits import JSONRoute
from gateway.routes.answer import json_answer
from gateway.services import CurrentServices
from shared.records import API

router = APIRouter(prefix=f"{API}/workers", tags=["operations"], route_class=JSONRoute)


@router.get(
    "",
    summary="List the workers",
    description="The workers that live now, and what they run. One that dies is gone from the list within seconds.",
    responses=answers(200, WorkerList, "The workers."),
)
async def get_workers(_: Operator, services: CurrentServices) -> Response:
    return json_answer({"items": await services.registry.workers(), "next_cursor": None})
