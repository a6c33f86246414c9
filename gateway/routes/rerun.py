"""Another round of a job: `retry` of those that failed or were cancelled, `resume` of those that wait for a person."""

from __future__ import annotations

from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Body, Response

from gateway.auth import Writer
from gateway.documents import Accepted, RetryAnswer, answers
from gateway.errors import Problem, job_not_found, problem_of
from gateway.limits import JSONRoute
from gateway.routes.answer import JobId, accepted, json_answer
from gateway.routes.selection import job_filter, page_of_jobs
from gateway.services import CurrentServices
from shared.jobs import ResumeRequest, RetryManyRequest, RetryRequest
from shared.records import API, SUMMARY_FIELDS, job_summary

router = APIRouter(prefix=f"{API}/jobs", tags=["jobs"], route_class=JSONRoute)

_RETRY_EXAMPLES = {
    "checkpoint": {"summary": "From its last checkpoint", "value": {"from": "checkpoint"}},
    "start": {"summary": "From its input, as if it had never run", "value": {"from": "start"}},
}
_RETRY_MANY_EXAMPLES = {
    "dry_run": {
        "summary": "See which jobs failed because of a provider since noon",
        "value": {"error_code": ["provider_error"], "created_after": "2026-01-31T12:00:00Z", "dry_run": True},
    },
    "all": {"summary": "Run every failed job again, from its last checkpoint", "value": {}},
    "start": {
        "summary": "Run the jobs of one graph again, also the cancelled ones, from their inputs",
        "value": {"status": ["failed", "cancelled"], "graph": ["customer_service"], "from": "start", "limit": 1000},
    },
}
_RESUME_EXAMPLES = {
    "yes": {"summary": "Approve", "value": {"value": True}},
    "text": {"summary": "An answer with more to it", "value": {"value": {"approved": False, "why": "Too expensive."}}},
}


@router.post(
    "/{job_id}/retry",
    status_code=202,
    summary="Run a failed or cancelled job again",
    description=(
        "Starts another round of the same job, with all its tries: from its last checkpoint, or with `from: start` "
        "from its input. A job of a thread joins the thread at its end; from its last checkpoint only as long as no "
        "other job has gone on in the thread. The body may be left out."
    ),
    responses=answers(
        202, Accepted, "The job is queued again.", "job_not_found", "job_not_retryable", "thread_moved_on",
        reads_body=True,
    ),
)  # fmt: skip
async def retry_job(
    job_id: JobId,
    caller: Writer,
    services: CurrentServices,
    body: Annotated[RetryRequest | None, Body(openapi_examples=_RETRY_EXAMPLES)] = None,
) -> Response:
    outcome, status = await services.jobs.retry(caller.tenant, job_id, body.start if body else "checkpoint")
    if outcome != "queued":
        raise _not_retried(outcome, status)
    return json_answer(accepted(job_id, status), 202)


@router.post(
    "/{job_id}/resume",
    status_code=202,
    summary="Answer an interrupted job",
    description=(
        "Starts another round of a job that waits for a person, where it stopped: `interrupt()` in its graph gives "
        "`value`. Where several questions are open (`interrupts` of its record), `value` answers each of them. "
        "Give the `round` that asked where the call may be sent twice: else the second may answer the next question."
    ),
    responses=answers(202, Accepted, "The job goes on.", "job_not_found", "job_not_interrupted", reads_body=True),
)
async def resume_job(
    job_id: JobId,
    body: Annotated[ResumeRequest, Body(openapi_examples=_RESUME_EXAMPLES)],
    caller: Writer,
    services: CurrentServices,
) -> Response:
    outcome, status = await services.jobs.resume(caller.tenant, job_id, orjson.dumps(body.value), round_=body.round)
    if outcome == "missing":
        raise job_not_found()
    if outcome == "refused":
        raise Problem("job_not_interrupted", _not_resumed(status, body.round))
    return json_answer(accepted(job_id, status), 202)


@router.post(
    "/retry",
    status_code=202,
    summary="Run all jobs again that match a filter",
    description=(
        "Retries up to `limit` of the caller's jobs, the oldest first, each as `POST /jobs/{id}/retry` would: `items` "
        "has those that matched, with an `error` where one was not retried. To go on, send the same body with "
        "`next_cursor` as its `cursor`, until that is null; a call may find few jobs, or none, before. No job comes "
        "twice. With `dry_run` nothing changes, and the answer is a 200. The call can be repeated when its answer was "
        "lost, for a job that waits or runs again matches no more."
    ),
    responses=answers(202, RetryAnswer, "What became of each job that matched.", "invalid_cursor", reads_body=True)
    | {200: {"model": RetryAnswer, "description": "A dry run: the jobs that match, as they stand."}},
)
async def retry_jobs(
    body: Annotated[RetryManyRequest, Body(openapi_examples=_RETRY_MANY_EXAMPLES)],
    caller: Writer,
    services: CurrentServices,
) -> Response:
    wanted = job_filter(
        statuses=body.status, graphs=body.graph, error_codes=body.error_code,
        created_after=body.created_after, created_before=body.created_before,
    )  # fmt: skip
    # The oldest first, for the jobs of a thread line up in the order in which they are retried.
    jobs, next_cursor = await page_of_jobs(
        services.redis, caller.tenant, wanted,
        limit=body.limit, cursor=body.cursor, oldest_first=True, fields=SUMMARY_FIELDS,
    )  # fmt: skip
    items = [job_summary(job.id, job.record) for job in jobs]
    retried = 0
    if jobs and not body.dry_run:
        outcomes = await services.jobs.retry_many(caller.tenant, [job.id for job in jobs], body.start)
        for item, outcome in zip(items, outcomes, strict=True):
            item |= _said(outcome)
            retried += "error" not in item
    answer = {"matched": len(items), "retried": retried, "items": items, "next_cursor": next_cursor}
    return json_answer(answer, 200 if body.dry_run else 202)


def _not_resumed(status: str, asked_in: int | None) -> str:
    if status == "interrupted":
        return f"Round {asked_in} is over: the job has gone on since, and asks something else now."
    return f"Only interrupted jobs can be resumed; this one is {status}."


def _said(outcome: tuple[str, str] | Exception) -> dict[str, Any]:
    """What one job's item says of its retry."""
    if isinstance(outcome, Exception):
        return {"error": problem_of(outcome).document()}
    word, status = outcome
    return {"status": status or None} | ({} if word == "queued" else {"error": _not_retried(word, status).document()})


def _not_retried(outcome: str, status: str) -> Problem:
    if outcome == "missing":
        return job_not_found()
    if outcome == "moved_on":
        detail = (
            "Other jobs have gone on in this job's thread since its last checkpoint, or are about to. "
            'Run it from its input, behind them: retry it with the body {"from": "start"}.'
        )
        return Problem("thread_moved_on", detail)
    return Problem("job_not_retryable", f"Only failed and cancelled jobs can be run again; this one is {status}.")
