"""`/jobs/{id}/deliveries`: what became of a job's webhooks."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Response

from gateway.auth import CurrentCaller
from gateway.documents import DeliveryList, Redelivery, answers
from gateway.errors import Problem, job_not_found
from gateway.limits import JSONRoute
from gateway.routes.answer import JobId, json_answer
from gateway.services import CurrentServices
from shared.records import API
from shared.store.keys import ref

router = APIRouter(prefix=f"{API}/jobs", tags=["deliveries"], route_class=JSONRoute)


@router.get(
    "/{job_id}/deliveries",
    summary="List a job's webhook deliveries",
    description="One delivery for each webhook message, oldest first, with its attempts. They outlive the job itself.",
    responses=answers(200, DeliveryList, "The deliveries; none while the job's first round goes on.", "job_not_found"),
)
async def get_deliveries(job_id: JobId, caller: CurrentCaller, services: CurrentServices) -> Response:
    items = await services.deliveries.of_job(caller.tenant, job_id)
    if not items:
        name = ref(caller.tenant, job_id)
        if (await services.jobs.statuses([name]))[name] is None:
            raise job_not_found()
    return json_answer({"items": items, "next_cursor": None})


@router.post(
    "/{job_id}/deliveries/{delivery_id}/redeliver",
    status_code=202,
    summary="Send a webhook again",
    description="Sends the same message, with the same `webhook-id`, now, and retries it on a fresh schedule.",
    responses=answers(
        202, Redelivery, "It will be sent again.", "delivery_not_found", "job_not_found", "delivery_in_progress"
    ),
)
async def redeliver(
    job_id: JobId,
    delivery_id: Annotated[str, Path(description="A delivery's id, from the list of deliveries.")],
    caller: CurrentCaller,
    services: CurrentServices,
) -> Response:
    mine = delivery_id.startswith(f"{job_id}_")
    outcome = await services.deliveries.redeliver(caller.tenant, delivery_id) if mine else "missing"
    if outcome == "missing":
        raise Problem("delivery_not_found", "This job has no such delivery; GET its deliveries for their ids.")
    if outcome == "sending":
        raise Problem("delivery_in_progress", "This delivery is being sent at this moment. Try again when it is done.")
    return json_answer({"id": delivery_id, "status": "pending"}, 202)
