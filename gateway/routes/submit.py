"""`POST /jobs` and `POST /jobs/batch`: one round trip to Redis, whatever the number of jobs."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import structlog
from fastapi import APIRouter, Body, Header, Request, Response
from pydantic import ValidationError

from gateway.auth import Caller, Writer
from gateway.documents import JOB_ID, Accepted, BatchAnswer, BatchRequest, answers
from gateway.errors import Problem, problem_of, validation_problem
from gateway.idempotency import IdempotencyKey, KeyedRequest, keyed
from gateway.limits import JSONRoute
from gateway.routes.answer import accepted, json_answer
from gateway.services import CurrentServices, Services
from gateway.submission import Submission
from shared.jobs import JobRequest
from shared.metrics import JOBS_ENDED, JOBS_REFUSED, JOBS_SUBMITTED
from shared.records import API
from shared.store import NewJob, Submitted

logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)
router = APIRouter(prefix=f"{API}/jobs", tags=["jobs"], route_class=JSONRoute)
_REFUSALS = ("unknown_graph", "graph_failed_to_load", "invalid_input", "webhook_refused", "idempotency_key_reused")
_FULL = ("queue_full", "tenant_full")

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
        202, Accepted, "The job is accepted.", *_REFUSALS, *_FULL, "thread_busy",
        reads_body=True,
        headers={
            "Location": f"The job's address, for example `{API}/jobs/{JOB_ID}`.",
            "Idempotent-Replayed": "`true` where the Idempotency-Key was known, and this is the answer of then.",
        },
    ),
)  # fmt: skip
async def submit(
    request: Request,
    body: Annotated[JobRequest, Body(openapi_examples=_EXAMPLES)],
    caller: Writer,
    services: CurrentServices,
    idempotency_key: IdempotencyKey = None,
    traceparent: Traceparent = None,
) -> Response:
    submission = Submission(services.settings, services.catalogue, caller.tenant, traceparent)
    sent = keyed(idempotency_key, await request.json() if idempotency_key else None)
    try:
        job = await submission.job(body, sent)
    except Problem:
        # It may have been accepted while its graph was there: that is still so.
        known = await _known(services, caller, sent)
        if 0 not in known:
            raise
        return _accepted(known[0], replayed=True)
    submitted = await services.jobs.submit(job)
    job_id, replayed = _job_id(job, submitted), submitted.outcome == "duplicate"
    if not replayed:
        logger.info("job accepted", job=job_id, graph=job.graph)
    return _accepted(job_id, replayed=replayed)


@router.post(
    "/batch",
    status_code=202,
    summary="Submit up to 1,000 jobs",
    description=(
        "Accepts the jobs that are right, each for itself, and says for the others what is wrong with them: `items` "
        "has an answer for each job, in order. The pointers in an item's errors are into that job. With an "
        "`Idempotency-Key` the whole batch can be sent again: jobs that were accepted are answered as they were, and "
        "the others are tried again."
    ),
    responses=answers(
        202, BatchAnswer, "The batch is taken; each item says for itself.", "idempotency_key_reused", reads_body=True
    ),
)
async def submit_batch(
    request: Request,
    body: Annotated[BatchRequest, Body(openapi_examples=_BATCH_EXAMPLES)],
    caller: Writer,
    services: CurrentServices,
    idempotency_key: IdempotencyKey = None,
    traceparent: Traceparent = None,
) -> Response:
    submission = Submission(services.settings, services.catalogue, caller.tenant, traceparent)
    sent = keyed(idempotency_key, await request.json() if idempotency_key else None)
    jobs: list[NewJob] = []
    items: list[dict[str, Any] | None] = []
    for place, one in enumerate(body.jobs):
        try:
            jobs.append(await submission.job(_validated(one), sent, place))
            items.append(None)
        except Problem as problem:
            items.append({"error": problem.document()})
    outcomes = iter(zip(jobs, await services.jobs.submit_many(jobs) if jobs else [], strict=True))
    answered = [item or _item(*next(outcomes)) for item in items]
    accepted_ids = [item["id"] for item in answered if "id" in item]
    logger.info("jobs accepted", jobs=accepted_ids, refused=len(answered) - len(accepted_ids))  # one line for them all
    if any(items):
        for place, job_id in (await _known(services, caller, sent)).items():
            answered[place] = accepted(job_id, "queued")
    return json_answer({"items": answered}, 202)


def _validated(sent: Any) -> JobRequest:
    try:
        return JobRequest.model_validate(sent)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_input=False)
        raise validation_problem([{**each, "loc": ("body", *each["loc"])} for each in errors]) from None


async def _known(services: Services, caller: Caller, sent: KeyedRequest) -> dict[int, str]:
    """The jobs that this very request was answered with before, by their places in it."""
    return await services.jobs.known(caller.tenant, sent.key, sent.fingerprint) if sent.key else {}


def _item(job: NewJob, outcome: Submitted | Exception) -> dict[str, Any]:
    try:
        if isinstance(outcome, Exception):
            raise outcome
        return accepted(_job_id(job, outcome), "queued")
    except Exception as error:
        problem = problem_of(error)
        if problem.code == "idempotency_key_reused":  # the whole batch is another one
            raise problem from None
        return {"error": problem.document()}


def _accepted(job_id: str, *, replayed: bool) -> Response:
    """The answer as it is given first, and to who asks again later."""
    document = accepted(job_id, "queued")
    headers = {"Location": document["links"]["self"]}
    if replayed:
        headers["Idempotent-Replayed"] = "true"
    return json_answer(document, 202, headers)


def _job_id(job: NewJob, submitted: Submitted) -> str:
    """The id of an accepted job. Raises `Problem` where the store did not accept it."""
    if submitted.outcome == "conflict":
        detail = "This Idempotency-Key was used with another request in the last 24 hours. Use a new key for a new job."
        raise Problem("idempotency_key_reused", detail)
    if submitted.outcome == "busy":
        detail = "The thread has a job that has not ended, and on_busy is reject. Wait, cancel it, or let it queue."
        raise Problem("thread_busy", detail, job_id=submitted.id)
    if submitted.outcome == "queue_full" or submitted.outcome == "tenant_full":
        raise _full(submitted.outcome, submitted.retry_seconds)
    if submitted.outcome == "created":
        JOBS_SUBMITTED.labels(job.graph).inc()
    if submitted.ended_graph:
        JOBS_ENDED.labels(submitted.ended_graph, "cancelled").inc()
    return submitted.id


def _full(code: Literal["queue_full", "tenant_full"], seconds: int) -> Problem:
    JOBS_REFUSED.labels(code).inc()
    where, setting = {
        "queue_full": ("this queue has", "MAX_QUEUE_DEPTH"),
        "tenant_full": ("your queues have together", "MAX_TENANT_DEPTH, or a limit of your own"),
    }[code]
    detail = f"As many of your jobs wait as {where} room for ({setting}); nothing was stored. Try again in {seconds} s."
    return Problem(code, detail, headers={"Retry-After": str(seconds)}, retry_after=seconds)
