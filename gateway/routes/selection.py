"""Which of the caller's jobs a request means: the parameters that say so, and the page of those that match."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

from fastapi import Query
from pydantic import BeforeValidator
from redis.asyncio import Redis

from gateway.errors import Problem
from shared.jobs import ErrorCode, JobStatus, Name
from shared.store import BadCursor, Filter, StoredJob, list_jobs


def split(values: Any) -> Any:
    """The values of a parameter that is repeated, or separated by commas."""
    return [part for value in values for part in value.split(",") if part] if isinstance(values, list) else values


SEVERAL = Query(max_length=50, description="Repeated, or separated by commas.")
Statuses = Annotated[list[JobStatus] | None, BeforeValidator(split), SEVERAL]
GraphIds = Annotated[list[Name] | None, BeforeValidator(split), SEVERAL]
ErrorCodes = Annotated[list[ErrorCode] | None, BeforeValidator(split), SEVERAL]


def job_filter(
    *, statuses: Sequence[str] | None, graphs: Sequence[str] | None, error_codes: Sequence[str] | None,
    created_after: datetime | None, created_before: datetime | None, thread_id: str | None = None,
) -> Filter:  # fmt: skip
    """The store's filter for what a client gave."""
    return Filter(
        statuses=statuses or (),
        graphs=graphs or (),
        error_codes=error_codes or (),
        thread_id=thread_id,
        # Jobs have whole milliseconds: rounded outwards, so that both times are exclusive and nothing else is.
        created_after_ms=None if created_after is None else math.floor(created_after.timestamp() * 1000),
        created_before_ms=None if created_before is None else math.ceil(created_before.timestamp() * 1000),
    )


async def page_of_jobs(
    redis: Redis, tenant: str, wanted: Filter, *,
    limit: int, cursor: str | None, oldest_first: bool = False, fields: Sequence[bytes] = (),
) -> tuple[list[StoredJob], str | None]:  # fmt: skip
    """`list_jobs` for a client's cursor. Raises `Problem` for one that no list gave."""
    try:
        return await list_jobs(
            redis, tenant, wanted, limit=limit, cursor=cursor, oldest_first=oldest_first, fields=fields
        )
    except BadCursor:
        raise invalid_cursor() from None


def invalid_cursor() -> Problem:
    """422 for a cursor that a client made up, or took from another list."""
    return Problem("invalid_cursor", "This cursor is not one that a list gave. Start over without a cursor.")
