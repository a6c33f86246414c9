"""`/workers`: who is at work."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Response

from gateway.documents import WorkerList, answers
from gateway.limits import JSONRoute
from gateway.routes.answer import json_answer
from gateway.services import Services, services
from shared.records import API

router = APIRouter(prefix=f"{API}/workers", tags=["operations"], route_class=JSONRoute)


@router.get(
    "",
    summary="List the workers",
    description="The workers that live now, with what they run. One that stops or dies is gone from the list within seconds.",
    responses=answers(200, WorkerList, "The workers."),
)
async def get_workers(services: Annotated[Services, Depends(services)]) -> Response:
    return json_answer({"items": await services.registry.workers(), "next_cursor": None})
