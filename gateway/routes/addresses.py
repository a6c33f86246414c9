"""`/webhooks/addresses`: the URLs that jobs name as their webhooks, where they are disabled."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body, Response

from gateway.auth import Reader, Writer
from gateway.documents import answers
from gateway.errors import Problem
from gateway.limits import JSONRoute
from gateway.routes.answer import json_answer
from gateway.services import CurrentServices
from gateway.webhook_documents import AddressList
from shared.records import API
from shared.webhooks import AddressRequest

router = APIRouter(prefix=f"{API}/webhooks/addresses", tags=["webhooks"], route_class=JSONRoute)
_ENABLE_EXAMPLES = {"url": {"summary": "As the list has it", "value": {"url": "https://example.com/hooks/jobs"}}}


@router.get(
    "",
    summary="List the disabled URLs of jobs",
    description="The URLs that the caller's jobs name, and that are disabled: all tries failed for five days.",
    responses=answers(200, AddressList, "The disabled URLs; none where all is well."),
)
async def get_addresses(caller: Reader, services: CurrentServices) -> Response:
    return json_answer({"items": await services.endpoints.disabled_addresses(caller.tenant), "next_cursor": None})


@router.post(
    "/enable",
    status_code=204,
    summary="Enable a URL of jobs",
    description=(
        "Lets deliveries go to the URL again. Those that were held meanwhile stay held: send them by "
        "`POST /deliveries/redeliver`."
    ),
    responses=answers(204, None, "The URL is enabled.", "address_not_found", reads_body=True),
)
async def enable_address(
    body: Annotated[AddressRequest, Body(openapi_examples=_ENABLE_EXAMPLES)],
    caller: Writer,
    services: CurrentServices,
) -> Response:
    if not await services.endpoints.enable_address(caller.tenant, body.url):
        detail = "No URL like this is disabled; GET /api/v1/webhooks/addresses lists those that are."
        raise Problem("address_not_found", detail)
    return Response(status_code=204)
