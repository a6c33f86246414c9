"""`/tenants`: what operators allow single tenants."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, Path, Response
from pydantic import BaseModel, BeforeValidator, Field

from gateway.auth import Operator
from gateway.documents import answers
from gateway.limits import JSONRoute
from gateway.routes.answer import json_answer
from gateway.services import CurrentServices
from shared.jobs import StrictRequest
from shared.records import API
from shared.store import TenantLimits
from shared.store.keys import TENANT_PATTERN

router = APIRouter(prefix=f"{API}/tenants", tags=["operations"], route_class=JSONRoute)
Tenant = Annotated[str, Path(pattern=TENANT_PATTERN, description="A tenant's name, as its API keys have it.")]


def _whole(value: Any) -> Any:
    """5.0 is 5: to JSON schema both are integers."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Limit = Annotated[int, Field(ge=0, le=1_000_000_000, strict=True), BeforeValidator(_whole)]
_EXAMPLES = {
    "small": {
        "summary": "Five jobs at once, and a request a second",
        "value": {"max_running": 5, "max_waiting": 1000, "requests_per_minute": 60},
    },
    "default": {"summary": "The service's defaults again", "value": {}},
}


class LimitsRequest(StrictRequest):
    """What a tenant may do. What is null or left out is the service's default; 0 is no limit."""

    max_running: Limit | None = Field(None, description="Jobs that run at once, over all workers and queues.")
    max_waiting: Limit | None = Field(None, description="Jobs that wait, for whatever, in place of MAX_TENANT_DEPTH.")
    requests_per_minute: Limit | None = Field(
        None, description="Requests of each of its API keys, in place of RATE_LIMIT_PER_MINUTE."
    )


class LimitsDocument(BaseModel):
    """What is set for a tenant: null is the service's default, 0 no limit."""

    tenant: str = Field(examples=["acme"])
    max_running: int | None
    max_waiting: int | None
    requests_per_minute: int | None


class TenantList(BaseModel):
    """The tenants that have limits of their own, by name."""

    items: list[LimitsDocument]
    next_cursor: None = None


@router.get(
    "",
    summary="List the tenants with limits of their own",
    description="All tenants for which something else is set than the service's defaults, by name.",
    responses=answers(200, TenantList, "The tenants and their limits."),
)
async def get_tenants(_: Operator, services: CurrentServices) -> Response:
    _changes, found = await services.tenants.store.all()
    return json_answer({"items": [_document(*one) for one in found.items()], "next_cursor": None})


@router.get(
    "/{tenant}/limits",
    summary="Get the limits of a tenant",
    description="What is set for one tenant. One for which nothing is set, or that nobody has heard of, has nulls.",
    responses=answers(200, LimitsDocument, "The limits.", "validation_error"),
)
async def get_limits(tenant: Tenant, _: Operator, services: CurrentServices) -> Response:
    return json_answer(_document(tenant, await services.tenants.store.get(tenant)))


@router.put(
    "/{tenant}/limits",
    summary="Set the limits of a tenant",
    description=(
        "Replaces all limits of the tenant. Jobs that run are not stopped, and jobs that wait are not dropped: the "
        "next claim and the next submit keep to them, and all gateways within a second."
    ),
    responses=answers(200, LimitsDocument, "The limits as they are now.", reads_body=True),
)
async def put_limits(
    tenant: Tenant,
    body: Annotated[LimitsRequest, Body(openapi_examples=_EXAMPLES)],
    _: Operator,
    services: CurrentServices,
) -> Response:
    limits = TenantLimits(**body.model_dump())
    await services.tenants.store.put(tenant, limits)
    return json_answer(_document(tenant, limits))


def _document(tenant: str, limits: TenantLimits) -> dict[str, Any]:
    return {
        "tenant": tenant,
        "max_running": limits.max_running,
        "max_waiting": limits.max_waiting,
        "requests_per_minute": limits.requests_per_minute,
    }
