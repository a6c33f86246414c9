"""Sending webhook messages again: one, or all that match a filter."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Body, Response

from gateway.auth import Writer
from gateway.documents import answers
from gateway.errors import Problem, delivery_not_found, problem_of
from gateway.limits import JSONRoute
from gateway.routes.answer import DeliveryId, JobId, json_answer
from gateway.routes.delivery_selection import delivery_filter, page_of_deliveries
from gateway.routes.selection import invalid_cursor
from gateway.services import CurrentServices, Services
from gateway.webhook_documents import ENDPOINT_ID, RedeliverAnswer, Sending, sending
from shared.records import API
from shared.store import DeliveryFilter
from shared.webhooks import RedeliverRequest

router = APIRouter(prefix=API, tags=["deliveries"], route_class=JSONRoute)
_ITEM_FIELDS = ("id", "type", "status", "changed_at", "endpoint", "url")
_CURSOR = re.compile(r"([0-9]{1,15})\.([A-Za-z0-9_-]+)")
_AGAIN = "Sends the same message, with the same `webhook-id`, now, and retries it on a fresh schedule."
_PROBLEMS = ("delivery_not_found", "delivery_in_progress", "webhook_disabled")
_EXAMPLES = {
    "dry_run": {
        "summary": "See what has failed at one endpoint since noon",
        "value": {"endpoint": ENDPOINT_ID, "status": ["failed"], "since": "2026-01-31T12:00:00Z", "dry_run": True},
    },
    "all": {"summary": "Send again all that failed, or was held because its address was disabled", "value": {}},
    "now": {
        "summary": "Send what waits for its next try now",
        "value": {"endpoint": ENDPOINT_ID, "status": ["pending"], "limit": 1000},
    },
}


@router.post(
    "/deliveries/redeliver",
    status_code=202,
    summary="Send all webhooks again that match a filter",
    description=(
        "Sends up to `limit` of the caller's deliveries again, the oldest change first, each as `POST "
        "/deliveries/{id}/redeliver` would: `items` has those that matched, with an `error` where one was not sent "
        "again. To go on, send the same body with `next_cursor` as its `cursor`, until that is null; a call may find "
        "few deliveries, or none, before. What changes after the first call is left out, so none comes twice. With "
        "`dry_run` nothing changes, and the answer is a 200. The call can be repeated when its answer was lost, for a "
        "delivery that waits again is not `failed` any more."
    ),
    responses=answers(
        202, RedeliverAnswer, "What became of each delivery that matched.", "invalid_cursor", reads_body=True
    )
    | {200: {"model": RedeliverAnswer, "description": "A dry run: the deliveries that match, as they stand."}},
)
async def redeliver_many(
    body: Annotated[RedeliverRequest, Body(openapi_examples=_EXAMPLES)],
    caller: Writer,
    services: CurrentServices,
) -> Response:
    begun_ms, cursor = _read_cursor(body.cursor) if body.cursor else (await services.deliveries.now_ms(), None)
    found, next_cursor = await page_of_deliveries(
        services, caller.tenant, _filter(body, begun_ms), limit=body.limit, cursor=cursor, oldest_first=True
    )
    items = [{name: delivery[name] for name in _ITEM_FIELDS} for delivery in found]
    redelivered = 0
    if items and not body.dry_run:
        outcomes = await services.deliveries.redeliver_many(caller.tenant, [item["id"] for item in items])
        for item, outcome in zip(items, outcomes, strict=True):
            item |= _said(outcome, item)
            redelivered += "error" not in item
    answer = {
        "matched": len(items),
        "redelivered": redelivered,
        "items": items,
        "next_cursor": next_cursor and f"{begun_ms}.{next_cursor}",
    }
    return json_answer(answer, 200 if body.dry_run else 202)


@router.post(
    "/deliveries/{delivery_id}/redeliver",
    status_code=202,
    summary="Send a webhook again",
    description=f"{_AGAIN} One that waits for its next try is sent at once.",
    responses=answers(202, Sending, "It will be sent again.", *_PROBLEMS),
)
async def redeliver(delivery_id: DeliveryId, caller: Writer, services: CurrentServices) -> Response:
    return await _redeliver(services, caller.tenant, delivery_id)


@router.post(
    "/jobs/{job_id}/deliveries/{delivery_id}/redeliver",
    status_code=202,
    summary="Send a webhook of a job again",
    description=_AGAIN,
    responses=answers(202, Sending, "It will be sent again.", "job_not_found", *_PROBLEMS),
)
async def redeliver_of_job(
    job_id: JobId, delivery_id: DeliveryId, caller: Writer, services: CurrentServices
) -> Response:
    if not delivery_id.startswith(f"{job_id}_"):
        raise delivery_not_found()
    return await _redeliver(services, caller.tenant, delivery_id)


async def _redeliver(services: Services, tenant: str, delivery_id: str) -> Response:
    outcome = await services.deliveries.redeliver(tenant, delivery_id)
    if outcome == "queued":
        return json_answer(sending(delivery_id), 202)
    delivery = await services.deliveries.get(tenant, delivery_id) if outcome == "disabled" else None
    raise _not_sent(outcome, delivery["endpoint"] if delivery else None)


def _filter(body: RedeliverRequest, begun_ms: int) -> DeliveryFilter:
    """What matches, without what changed after the first call: else one that fails again at once would come again."""
    wanted = delivery_filter(
        statuses=body.status, types=body.type, since=body.since, until=body.until, endpoint=body.endpoint
    )
    return replace(wanted, until_ms=begun_ms if wanted.until_ms is None else min(begun_ms, wanted.until_ms))


def _read_cursor(cursor: str) -> tuple[int, str]:
    """When the first call was made, and the store's cursor."""
    parts = _CURSOR.fullmatch(cursor)
    if parts is None:
        raise invalid_cursor()
    return int(parts[1]), parts[2]


def _said(outcome: str | Exception, item: dict[str, Any]) -> dict[str, Any]:
    """What one delivery's item says of its redelivery."""
    if isinstance(outcome, Exception):
        return {"error": problem_of(outcome).document()}
    if outcome == "queued":
        return {"status": "pending"}
    problem = {"error": _not_sent(outcome, item["endpoint"]).document()}
    return problem | ({"status": None} if outcome == "missing" else {})


def _not_sent(outcome: str, endpoint: str | None) -> Problem:
    if outcome == "missing":
        return delivery_not_found()
    if outcome == "disabled":
        way = f"POST /api/v1/webhooks/{endpoint}/enable" if endpoint else "POST /api/v1/webhooks/addresses/enable"
        return Problem("webhook_disabled", f"The address of this delivery is disabled. Enable it first: {way}.")
    return Problem("delivery_in_progress", "This delivery is being sent at this moment. Try again when it is done.")
