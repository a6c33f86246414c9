"""`/jobs`: reading, waiting, listing, and what can be done to a job."""

from __future__ import annotations

import asyncio
import re
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response

from gateway.auth import Caller, Reader, Writer
from gateway.documents import Accepted, JobList, answers
from gateway.errors import Problem, job_not_found
from gateway.large_answers import SMALL_OUTPUT_BYTES, LargeAnswer, room_to_read
from gateway.limits import JSONRoute, answered_in_time
from gateway.notices import ENDED
from gateway.routes.answer import JobId, accepted, json_answer
from gateway.routes.selection import ErrorCodes, GraphIds, Statuses, job_filter, page_of_jobs
from gateway.services import CurrentServices, Services
from shared.jobs import JobRecord, ThreadId, Time
from shared.metrics import JOBS_ENDED
from shared.records import API, job_document
from shared.store import StoredJob, StoreUnavailable
from shared.store.keys import ref

MAX_WAIT_SECONDS = 60.0
router = APIRouter(prefix=f"{API}/jobs", tags=["jobs"], route_class=JSONRoute)
# Holds its answers back itself, so it has no time limit of its own.
waiting_router = APIRouter(prefix=f"{API}/jobs", tags=["jobs"])
_PREFER_WAIT = re.compile(r'(?:^|[,;\s])wait\s*=\s*"?(\d{1,9})', re.IGNORECASE)
Wait = Annotated[
    float | None, Query(ge=0, allow_inf_nan=False, description="Seconds; more than 60 is taken as 60.", examples=[30])
]


@waiting_router.get(
    "/{job_id}",
    summary="Get a job, or wait for it",
    description=(
        "The job's record, with its output once it has ended. With `wait` (or the header `Prefer: wait=…`) the answer "
        "is held until the job ends or is interrupted, at most so many seconds: then, or when the service restarts, it "
        "is the record as it stands, so look at `status` and ask again."
    ),
    responses=answers(200, JobRecord, "The job's record.", "job_not_found", "validation_error"),
)
async def get_job(
    request: Request,
    job_id: JobId,
    caller: Reader,
    services: CurrentServices,
    wait: Wait = None,
    prefer: Annotated[str | None, Header(description="`wait=seconds` (RFC 7240), where `wait` is not given.")] = None,
) -> Response:
    if wait is None and prefer is not None and (preferred := _PREFER_WAIT.search(prefer)):
        wait = float(preferred[1])
    job = await _ended(request, services, caller, job_id, wait) if wait else await _read(services, caller, job_id)
    if not job.left_out_bytes:
        return json_answer(job_document(job_id, job.record, job.output))
    held = await room_to_read(request, job.left_out_bytes)
    job = await _read(services, caller, job_id, largest_output=None)
    return LargeAnswer(job_document(job_id, job.record, job.output), held)


@router.get(
    "",
    summary="List jobs",
    description=(
        "The caller's jobs, newest first, without their outputs, page by page. All filters have to match. Where few of "
        "many jobs do, a page may be short, or empty: the last one is that whose `next_cursor` is null."
    ),
    responses=answers(200, JobList, "One page.", "validation_error", "invalid_cursor"),
)
async def get_jobs(
    caller: Reader,
    services: CurrentServices,
    status: Statuses = None,
    graph: GraphIds = None,
    thread_id: Annotated[ThreadId | None, Query()] = None,
    error_code: ErrorCodes = None,
    created_after: Annotated[Time | None, Query(description="RFC 3339; exclusive.")] = None,
    created_before: Annotated[Time | None, Query(description="RFC 3339; exclusive.")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Annotated[str | None, Query(max_length=200, description="The `next_cursor` of the page before.")] = None,
) -> Response:
    wanted = job_filter(
        statuses=status, graphs=graph, error_codes=error_code, thread_id=thread_id,
        created_after=created_after, created_before=created_before,
    )  # fmt: skip
    jobs, next_cursor = await page_of_jobs(services.redis, caller.tenant, wanted, limit=limit, cursor=cursor)
    items = [job_document(job.id, job.record, with_output=False) for job in jobs]
    return json_answer({"items": items, "next_cursor": next_cursor})


@router.post(
    "/{job_id}/cancel",
    status_code=202,
    summary="Cancel a job",
    description="Ends a waiting or interrupted job at once, and asks a running one to end, which takes it a moment.",
    responses=answers(202, Accepted, "The job is cancelled, or will be.", "job_not_found", "job_ended"),
)
async def cancel_job(job_id: JobId, caller: Writer, services: CurrentServices) -> Response:
    outcome, status, graph = await services.jobs.cancel(caller.tenant, job_id)
    if outcome == "missing":
        raise job_not_found()
    if outcome == "ended":
        raise Problem("job_ended", f"The job has ended ({status}) and cannot be cancelled any more.")
    if outcome == "cancelled":
        JOBS_ENDED.labels(graph, status).inc()
    return json_answer(accepted(job_id, status), 202)


@router.delete(
    "/{job_id}",
    status_code=204,
    summary="Erase an ended job",
    description="Erases record, input, output and events. Its webhook deliveries are kept until they have been made.",
    responses=answers(204, None, "The job is gone.", "job_not_found", "job_not_ended"),
)
async def delete_job(job_id: JobId, caller: Writer, services: CurrentServices) -> Response:
    outcome, status = await services.jobs.erase(caller.tenant, job_id)
    if outcome == "missing":
        raise job_not_found()
    if outcome == "running":
        raise Problem("job_not_ended", f"Only ended jobs can be erased; this one is {status}. Cancel it first.")
    return Response(status_code=204)


async def _read(
    services: Services, caller: Caller, job_id: str, *, largest_output: int | None = SMALL_OUTPUT_BYTES
) -> StoredJob:
    async with answered_in_time():
        job = await services.jobs.get(caller.tenant, job_id, largest_output=largest_output)
    if job is None:
        raise job_not_found()
    return job


async def _ended(request: Request, services: Services, caller: Caller, job_id: str, seconds: float) -> StoredJob:
    """The job once it has ended or is interrupted, or as it stands after `seconds`."""
    with services.waiters.waiting(ref(caller.tenant, job_id)) as word:
        job = await _read(services, caller, job_id)
        if job.status in ENDED:
            return job
        gone = asyncio.create_task(_disconnected(request))
        either: list[asyncio.Future[Any]] = [word, gone]
        try:
            await asyncio.wait(either, timeout=min(seconds, MAX_WAIT_SECONDS), return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
        if word.done() and word.result() == "unavailable":
            raise StoreUnavailable("Redis went away while a client waited")
        return job if gone.done() else await _read(services, caller, job_id)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
