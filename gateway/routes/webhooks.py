"""`/webhooks`: the endpoints that a tenant registers to be told of its jobs."""

from __future__ import annotations

import time
from typing import Annotated, Any

import uuid_utils
from fastapi import APIRouter, Body, Response

from gateway.auth import Reader, Writer
from gateway.documents import answers
from gateway.errors import Problem, endpoint_not_found
from gateway.limits import JSONRoute
from gateway.receivers import check_receiver, sealed
from gateway.routes.answer import EndpointId, json_answer
from gateway.routes.delivery_selection import AskedPage, page_of_deliveries
from gateway.services import CurrentServices, Services
from gateway.webhook_documents import DeliveryPage, EndpointList, Sending, sending
from shared.records import API, render_ping
from shared.signing import new_secret
from shared.store.endpoints import MAX_ENDPOINTS
from shared.webhooks import Endpoint, EndpointChange, EndpointRequest, EndpointWithSecret, RotateRequest

router = APIRouter(prefix=f"{API}/webhooks", tags=["webhooks"], route_class=JSONRoute)
_BROUGHT = "whsec_YW4gZXhhbXBsZSBvbmx5LCBuZXZlciBhIHNlY3JldCE="  # it says so itself
_CREATE_EXAMPLES = {
    "all": {"summary": "Every message, with a secret that is made for you", "value": {"url": "https://example.com/h"}},
    "some": {
        "summary": "Only what went wrong",
        "value": {
            "url": "https://example.com/hooks/alarms",
            "events": ["job.failed"],
            "description": "To the team that is on call",
        },
    },
    "secret": {
        "summary": "With a secret of your own",
        "value": {"url": "https://example.com/h", "secret": _BROUGHT},
    },
}
_CHANGE_EXAMPLES = {
    "url": {"summary": "Move it", "value": {"url": "https://example.com/hooks/2"}},
    "events": {"summary": "Send it all messages from now on", "value": {"events": None}},
}
_ROTATE_EXAMPLES = {
    "new": {"summary": "A secret that is made for you", "value": {}},
    "own": {
        "summary": "A secret of your own",
        "value": {"secret": _BROUGHT},
    },
}
# Secrets are shown once: nothing on the way may keep them.
_UNKEPT = {"Cache-Control": "no-store"}


@router.post(
    "",
    status_code=201,
    summary="Register an endpoint",
    description=(
        "From now on each of the caller's jobs sends this endpoint a message when a round ends in one of its `events`, "
        f"besides the URL that the job itself may name. The answer is the only one that shows the secret. At most "
        f"{MAX_ENDPOINTS} endpoints."
    ),
    responses=answers(
        201, EndpointWithSecret, "The endpoint, with its secret.", "webhook_refused", "too_many_endpoints",
        reads_body=True, headers={"Location": "Where the endpoint is."},
    ),
)  # fmt: skip
async def create_endpoint(
    body: Annotated[EndpointRequest, Body(openapi_examples=_CREATE_EXAMPLES)],
    caller: Writer,
    services: CurrentServices,
) -> Response:
    check_receiver(services.settings, body.url, "url")
    secret = new_secret() if body.secret is None else body.secret
    endpoint_id = uuid_utils.uuid7().hex
    outcome = await services.endpoints.create(
        caller.tenant, endpoint_id,
        url=body.url, events=body.events, description=body.description,
        secret=sealed(services.settings, secret, "secret"),
    )  # fmt: skip
    if outcome == "too_many":
        raise Problem(
            "too_many_endpoints", f"There are {MAX_ENDPOINTS} endpoints, which is the most. Delete one first."
        )
    made = await _read(services, caller.tenant, endpoint_id)
    return json_answer({**made, "secret": secret}, 201, {"Location": f"{API}/webhooks/{endpoint_id}", **_UNKEPT})


@router.get(
    "",
    summary="List the endpoints",
    description="The caller's endpoints, oldest first, without their secrets.",
    responses=answers(200, EndpointList, "The endpoints."),
)
async def get_endpoints(caller: Reader, services: CurrentServices) -> Response:
    return json_answer({"items": await services.endpoints.of_tenant(caller.tenant), "next_cursor": None})


@router.get(
    "/{endpoint_id}",
    summary="Get an endpoint",
    description="One endpoint and its health, without its secret.",
    responses=answers(200, Endpoint, "The endpoint.", "endpoint_not_found"),
)
async def get_endpoint(endpoint_id: EndpointId, caller: Reader, services: CurrentServices) -> Response:
    return json_answer(await _read(services, caller.tenant, endpoint_id))


@router.patch(
    "/{endpoint_id}",
    summary="Change an endpoint",
    description=(
        "Changes only what is given. What waits goes to the new `url`, too; the new `events` hold for rounds that end "
        "from now on."
    ),
    responses=answers(
        200, Endpoint, "The endpoint as it is now.", "endpoint_not_found", "webhook_refused", reads_body=True
    ),
)
async def change_endpoint(
    endpoint_id: EndpointId,
    body: Annotated[EndpointChange, Body(openapi_examples=_CHANGE_EXAMPLES)],
    caller: Writer,
    services: CurrentServices,
) -> Response:
    given = body.model_dump(include=body.model_fields_set)
    if "url" in given:
        check_receiver(services.settings, body.url, "url")
    if given and await services.endpoints.change(caller.tenant, endpoint_id, given) == "missing":
        raise endpoint_not_found()
    return json_answer(await _read(services, caller.tenant, endpoint_id))


