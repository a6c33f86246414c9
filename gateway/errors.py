"""Every error that the gateway answers: a problem document (RFC 9457) with a stable `code`. docs/api.md lists them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import orjson
import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.routing import Match

from shared.store import NotReplicated, StoreError, StoreFull

logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)
PROBLEM_JSON = "application/problem+json"
MAX_ERRORS = 20
MAX_TEXT = 300
RETRY_AFTER_SECONDS = 1

# The codes and their HTTP statuses. Clients branch on the code: none of these is ever renamed.
CODES = {
    "invalid_json": 400,
    "host_not_allowed": 400,
    "bad_request": 400,
    "unauthorized": 401,
    "insufficient_scope": 403,
    "not_found": 404,
    "job_not_found": 404,
    "graph_not_found": 404,
    "delivery_not_found": 404,
    "endpoint_not_found": 404,
    "address_not_found": 404,
    "method_not_allowed": 405,
    "request_timeout": 408,
    "job_ended": 409,
    "job_not_ended": 409,
    "job_not_retryable": 409,
    "job_not_interrupted": 409,
    "thread_moved_on": 409,
    "thread_busy": 409,
    "delivery_in_progress": 409,
    "webhook_disabled": 409,
    "too_many_endpoints": 409,
    "body_too_large": 413,
    "url_too_long": 414,
    "unsupported_media_type": 415,
    "validation_error": 422,
    "invalid_input": 422,
    "integer_too_large": 422,
    "too_deeply_nested": 422,
    "too_many_keys": 422,
    "unknown_graph": 422,
    "graph_failed_to_load": 422,
    "webhook_refused": 422,
    "idempotency_key_reused": 422,
    "invalid_cursor": 422,
    "too_many_failures": 429,
    "rate_limited": 429,
    "queue_full": 429,
    "tenant_full": 429,
    "headers_too_large": 431,
    "internal_error": 500,
    "overloaded": 503,
    "store_unavailable": 503,
    "store_full": 503,
    "not_replicated": 503,
}
# What pydantic says in words of its own.
_IN_OUR_WORDS = {
    "missing": "this field is required",
    "extra_forbidden": "there is no such field",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
}
# The framework's own errors, by status.
_FRAMEWORK = {
    404: ("not_found", "There is nothing at this address. GET /docs shows what there is."),
    405: ("method_not_allowed", "This address does not take this method; the Allow header names those it takes."),
}


class FieldError(BaseModel):
    """What is wrong with one part of a request: a place in the body, a query parameter or a header."""

    pointer: str | None = Field(
        None, description="JSON pointer (RFC 6901) into the body.", examples=["/input/messages"]
    )
    parameter: str | None = None
    header: str | None = None
    detail: str


class ProblemDocument(BaseModel):
    """An error (RFC 9457). `code` is stable, `detail` says what to do."""

    model_config = ConfigDict(extra="allow", title="Problem")

    type: str = "about:blank"
    title: str = Field(examples=["Not Found"])
    status: int = Field(examples=[404])
    code: str = Field(examples=["job_not_found"], json_schema_extra={"enum": list(CODES)})
    detail: str
    errors: list[FieldError] | None = None


class Problem(HTTPException):
    """Raise it anywhere in a request to answer this error. `members` are added to the document."""

    def __init__(
        self, code: str, detail: str, *, headers: Mapping[str, str] | None = None,
        errors: Sequence[Mapping[str, str]] = (), **members: Any,
    ) -> None:  # fmt: skip
        super().__init__(CODES[code], detail, headers)
        self.code = code
        self.errors = errors
        self.members = members

    def document(self) -> dict[str, Any]:
        """The problem as JSON types (see `ProblemDocument`)."""
        document = {
            "type": "about:blank",
            "title": HTTPStatus(self.status_code).phrase,
            "status": self.status_code,
            "code": self.code,
            "detail": self.detail,
            **self.members,
        }
        if self.errors:
            document["errors"] = list(self.errors)
        return document

    def response(self) -> Response:
        """The problem as an answer."""
        return Response(orjson.dumps(self.document()), self.status_code, self.headers, PROBLEM_JSON)


def install_error_handlers(app: FastAPI) -> None:
    """Make this application answer problems only."""

    @app.exception_handler(Problem)
    async def answer_problem(_: Request, problem: Problem) -> Response:
        return problem.response()

    @app.exception_handler(HTTPException)
    async def answer_framework_error(request: Request, error: HTTPException) -> Response:
        code, detail = _FRAMEWORK.get(error.status_code, ("bad_request", "The request could not be understood."))
        headers = {"Allow": _allowed_methods(request)} if error.status_code == 405 else None
        return Problem(code, detail, headers=headers).response()

    @app.exception_handler(RequestValidationError)
    async def answer_validation_error(_: Request, error: RequestValidationError) -> Response:
        return validation_problem(error.errors()).response()

    @app.exception_handler(StoreError)
    async def answer_store_error(_: Request, error: StoreError) -> Response:
        return store_failure(error)


def job_not_found() -> Problem:
    """404 for a job that is not there, or not this tenant's, or forgotten after its retention."""
    return Problem("job_not_found", "There is no such job; ended jobs are forgotten after RESULT_TTL_SECONDS.")


