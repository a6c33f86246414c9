"""What the routes answer and refuse, as the OpenAPI page shows it. The answers are made straight from the store's."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field, SkipValidation

from gateway.auth import scope_of
from gateway.errors import CODES, PROBLEM_JSON, ProblemDocument
from shared.jobs import JobRecord, JobRequest, JobStatus, StrictRequest
from shared.records import API

JOB_ID = "019bfd3c6c9e7a42b5d0c4a1f2e38b67"
MAX_BATCH = 1000
_LINKS: dict[str, Any] = {
    "self": f"{API}/jobs/{JOB_ID}",
    "cancel": f"{API}/jobs/{JOB_ID}/cancel",
    "deliveries": f"{API}/jobs/{JOB_ID}/deliveries",
}
# What any route may answer, whatever it does.
_ANYWHERE = (
    "host_not_allowed", "bad_request", "unauthorized", "insufficient_scope", "too_many_failures", "rate_limited",
    "request_timeout", "body_too_large", "url_too_long", "headers_too_large", "internal_error", "overloaded",
)  # fmt: skip
_STORE = ("store_unavailable", "store_full", "not_replicated")
_BODY = (
    "invalid_json", "unsupported_media_type", "validation_error", "integer_too_large", "too_deeply_nested",
    "too_many_keys",
)  # fmt: skip


class Accepted(BaseModel):
    """A job that will run. Its record is at `links.self`, and at the Location header of a submit."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"id": JOB_ID, "status": "queued", "links": _LINKS}]})

    id: str
    status: JobStatus
    links: dict[str, str]


class Refused(BaseModel):
    """One job of a batch that was not accepted."""

    error: ProblemDocument


class BatchRequest(StrictRequest):
    """Jobs to submit together. Each is checked for itself: a bad one does not refuse the rest."""

    jobs: Annotated[list[SkipValidation[JobRequest]], Field(min_length=1, max_length=MAX_BATCH)]


class BatchAnswer(BaseModel):
    """What became of each job of a batch, in its order."""

    items: list[Accepted | Refused]


class JobList(BaseModel):
    """One page of jobs, newest first. `next_cursor` is the next page's `cursor`, null on the last."""

    items: list[JobRecord]
    next_cursor: str | None


class RetryItem(BaseModel):
    """A job that matched. `error_code` is why it had failed; `error`, where there is one, why it was not retried."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": JOB_ID,
                    "graph": "customer_service",
                    "status": "queued",
                    "created_at": "2026-01-31T12:00:00.000Z",
                    "error_code": "provider_error",
                }
            ]
        }
    )

    id: str
    graph: str
    status: JobStatus | None = Field(description="As it stands now; null where the job is gone.")
    created_at: datetime
    error_code: str | None
    error: ProblemDocument | None = None


class RetryAnswer(BaseModel):
    """The jobs that matched, oldest first. `next_cursor` is the next call's `cursor`, null on the last."""

    matched: int = Field(description="How many jobs of this call matched.")
    retried: int = Field(description="How many of them are queued again.")
    items: list[RetryItem]
    next_cursor: str | None


class LoadError(BaseModel):
    """Why a graph did not load when a worker last tried."""

    type: str
    message: str


class GraphDocument(BaseModel):
    """A graph of the catalogue. One that has never loaded has only `id`, `error` and `workers`."""

    model_config = ConfigDict(extra="allow")

    id: str = Field(examples=["customer_service"])
    description: str | None = None
    input_schema: dict[str, Any] | None = Field(None, description="JSON schema of a job's `input`.")
    output_schema: dict[str, Any] | None = None
    context_schema: dict[str, Any] | None = Field(None, description="JSON schema of a job's `context`.")
    drawing: str | None = Field(None, description="The graph as a Mermaid diagram.")
    error: LoadError | None
    workers: list[str] = Field(description="Ids of the live workers that serve it now.")


class GraphList(BaseModel):
    """All graphs, by id."""

    items: list[GraphDocument]
    next_cursor: None = None


class WorkerDocument(BaseModel):
    """A live worker, as its last heartbeat (at most five seconds ago) describes it."""

    model_config = ConfigDict(extra="allow")

    id: str
    host: str
    pid: int
    started: Any = None
    graphs: list[str]


class WorkerList(BaseModel):
    """The workers that live now."""

    items: list[WorkerDocument]
    next_cursor: None = None


class Part(BaseModel):
    """One part of the service. `detail` says what is wrong with it, `count` how many workers there are."""

    status: Literal["ok", "degraded", "down"]
    detail: str | None = None
    count: int | None = None


class HealthDocument(BaseModel):
    """How the service is: `down` (503) where Redis is, `degraded` (200) where another part is not `ok`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"status": "ok", "parts": {"redis": {"status": "ok"}, "workers": {"status": "ok"}}}]
        },
    )

    status: Literal["ok", "degraded", "down"]
    parts: dict[str, Part]


class Alive(BaseModel):
    """This process answers."""

    status: Literal["ok"]


def answers(
    status: int, model: type[BaseModel] | None, description: str, *codes: str,
    reads_body: bool = False, uses_store: bool = True, headers: dict[str, str] | None = None,
) -> dict[int | str, dict[str, Any]]:  # fmt: skip
    """A route's `responses`: what it answers when all is well, and the problems by status, each with its codes."""
    good: dict[str, Any] = {"description": description}
    if model is not None:
        good["model"] = model
    if headers:
        good["headers"] = {name: {"description": text, "schema": {"type": "string"}} for name, text in headers.items()}
    documented: dict[int | str, dict[str, Any]] = {status: good}
    everything = [*codes, *_ANYWHERE, *(_STORE if uses_store else ()), *(_BODY if reads_body else ())]
    for number in sorted({CODES[code] for code in everything}):
        here = [code for code in CODES if code in everything and CODES[code] == number]
        documented[number] = {
            "description": " or ".join(f"`{code}`" for code in here),
            "content": {PROBLEM_JSON: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
    return documented


def openapi_page(app: FastAPI) -> dict[str, Any]:
    """The application's OpenAPI document, made when it is first asked for."""
    if app.openapi_schema is None:
        page = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        schemas = page["components"]["schemas"]
        # The framework says of each route with a parameter that it may answer a 422 of its own.
        for operation in (operation for methods in page["paths"].values() for operation in methods.values()):
            if "HTTPValidationError" in str(operation["responses"].get("422")):
                del operation["responses"]["422"]
        del schemas["HTTPValidationError"], schemas["ValidationError"]
        page["components"]["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer", "description": "An API key, as `Authorization: Bearer …`."},
            "api_key": {"type": "apiKey", "in": "header", "name": "X-Api-Key", "description": "An API key."},
        }
        for route in app.routes:
            scope = scope_of(route)
            if scope is not None and isinstance(route, APIRoute) and route.include_in_schema:
                for method in route.methods or ():
                    page["paths"][route.path][method.lower()]["security"] = [{"bearer": [scope]}, {"api_key": [scope]}]
        problem = ProblemDocument.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= {**problem.pop("$defs"), "Problem": problem}
        app.openapi_schema = page
    return app.openapi_schema
