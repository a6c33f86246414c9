"""`/deliveries` and `/jobs/{id}/deliveries`: what became of webhook messages."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response

from gateway.auth import Reader
from gateway.documents import answers
from gateway.errors import delivery_not_found, job_not_found
from gateway.limits import JSONRoute
from gateway.routes.answer import DeliveryId, JobId, json_answer
from gateway.routes.delivery_selection import AskedPage, page_of_deliveries
from gateway.services import CurrentServices
from gateway.webhook_documents import DeliveryList, DeliveryPage
from shared.records import API
from shared.store.keys import ref
from shared.webhooks import Delivery, EndpointId

router = APIRouter(prefix=API, tags=["deliveries"], route_class=JSONRoute)


@router.get(
    "/deliveries",
    summary="List webhook deliveries",
    description=(
        "The caller's deliveries, to endpoints and to URLs of jobs, those that changed last first, page by page. All "
        "filters have to match. One that changes meanwhile moves to the front. Where few of many match, a page may be "
        "short, or empty: the last one is that whose `next_cursor` is null."
    ),
    responses=answers(200, DeliveryPage, "One page.", "validation_error", "invalid_cursor"),
)
async def get_deliveries(
    asked: AskedPage,
    caller: Reader,
    services: CurrentServices,
    endpoint: Annotated[EndpointId | None, Query()] = None,
) -> Response:
    items, next_cursor = await page_of_deliveries(
        services, caller.tenant, asked.of(endpoint), limit=asked.limit, cursor=asked.cursor
    )
    return json_answer({"items": items, "next_cursor": next_cursor})


@router.get(
    "/deliveries/{delivery_id}",
    summary="Get a webhook delivery",
    description="One message to one address, with its last 100 attempts.",
    responses=answers(200, Delivery, "The delivery.", "delivery_not_found"),
)
async def get_delivery(delivery_id: DeliveryId, caller: Reader, services: CurrentServices) -> Response:
    found = await services.deliveries.get(caller.tenant, delivery_id)
    if found is None:
        raise delivery_not_found()
    return json_answer(found)


@router.get(
    "/jobs/{job_id}/deliveries",
    summary="List a job's webhook deliveries",
    description="One delivery for each webhook message, oldest first, with its attempts. They outlive the job itself.",
    responses=answers(200, DeliveryList, "The deliveries; none while the job's first round goes on.", "job_not_found"),
)
async def get_deliveries_of_job(job_id: JobId, caller: Reader, services: CurrentServices) -> Response:
    items = await services.deliveries.of_job(caller.tenant, job_id)
    if not items:
        name = ref(caller.tenant, job_id)
        if (await services.jobs.statuses([name]))[name] is None:
            raise job_not_found()
    return json_answer({"items": items, "next_cursor": None})
