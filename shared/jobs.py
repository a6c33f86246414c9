"""The models both sides speak: what a client asks for, what a job is, what it says about itself."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

import orjson
from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

YEAR_SECONDS = 366 * 24 * 3600
MAX_METADATA_BYTES = 16_384
MAX_FIELDS = 1000
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$"
_DIGIT = "[A-Za-z0-9+/]"
# What `shared.signing.check_secret` takes, for the OpenAPI page: base64 of 24 to 64 bytes.
SECRET_PATTERN = f"^whsec_(({_DIGIT}{{4}}){{8,21}}({_DIGIT}{{2}}==)?|({_DIGIT}{{4}}){{8,20}}{_DIGIT}{{3}}=)$"
WebhookEvent = Literal["job.succeeded", "job.failed", "job.cancelled", "job.interrupted"]
StreamMode = Literal["updates", "values", "messages", "custom"]
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ]")
_CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f]")


class JobStatus(StrEnum):
    """Where a job stands. Delayed jobs and those parked behind their thread are `queued` too."""

    QUEUED = "queued"
    RUNNING = "running"
    INTERRUPTED = "interrupted"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether this is final: the round is over and nothing but `retry` starts another."""
        return self in (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED)


def _printable(value: str) -> str:
    if _CONTROL_CHARACTERS.search(value):
        raise ValueError("must not contain control characters")
    return value


def _written_out(value: Any) -> Any:
    # A number would be taken for the seconds since 1970, in a text too.
    if isinstance(value, datetime) or (isinstance(value, str) and _DATE.match(value)):
        return value
    raise ValueError("must be a time as RFC 3339 has them, such as 2026-01-31T12:00:00Z")


def _metadata_fits(value: dict[str, Any] | None) -> dict[str, Any] | None:
    if value is not None and len(orjson.dumps(value)) > MAX_METADATA_BYTES:
        raise ValueError(f"must be at most {MAX_METADATA_BYTES} bytes of JSON")
    return value


Name = Annotated[str, Field(pattern=NAME_PATTERN)]
Time = Annotated[AwareDatetime, BeforeValidator(_written_out)]
Flag = Annotated[bool, Field(strict=True)]  # else "no" and 0 were false
ErrorCode = Annotated[str, Field(min_length=1, max_length=64)]
ThreadId = Annotated[str, Field(min_length=1, max_length=512), AfterValidator(_printable)]


class StrictRequest(BaseModel):
    """An object that clients send: a field that is not known is refused, and a thousand of them are not listed."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _few_fields(cls, value: Any) -> Any:
        if isinstance(value, dict) and len(value) > MAX_FIELDS:
            raise ValueError(f"has more than {MAX_FIELDS} fields")
        return value


class WebhookRequest(StrictRequest):
    """Where to send signed word of the job's end. `secret` (`whsec_…`) replaces the tenant's default secret."""

    url: Annotated[str, Field(max_length=2048, examples=["https://example.com/hooks/jobs"])]
    events: Annotated[list[WebhookEvent], Field(min_length=1)] | None = None
    secret: Annotated[str, Field(max_length=128, json_schema_extra={"pattern": SECRET_PATTERN})] | None = None


class Limits(StrictRequest):
    """What stops a runaway job: wall time of one attempt in seconds, and LangGraph steps (its recursion limit)."""

    seconds: Annotated[float, Field(gt=0, le=7 * 24 * 3600)] | None = None
    steps: Annotated[int, Field(ge=1, le=100_000)] | None = None


class RunConfig(StrictRequest):
    """The part of LangGraph's `RunnableConfig` that a client may set."""

    configurable: dict[str, Any] | None = None
    tags: Annotated[list[str], Field(max_length=64)] | None = None
    recursion_limit: Annotated[int, Field(ge=1, le=100_000)] | None = None


_TWO_TIMES: dict[str, Any] = {
    "required": ["delay_seconds", "run_at"],
    "properties": {"delay_seconds": {"type": "number"}, "run_at": {"type": "string"}},
}


