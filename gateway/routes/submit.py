"""`POST /jobs` and `POST /jobs/batch`: one round trip to Redis, whatever the number of jobs."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, Header, Request, Response
from pydantic import ValidationError

from gateway.auth import CurrentCaller
from gateway.documents import JOB_ID, Accepted, BatchAnswer, BatchRequest, answers
from gateway.errors import Problem, problem_of, validation_problem
from gateway.limits import JSONRoute
from gateway.routes.answer import accepted, json_answer
from gateway.services import CurrentServices
from gateway.submission import Submission
from shared.jobs import JobRequest
from shared.metrics import JOBS_ENDED, JOBS_SUBMITTED
from shared.records import API
from shared.store import NewJob, Submitted

router = APIRouter(prefix=f"{API}/jobs", tags=["jobs"], route_class=JSONRoute)
_REFUSALS = ("unknown_graph", "graph_failed_to_load", "invalid_input", "webhook_refused", "idempotency_key_reused")

IdempotencyKey = Annotated[
    str | None,
    Header(
        pattern=r"^[\x21-\x7e]{1,255}$",
        description="For 24 hours the same key with the same body gives the same job, and with another body a 422.",
        examples=["order-4711"],
    ),
]
Traceparent = Annotated[
    str | None, Header(description="W3C trace context, kept on the job; ignored where it is malformed.")
]

_MESSAGE = {"messages": [{"role": "user", "content": "My router blinks red. What now?"}]}
_EXAMPLES = {
    "short": {"summary": "A graph and its input", "value": {"graph": "customer_service", "input": _MESSAGE}},
    "full": {
        "summary": "With a thread, a webhook, a priority and a limit",
        "value": {
            "graph": "customer_service",
            "input": _MESSAGE,
            "thread_id": "customer-17",
            "metadata": {"ticket": 4711},
            "webhook": {"url": "https://example.com/hooks/jobs", "events": ["job.succeeded", "job.failed"]},
            "priority": 5,
            "limits": {"seconds": 120, "steps": 50},
        },
    },
}
_BATCH_EXAMPLES = {
    "two": {
        "summary": "Two jobs, the second for a graph that does not exist",
        "value": {"jobs": [{"graph": "customer_service", "input": _MESSAGE}, {"graph": "nosuch", "input": {}}]},
    }
}


@router.post(
    "",
    status_code=202,
    summary="Submit a job",
    description="Accepts one job and answers with its id at once. After a 202 the job is never lost.",
    responses=answers(
        202, Accepted, "The job is accepted.", *_REFUSALS, "thread_busy", reads_body=True,
        headers={
            "Location": f"The job's address, for example `{API}/jobs/{JOB_ID}`.",
            "Idempotent-Replayed": "`true` where the Idempotency-Key was known, and this is the answer of then.",
        },
    ),
)  # fmt: skip
async def submit(
    request: Request,
    body: Annotated[JobRequest, Body(openapi_examples=_EXAMPLES)],
    caller: CurrentCaller,
    services: CurrentServices,
    idempotency_key: IdempotencyKey = None,
    traceparent: Traceparent = None,
) -> Response:
    submission = Submission(services.settings, services.catalogue, caller.tenant, traceparent)
    job = await submission.job(body, await request.json(), idempotency_key or "")
    submitted = await services.jobs.submit(job)
    document = _answer(job, submitted)
    headers = {"Location": document["links"]["self"]}
    if submitted.outcome == "duplicate":
        headers["Idempotent-Replayed"] = "true"
    return json_answer(document, 202, headers)


@router.post(
    "/batch",
    status_code=202,
    summary="Submit up to 1,000 jobs",
    description=(
        "Accepts the jobs that are right, each for itself, and says for the others what is wrong with them: `items` "
        "has an answer for each job, in order. The pointers in an item's errors are into that job. With an "
        "`Idempotency-Key` the whole batch can be sent again: each job is known by the key and its place in the batch."
    ),
    responses=answers(202, BatchAnswer, "The batch is taken; each item says for itself.", reads_body=True),
)
async def submit_batch(
    request: Request,
    body: Annotated[BatchRequest, Body(openapi_examples=_BATCH_EXAMPLES)],
    caller: CurrentCaller,
    services: CurrentServices,
    idempotency_key: IdempotencyKey = None,
    traceparent: Traceparent = None,
) -> Response:
    submission = Submission(services.settings, services.catalogue, caller.tenant, traceparent)
    jobs: list[NewJob] = []
    items: list[dict[str, Any] | None] = []
    for place, sent in enumerate(body.jobs):
        try:
            # No client's key has a space in it, so none is equal to one of these.
            key = f"{idempotency_key} {place}" if idempotency_key else ""
            jobs.append(await submission.job(_validated(sent), sent, key))
            items.append(None)
        except Problem as problem:
            items.append({"error": problem.document()})
    outcomes = iter(zip(jobs, await services.jobs.submit_many(jobs) if jobs else [], strict=True))
    return json_answer({"items": [item or _item(*next(outcomes)) for item in items]}, 202)


def _validated(sent: Any) -> JobRequest:
    try:
        return JobRequest.model_validate(sent)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_input=False)
        raise validation_problem([{**each, "loc": ("body", *each["loc"])} for each in errors]) from None


def _item(job: NewJob, outcome: Submitted | Exception) -> dict[str, Any]:
    try:
        if isinstance(outcome, Exception):
            raise outcome
        return _answer(job, outcome)
    except Exception as error:
        return {"error": problem_of(error).document()}


def _answer(job: NewJob, submitted: Submitted) -> dict[str, Any]:
    """The answer for an accepted job. Raises `Problem` where the store did not accept it."""
    if submitted.outcome == "conflict":
        detail = "This Idempotency-Key was used with another request in the last 24 hours. Use a new key for a new job."
        raise Problem("idempotency_key_reused", detail)
    if submitted.outcome == "busy":
        detail = "The thread has a job that has not ended, and on_busy is reject. Wait, cancel it, or let it queue."
        raise Problem("thread_busy", detail, job_id=submitted.id)
    if submitted.outcome == "created":
        JOBS_SUBMITTED.labels(job.graph).inc()
    if submitted.ended_graph:
        JOBS_ENDED.labels(submitted.ended_graph, "cancelled").inc()
    # As it was accepted, also to who asks again later.
    return accepted(submitted.id, "queued")
