"""How routes answer: JSON by orjson, the links of a job, and 404 for ids that cannot be any."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

import orjson
from fastapi import Depends, Path, Response

from gateway.errors import delivery_not_found, endpoint_not_found, job_not_found
from shared.records import job_links

_ID = re.compile(r"[0-9a-f]{32}")
_DELIVERY_ID = re.compile(
    r"[0-9a-f]{32}_[1-9][0-9]{0,9}_(succeeded|failed|cancelled|interrupted)(_[0-9a-f]{32})?|ping(_[0-9a-f]{32}){2}"
)


def json_answer(document: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON answer; parts that are `orjson.Fragment` are written as they are."""
    return Response(orjson.dumps(document), status, headers, "application/json")


def accepted(job_id: str, status: str) -> dict[str, Any]:
    """What is said of a job that was submitted or changed (see `gateway.documents.Accepted`)."""
    return {"id": job_id, "status": status, "links": job_links(job_id, status)}


async def _job_id(job_id: Annotated[str, Path(description="A job's id, as the submit answered it.")]) -> str:
    if not _ID.fullmatch(job_id):
        raise job_not_found()
    return job_id


JobId = Annotated[str, Depends(_job_id)]
"""A route's parameter: the job id of its path. What cannot be one is a 404 without a question to Redis."""


async def _endpoint_id(
    endpoint_id: Annotated[str, Path(description="An endpoint's id, from the list of endpoints.")],
) -> str:
    if not _ID.fullmatch(endpoint_id):
        raise endpoint_not_found()
    return endpoint_id


EndpointId = Annotated[str, Depends(_endpoint_id)]
"""A route's parameter: the endpoint id of its path."""


async def _delivery_id(
    delivery_id: Annotated[str, Path(description="A delivery's id, from a list of deliveries.")],
) -> str:
    if not _DELIVERY_ID.fullmatch(delivery_id):
        raise delivery_not_found()
    return delivery_id


DeliveryId = Annotated[str, Depends(_delivery_id)]
"""A route's parameter: the delivery id of its path."""