class JobRequest(StrictRequest):
    """One job as a client asks for it. Unknown fields are refused."""

    model_config = ConfigDict(json_schema_extra={"not": _TWO_TIMES})

    graph: Annotated[Name, Field(description="Id of a graph from `GET /graphs`.", examples=["customer_service"])]
    input: Annotated[Any, Field(description="The graph's input; checked against the schema in `GET /graphs/{id}`.")]
    thread_id: Annotated[
        ThreadId | None, Field(description="Jobs of one thread share memory and run one at a time.")
    ] = None
    on_busy: Annotated[
        Literal["queue", "reject", "cancel"],
        Field(description="What to do while another job of the thread is running or waiting."),
    ] = "queue"
    config: RunConfig | None = None
    context: Annotated[dict[str, Any] | None, Field(description="LangGraph's runtime context.")] = None
    metadata: Annotated[dict[str, Any] | None, AfterValidator(_metadata_fits)] = None
    webhook: WebhookRequest | None = None
    queue: Name = "default"
    priority: Annotated[int, Field(ge=0, le=9, description="A head start of a minute a step.")] = 0
    delay_seconds: Annotated[float, Field(ge=0, le=YEAR_SECONDS)] | None = None
    run_at: Time | None = None
    max_attempts: Annotated[int, Field(ge=1, le=20)] | None = None
    limits: Limits | None = None
    stream: Annotated[list[StreamMode] | None, Field(description="Which events to keep; `updates` by default.")] = None

    @model_validator(mode="after")
    def _one_time(self) -> Self:
        if self.delay_seconds is not None and self.run_at is not None:
            raise ValueError("give delay_seconds or run_at, not both")
        return self


class RetryRequest(StrictRequest):
    """Where a job's next round starts: at its last checkpoint, or with its input as if it had never run."""

    start: Annotated[Literal["checkpoint", "start"], Field(alias="from")] = "checkpoint"


class RetryManyRequest(RetryRequest):
    """Which of the caller's jobs to run again. All that is given has to match; `{}` is every failed job."""

    status: Annotated[list[Literal["failed", "cancelled"]], Field(min_length=1, max_length=2)] = ["failed"]
    graph: Annotated[list[Name] | None, Field(min_length=1, max_length=50)] = None
    error_code: Annotated[
        list[ErrorCode] | None,
        Field(min_length=1, max_length=50, description="`error.code` of the records.", examples=[["provider_error"]]),
    ] = None
    created_after: Annotated[Time | None, Field(description="RFC 3339; exclusive.")] = None
    created_before: Annotated[Time | None, Field(description="RFC 3339; exclusive.")] = None
    limit: Annotated[int, Field(ge=1, le=1000, description="How many jobs this call takes at most.")] = 100
    cursor: Annotated[
        str | None, Field(max_length=200, description="The `next_cursor` of the call before, with the same filter.")
    ] = None
    dry_run: Annotated[Flag, Field(description="Only say which jobs match.")] = False


class ResumeRequest(StrictRequest):
    """What an interrupted job waits for: `interrupt()` in its graph gives this value. Null is one too."""

    value: Annotated[Any, Field(description="Any JSON.")]
    round: Annotated[
        int | None,
        Field(ge=1, description="The round that asked, from the job's record: refuses an answer that comes twice."),
    ] = None


class JobError(BaseModel):
    """Why a job failed. `code` is stable; `retryable` says whether another try could have helped."""

    type: str
    code: str
    message: str
    node: str | None = None
    retryable: bool = False


class WebhookTarget(BaseModel):
    """A job's webhook as its record shows it: never with the secret."""

    url: str
    events: list[WebhookEvent] | None = None


class JobRecord(BaseModel):
    """A job as `GET /jobs/{id}` answers it. Times are RFC 3339 in UTC."""

    id: str
    graph: str
    status: JobStatus
    queue: str
    priority: int
    thread_id: str | None
    created_at: datetime
    run_at: datetime | None = None
    started_at: datetime | None
    finished_at: datetime | None
    attempt: int
    tries: int
    max_attempts: int
    round: int
    metadata: dict[str, Any] | None
    output: Any = None
    error: JobError | None
    interrupts: list[Any] | None
    usage: dict[str, Any] | None
    webhook: WebhookTarget | None
    links: dict[str, str]


def rfc3339(milliseconds: int) -> str:
    """Milliseconds since the epoch as RFC 3339 in UTC, to the millisecond: `2026-01-31T12:00:00.000Z`."""
    moment = datetime.fromtimestamp(milliseconds // 1000, UTC)
    return f"{moment.isoformat()[:19]}.{milliseconds % 1000:03d}Z"