@router.delete(
    "/{endpoint_id}",
    status_code=204,
    summary="Delete an endpoint",
    description="What still waits for it fails. Its deliveries are kept, and can be listed, for as long as others.",
    responses=answers(204, None, "The endpoint is gone.", "endpoint_not_found"),
)
async def delete_endpoint(endpoint_id: EndpointId, caller: Writer, services: CurrentServices) -> Response:
    if not await services.endpoints.drop(caller.tenant, endpoint_id):
        raise endpoint_not_found()
    return Response(status_code=204)


@router.post(
    "/{endpoint_id}/rotate",
    summary="Give an endpoint a new secret",
    description=(
        "Messages are signed with the new secret and, for 24 hours, with the one before it as well, so that the "
        "receiver can change over at any time in between. Two are valid at most: another rotation within the day ends "
        "the oldest at once. The answer is the only one that shows the secret. The body may be left out."
    ),
    responses=answers(
        200, EndpointWithSecret, "The endpoint, with its new secret.", "endpoint_not_found", reads_body=True
    ),
)
async def rotate_secret(
    endpoint_id: EndpointId,
    caller: Writer,
    services: CurrentServices,
    body: Annotated[RotateRequest | None, Body(openapi_examples=_ROTATE_EXAMPLES)] = None,
) -> Response:
    secret = new_secret() if body is None or body.secret is None else body.secret
    token = sealed(services.settings, secret, "secret")
    if await services.endpoints.rotate(caller.tenant, endpoint_id, token) == "missing":
        raise endpoint_not_found()
    document = await _read(services, caller.tenant, endpoint_id)
    return json_answer({**document, "secret": secret}, headers=_UNKEPT)


@router.post(
    "/{endpoint_id}/ping",
    status_code=202,
    summary="Send an endpoint a test message",
    description=(
        "Sends a message of type `webhook.ping`, signed and retried as any other, whatever the endpoint's `events`, "
        "also while it is disabled. What became of it is at `links.self`."
    ),
    responses=answers(202, Sending, "It will be sent now.", "endpoint_not_found"),
)
async def ping_endpoint(endpoint_id: EndpointId, caller: Writer, services: CurrentServices) -> Response:
    delivery_id = f"ping_{uuid_utils.uuid7().hex}_{endpoint_id}"
    body = render_ping(endpoint_id, int(time.time() * 1000))
    if not await services.endpoints.ping(caller.tenant, endpoint_id, delivery_id, body):
        raise endpoint_not_found()
    return json_answer(sending(delivery_id), 202)


@router.post(
    "/{endpoint_id}/enable",
    summary="Enable an endpoint",
    description=(
        "Lets deliveries go to it again. Those that were held meanwhile stay held: send them by "
        "`POST /deliveries/redeliver`."
    ),
    responses=answers(200, Endpoint, "The endpoint as it is now.", "endpoint_not_found"),
)
async def enable_endpoint(endpoint_id: EndpointId, caller: Writer, services: CurrentServices) -> Response:
    return await _switch(services, caller.tenant, endpoint_id, on=True)


@router.post(
    "/{endpoint_id}/disable",
    summary="Disable an endpoint",
    description="Holds what is sent to it from now on, until it is enabled.",
    responses=answers(200, Endpoint, "The endpoint as it is now.", "endpoint_not_found"),
)
async def disable_endpoint(endpoint_id: EndpointId, caller: Writer, services: CurrentServices) -> Response:
    return await _switch(services, caller.tenant, endpoint_id, on=False)


@router.get(
    "/{endpoint_id}/deliveries",
    summary="List an endpoint's deliveries",
    description=(
        "What was sent to the endpoint, as `GET /deliveries` with its id as `endpoint` lists it, which is also how to "
        "see those of an endpoint that was deleted."
    ),
    responses=answers(200, DeliveryPage, "One page.", "endpoint_not_found", "validation_error", "invalid_cursor"),
)
async def get_deliveries_of_endpoint(
    endpoint_id: EndpointId, asked: AskedPage, caller: Reader, services: CurrentServices
) -> Response:
    await _read(services, caller.tenant, endpoint_id)
    items, next_cursor = await page_of_deliveries(
        services, caller.tenant, asked.of(endpoint_id), limit=asked.limit, cursor=asked.cursor
    )
    return json_answer({"items": items, "next_cursor": next_cursor})


async def _read(services: Services, tenant: str, endpoint_id: str) -> dict[str, Any]:
    document = await services.endpoints.get(tenant, endpoint_id)
    if document is None:
        raise endpoint_not_found()
    return document


async def _switch(services: Services, tenant: str, endpoint_id: str, *, on: bool) -> Response:
    if not await services.endpoints.switch(tenant, endpoint_id, on):
        raise endpoint_not_found()
    return json_answer(await _read(services, tenant, endpoint_id))
