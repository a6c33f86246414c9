"""What goes into the job store and comes out of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job to be accepted. `payload` is what the worker needs to run it; `fields` go into its record as they are."""

    tenant: str
    id: str
    graph: str
    payload: bytes
    max_attempts: int
    queue: str = "default"
    priority: int = 0
    delay_ms: int | None = None
    run_at_ms: int | None = None
    thread_id: str | None = None
    on_busy: Literal["queue", "reject", "cancel"] = "queue"
    idempotency_key: str = ""
    place: int = 0  # in the request with this key
    fingerprint: str = "-"  # of that request
    fields: Mapping[str, str | bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DepthLimits:
    """How many jobs of one tenant may wait, for whatever: in one queue, and in all. 0 is any number."""

    of_queue: int = 0
    of_tenant: int = 0


@dataclass(frozen=True, slots=True)
class Submitted:
    """How a submit went.

    `duplicate`: the idempotency key is known, and `id` is its job; `conflict`: it is known with another request;
    `busy`: the thread has the job `id`, and `on_busy` was `reject`; `queue_full`, `tenant_full`: so many jobs wait
    already in this queue, or in all of the tenant's, and there may be room after `retry_seconds`.
    """

    outcome: Literal["created", "duplicate", "conflict", "busy", "queue_full", "tenant_full"]
    id: str
    status: str
    created_at_ms: int
    ended_graph: str = ""  # where `on_busy=cancel` ended a waiting job: its graph
    retry_seconds: int = 0


@dataclass(frozen=True, slots=True)
class StoredJob:
    """A job as it stands: the raw record (see shared/records.py) and the output's JSON, once there is one.

    Where that was too large to be read along, `output` is None and `left_out_bytes` its size.
    """

    id: str
    record: dict[bytes, bytes]
    output: bytes | None
    left_out_bytes: int = 0

    @property
    def status(self) -> str:
        return self.record[b"status"].decode()


@dataclass(frozen=True, slots=True)
class Claimed:
    """A job leased to a worker. (worker, `attempt`) is the fencing token of all that this attempt writes.

    `answer` is the JSON that a resume brought, and kept for its round and for retries of it; empty where there is none.
    """

    ref: str
    attempt: int
    alone: bool
    payload: bytes
    record: dict[bytes, bytes]
    answer: bytes = b""

    @property
    def tenant(self) -> str:
        return self.ref.partition(":")[0]

    @property
    def id(self) -> str:
        return self.ref.partition(":")[2]

    @property
    def graph(self) -> str:
        return self.record[b"graph"].decode()

    @property
    def round(self) -> int:
        return int(self.record[b"round"])


@dataclass(frozen=True, slots=True)
class Ended:
    """A job that a claim ended: its worker was lost for the last time, or it was to be cancelled."""

    ref: str
    graph: str
    status: str

    @property
    def id(self) -> str:
        return self.ref.partition(":")[2]


@dataclass(frozen=True, slots=True)
class Claim:
    """What a claim brought. `hold`: take no more until free, for a job that must run alone.

    `next_seconds`: until the next delayed job is due, or the next lease ends, if it is not renewed.
    """

    now_ms: int
    next_seconds: float | None
    hold: bool
    jobs: list[Claimed]
    ended: list[Ended]