def delivery_not_found() -> Problem:
    """404 for a delivery that is not there, or not this tenant's, or forgotten after its retention."""
    return Problem("delivery_not_found", "There is no such delivery; GET /api/v1/deliveries lists those that are kept.")


def endpoint_not_found() -> Problem:
    """404 for an endpoint that is not there, or not this tenant's."""
    return Problem("endpoint_not_found", "There is no such endpoint; GET /api/v1/webhooks lists those there are.")


def store_problem(error: StoreError) -> Problem:
    """503 for what Redis could not do."""
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS)}
    if isinstance(error, StoreFull):
        detail = "The queue takes no more just now: its memory or disk is full. Try again later."
        return Problem("store_full", detail, headers=headers)
    if isinstance(error, NotReplicated):
        detail = (
            "It is done, but too few replicas have it: a fail-over could still undo it. Send the request again; "
            "a submit, with the same Idempotency-Key: it gives the same job, once the replicas have it."
        )
        return Problem("not_replicated", detail, headers=headers)
    detail = "The queue cannot be reached just now. Try again soon; a submit, with the same Idempotency-Key."
    return Problem("store_unavailable", detail, headers=headers)


def store_failure(error: StoreError) -> Response:
    """The answer to a request that Redis failed, which is logged."""
    logger.warning("Redis failed a request", error=str(error))
    return store_problem(error).response()


def internal_problem() -> Problem:
    """500 for a bug: the log has the rest, under the request's id."""
    return Problem("internal_error", "Something went wrong in the service; its log has more under this X-Request-Id.")


def problem_of(error: Exception) -> Problem:
    """The problem to tell of one item of a request that failed; what is a bug is logged."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, StoreError):
        return store_problem(error)
    logger.error("an item of a request failed", exc_info=error)
    return internal_problem()


def validation_problem(errors: Sequence[Mapping[str, Any]]) -> Problem:
    """422 for pydantic's errors about a request: `{type, loc, msg}`, where `loc` begins with body, query or header."""
    found = [_field_error(error) for error in errors[:MAX_ERRORS]]
    first = found[0]
    place = first.get("pointer") or first.get("parameter") or first.get("header") or "the body"
    return Problem("validation_error", f"The request is not valid: {place}: {first['detail']}", errors=found)


def invalid_field(*path: str, says: str) -> Problem:
    """422 for a field of the body that only the rest of the service could judge."""
    return validation_problem([{"type": "value_error", "loc": ("body", *path), "msg": says}])


def json_pointer(parts: Sequence[str | int]) -> str:
    """A JSON pointer (RFC 6901), cut where a client's own names make it long."""
    return shorten("".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in parts))


def shorten(text: str) -> str:
    """`text`, of which clients choose a part, at a length that fits an error."""
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"


def _field_error(error: Mapping[str, Any]) -> dict[str, str]:
    where, *path = error["loc"]
    message = _IN_OUR_WORDS.get(error["type"], str(error["msg"]).removeprefix("Value error, "))
    detail = shorten(message[:1].lower() + message[1:])
    if where == "body":
        return {"pointer": json_pointer(path), "detail": detail}
    return {"header" if where == "header" else "parameter": shorten(str(path[0])) if path else "", "detail": detail}


def _allowed_methods(request: Request) -> str:
    """All methods that this path takes: the framework names those of the first route only."""
    matching = [route for route in request.app.routes if route.matches(request.scope)[0] is not Match.NONE]
    # What `/jobs/retry` takes is not what `/jobs/{job_id}` does.
    exact = [route for route in matching if route.path == request.scope["path"]]
    methods: set[str] = set().union(*(route.methods or () for route in exact or matching))
    if "GET" in methods:
        methods.add("HEAD")
    return ", ".join(sorted(methods))
