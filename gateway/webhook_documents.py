"""What the routes of webhooks answer, as the OpenAPI page shows it."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from gateway.documents import JOB_ID
from gateway.errors import ProblemDocument
from shared.records import API
from shared.webhooks import Address, Delivery, DeliveryStatus, DeliveryType, Endpoint

ENDPOINT_ID = "019bfd3b11aa7c08a3f4d2e1908f7a66"
DELIVERY_ID = f"{JOB_ID}_1_failed_{ENDPOINT_ID}"
_LINKS: dict[str, Any] = {"self": f"{API}/deliveries/{DELIVERY_ID}"}
_ITEM: dict[str, Any] = {
    "id": DELIVERY_ID,
    "type": "job.failed",
    "status": "pending",
    "changed_at": "2026-01-31T12:00:00.000Z",
    "endpoint": ENDPOINT_ID,
    "url": "https://example.com/hooks/jobs",
}


class EndpointList(BaseModel):
    """The registered endpoints, oldest first."""

    items: list[Endpoint]
    next_cursor: None = None


class AddressList(BaseModel):
    """The URLs of jobs that are disabled, the one that has been so for the longest time first."""

    items: list[Address]
    next_cursor: None = None


class DeliveryList(BaseModel):
    """A job's webhook deliveries, oldest first."""

    items: list[Delivery]
    next_cursor: None = None


class DeliveryPage(BaseModel):
    """One page of deliveries, those that changed last first. `next_cursor` is the next page's `cursor`."""

    items: list[Delivery]
    next_cursor: str | None


class Sending(BaseModel):
    """A delivery that will be sent now."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"id": DELIVERY_ID, "status": "pending", "links": _LINKS}]}
    )

    id: str
    status: Literal["pending"]
    links: dict[str, str]


class RedeliverItem(BaseModel):
    """A delivery that matched. `error`, where there is one, says why it was not sent again."""

    model_config = ConfigDict(json_schema_extra={"examples": [_ITEM]})

    id: str
    type: DeliveryType
    status: DeliveryStatus | None = Field(description="As it stands now; null where the delivery is gone.")
    changed_at: datetime = Field(description="When it had got to where it stood before this call.")
    endpoint: str | None
    url: str
    error: ProblemDocument | None = None


class RedeliverAnswer(BaseModel):
    """The deliveries that matched, oldest change first. `next_cursor` is the next call's, null on the last."""

    matched: int = Field(description="How many deliveries of this call matched.")
    redelivered: int = Field(description="How many of them will be sent again.")
    items: list[RedeliverItem]
    next_cursor: str | None


def sending(delivery_id: str) -> dict[str, Any]:
    """What is said of a delivery that will be sent now (see `Sending`)."""
    return {"id": delivery_id, "status": "pending", "links": {"self": f"{API}/deliveries/{delivery_id}"}}
