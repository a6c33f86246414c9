"""The models of webhooks: the endpoints that tenants register, and what became of each message."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from shared.jobs import SECRET_PATTERN, Flag, StrictRequest, Time, WebhookEvent

EndpointId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$", description="Of one registered endpoint.")]
DeliveryType = Literal["job.succeeded", "job.failed", "job.cancelled", "job.interrupted", "webhook.ping"]
DeliveryStatus = Literal["pending", "delivered", "failed", "held"]
Url = Annotated[str, Field(max_length=2048, examples=["https://example.com/hooks/jobs"])]
Events = Annotated[list[WebhookEvent], Field(min_length=1, max_length=4)]
Secret = Annotated[
    str,
    Field(
        max_length=128,
        description="`whsec_…`; made for you where it is left out.",
        json_schema_extra={"pattern": SECRET_PATTERN},
    ),
]
Description = Annotated[str, Field(max_length=500)]


def _without_default(schema: dict[str, Any]) -> None:
    """A field that may be left out, and that has no value then."""
    del schema["default"]


class EndpointRequest(StrictRequest):
    """A receiver to register. Without `events` it is sent all of them."""

    url: Url
    events: Events | None = None
    description: Description | None = None
    secret: Secret | None = None


class EndpointChange(StrictRequest):
    """What is to change of an endpoint: only what is given does. `events: null` is all of them."""

    url: Annotated[Url, Field(json_schema_extra=_without_default)] = ""
    events: Events | None = None
    description: Description | None = None


class RotateRequest(StrictRequest):
    """The secret that signs from now on; the one before it signs too for 24 hours."""

    secret: Secret | None = None


class AddressRequest(StrictRequest):
    """A URL that jobs name as their webhook, and that is disabled."""

    url: Url


class RedeliverRequest(StrictRequest):
    """Which of the caller's deliveries to send again. All that is given has to match; `{}` is all that failed."""

    endpoint: EndpointId | None = None
    status: Annotated[list[DeliveryStatus], Field(min_length=1, max_length=4)] = ["failed", "held"]
    type: Annotated[list[DeliveryType] | None, Field(min_length=1, max_length=5)] = None
    since: Annotated[
        Time | None, Field(description="RFC 3339, inclusive: about `changed_at`, so also when it failed.")
    ] = None
    until: Annotated[Time | None, Field(description="RFC 3339, exclusive.")] = None
    limit: Annotated[int, Field(ge=1, le=1000, description="How many deliveries this call takes at most.")] = 100
    cursor: Annotated[
        str | None, Field(max_length=300, description="The `next_cursor` of the call before, with the same filter.")
    ] = None
    dry_run: Annotated[Flag, Field(description="Only say which deliveries match.")] = False


class Disabled(BaseModel):
    """Why deliveries to an address are held: it failed for five days, answered 410, or somebody asked for it."""

    at: datetime
    why: Literal["failing", "gone", "by_request"]


class Endpoint(BaseModel):
    """A registered receiver. `failing_since`: no try has succeeded since then."""

    id: str
    url: str
    events: list[WebhookEvent] | None
    description: str | None
    created_at: datetime
    secret_changed_at: datetime
    old_secret_until: datetime | None
    failing_since: datetime | None
    disabled: Disabled | None


class EndpointWithSecret(Endpoint):
    """A registered receiver with its secret, which is shown this once."""

    secret: str


class Address(BaseModel):
    """A URL that jobs name as their webhook, and that is disabled."""

    url: str
    failing_since: datetime | None
    disabled: Disabled


class DeliveryAttempt(BaseModel):
    """One try to deliver a webhook. `body` is the first 1 KB of the answer, `error` why there was none."""

    at: datetime
    status_code: int | None = None
    duration_ms: int
    error: str | None = None
    body: str | None = None


class Delivery(BaseModel):
    """One webhook message to one address, with its last 100 attempts.

    `held`: its address was disabled when it was due. `changed_at` is when it got to where it stands: created, tried
    last, or sent again. `endpoint` is null where the job itself named the URL.
    """

    id: str
    type: DeliveryType
    job_id: str | None
    endpoint: str | None
    url: str
    status: DeliveryStatus
    detail: str | None = None
    created_at: datetime
    changed_at: datetime
    next_attempt_at: datetime | None = None
    attempts: list[DeliveryAttempt]
