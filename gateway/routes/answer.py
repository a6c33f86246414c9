"""How routes answer: JSON by orjson, and the links of a job."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

import orjson
from fastapi import Depends, Path, Response

from gateway.errors import job_not_found
from shared.records import job_links

_JOB_ID = re.compile(r"[0-9a-f]{32}")


def json_answer(document: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON answer; parts that are `orjson.Fragment` are written as they are."""
    return Response(orjson.dumps(document), status, headers, "application/json")


def accepted(job_id: str, status: str) -> dict[str, Any]:
    """What is said of a job that was submitted or changed (see `gateway.documents.Accepted`)."""
    return {"id": job_id, "status": status, "links": job_links(job_id, status)}


async def _job_id(job_id: Annotated[str, Path(description="A job's id, as the submit answered it.")]) -> str:
    if not _JOB_ID.fullmatch(job_id):
        raise job_not_found()
    return job_id


JobId = Annotated[str, Depends(_job_id)]
"""A route's parameter: the job id of its path. What cannot be one is a 404 without a question to Redis."""
