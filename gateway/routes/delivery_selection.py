"""Which of the caller's deliveries a request means: the parameters that say so, and the page of those that match."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Annotated, Any

from fastapi import Depends, Query
from pydantic import BeforeValidator

from gateway.routes.selection import SEVERAL, invalid_cursor, split
from gateway.services import Services
from shared.jobs import Time
from shared.store import BadCursor, DeliveryFilter
from shared.webhooks import DeliveryStatus, DeliveryType

Statuses = Annotated[list[DeliveryStatus] | None, BeforeValidator(split), SEVERAL]
Types = Annotated[list[DeliveryType] | None, BeforeValidator(split), SEVERAL]


@dataclass(frozen=True, slots=True)
class PageOfDeliveries:
    """What a list's parameters ask for."""

    wanted: DeliveryFilter
    limit: int
    cursor: str | None

    def of(self, endpoint: str | None) -> DeliveryFilter:
        """The filter for one endpoint's deliveries."""
        return replace(self.wanted, endpoint=endpoint)


async def _page(
    status: Statuses = None,
    type: Types = None,
    since: Annotated[
        Time | None, Query(description="RFC 3339, inclusive: about `changed_at`, so also when it failed.")
    ] = None,
    until: Annotated[Time | None, Query(description="RFC 3339, exclusive.")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Annotated[str | None, Query(max_length=300, description="The `next_cursor` of the page before.")] = None,
) -> PageOfDeliveries:
    return PageOfDeliveries(delivery_filter(statuses=status, types=type, since=since, until=until), limit, cursor)


AskedPage = Annotated[PageOfDeliveries, Depends(_page)]
"""A route's parameters: the filters and the place in the list."""


def delivery_filter(
    *, statuses: Sequence[str] | None, types: Sequence[str] | None, since: datetime | None, until: datetime | None,
    endpoint: str | None = None,
) -> DeliveryFilter:  # fmt: skip
    """The store's filter for what a client gave."""
    return DeliveryFilter(
        statuses=statuses or (),
        endpoint=endpoint,
        types=types or (),
        # Deliveries have whole milliseconds: rounding up keeps `since` inclusive and `until` exclusive.
        since_ms=None if since is None else math.ceil(since.timestamp() * 1000),
        until_ms=None if until is None else math.ceil(until.timestamp() * 1000),
    )


async def page_of_deliveries(
    services: Services, tenant: str, wanted: DeliveryFilter, *,
    limit: int, cursor: str | None, oldest_first: bool = False,
) -> tuple[list[dict[str, Any]], str | None]:  # fmt: skip
    """`DeliveryLog.page` for a client's cursor. Raises `Problem` for one that no list gave."""
    try:
        return await services.deliveries.page(tenant, wanted, limit=limit, cursor=cursor, oldest_first=oldest_first)
    except BadCursor:
        raise invalid_cursor() from None
