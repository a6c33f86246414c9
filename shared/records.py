"""A job's record: from the raw hash in Redis to the document that clients and webhook receivers read.

Fields of the hash: `v graph queue status priority rank created_at run_at started_at finished_at attempt tries
max_attempts lost round worker cancel thread_id thread metadata error interrupts usage webhook_url webhook_events
webhook_secret traceparent saved`. Times are milliseconds; `metadata error interrupts usage` are JSON, passed on as they
are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from shared.jobs import rfc3339

RawRecord = Mapping[bytes, bytes]
API = "/api/v1"
WEBHOOK_VERSION = 1
MAX_WEBHOOK_BYTES = 262_144
SHORT_TEXT = 1024
SUMMARY_FIELDS = (b"graph", b"status", b"created_at", b"error")
_NEXT_STEPS = {
    "queued": ("cancel",),
    "running": ("cancel",),
    "interrupted": ("resume", "cancel"),
    "failed": ("retry",),
    "cancelled": ("retry",),
}


def job_document(
    job_id: str, raw: RawRecord, output: bytes | None = None, *, with_output: bool = True
) -> dict[str, Any]:
    """A job record (see `shared.jobs.JobRecord`), ready for orjson. JSON parts stay the bytes they are."""
    url = raw.get(b"webhook_url")
    events = raw.get(b"webhook_events")
    document: dict[str, Any] = {
        "id": job_id,
        "graph": _text(raw, b"graph"),
        "status": _text(raw, b"status"),
        "queue": _text(raw, b"queue"),
        "priority": _integer(raw, b"priority"),
        "thread_id": _text(raw, b"thread_id"),
        "created_at": _time(raw, b"created_at"),
        "started_at": _time(raw, b"started_at"),
        "finished_at": _time(raw, b"finished_at"),
        "attempt": _integer(raw, b"attempt"),
        "tries": _integer(raw, b"tries"),
        "max_attempts": _integer(raw, b"max_attempts"),
        "round": _integer(raw, b"round"),
        "metadata": _json(raw, b"metadata"),
    }
    if b"run_at" in raw:
        document["run_at"] = _time(raw, b"run_at")
    if with_output:
        document["output"] = orjson.Fragment(output) if output else None
    document |= {
        "error": _json(raw, b"error"),
        "interrupts": _json(raw, b"interrupts"),
        "usage": _json(raw, b"usage"),
        "webhook": url and {"url": url.decode(), "events": events.decode().split(",") if events else None},
        "links": job_links(job_id, _text(raw, b"status")),
    }
    return document


def job_links(job_id: str, status: str | None) -> dict[str, str]:
    """Where a job and its deliveries are found, and what can be asked of a job of this status."""
    here = f"{API}/jobs/{job_id}"
    next_steps = {name: f"{here}/{name}" for name in _NEXT_STEPS.get(status or "", ())}
    return {"self": here, **next_steps, "deliveries": f"{here}/deliveries"}


def job_summary(job_id: str, raw: RawRecord) -> dict[str, Any]:
    """What tells a job from others, of a record that may have only `SUMMARY_FIELDS`."""
    return {
        "id": job_id,
        "graph": _text(raw, b"graph"),
        "status": _text(raw, b"status"),
        "created_at": _time(raw, b"created_at"),
        "error_code": error_code(raw),
    }


def error_code(raw: RawRecord) -> str | None:
    """The stable code of the error that a job's record has, if it has one."""
    try:
        code = orjson.loads(raw.get(b"error") or b"null")["code"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None
    return code if isinstance(code, str) else None


def render_webhook_body(
    type_: str, created_at_ms: int, record: RawRecord, job_id: str, output: bytes | None, *, output_too_large: bool
) -> bytes:
    """A job's message, `{type, timestamp, version, sequence, data}`, in at most `MAX_WEBHOOK_BYTES`. Never fails.

    What makes it too large, or cannot be read, is left out or cut, the output before all else. Each such part has a
    link of its name, to the job.
    """
    try:
        data, sequence = job_document(job_id, record, output), _integer(record, b"round")
        if output_too_large:
            _leave_out(data, "output")
        for name, shorten in _THINNER:
            body = _render(type_, created_at_ms, sequence, data)
            if _can_be_sent(body):
                return body
            if data[name] is not None:
                _leave_out(data, name, shorten(record[name.encode()]) if shorten else None)
        body = _render(type_, created_at_ms, sequence, data)
        if _can_be_sent(body):
            return body
    except (ValueError, TypeError, OverflowError, OSError):  # a record with what was never written by us
        pass
    digits = record.get(b"round", b"")
    data = {"id": job_id, "status": type_.removeprefix("job."), "links": job_links(job_id, None)}
    return _render(type_, created_at_ms, int(digits) if re.fullmatch(rb"[0-9]{1,9}", digits) else 0, data)


def render_ping(endpoint_id: str, created_at_ms: int) -> bytes:
    """The message that tries an endpoint."""
    return _render("webhook.ping", created_at_ms, 0, {"endpoint": endpoint_id})


def _render(type_: str, created_at_ms: int, sequence: int, data: Mapping[str, Any]) -> bytes:
    head = {"type": type_, "timestamp": rfc3339(created_at_ms), "version": WEBHOOK_VERSION, "sequence": sequence}
    return orjson.dumps({**head, "data": data})


def _can_be_sent(body: bytes) -> bool:
    """Whether it is small enough, and JSON: the parts of a record are put together unread."""
    return len(body) <= MAX_WEBHOOK_BYTES and _parsed(body) is not None


def _leave_out(data: dict[str, Any], name: str, rest: object = None) -> None:
    data[name] = rest
    data["links"][name] = data["links"]["self"]


def _only_ids(interrupts: bytes) -> object:
    questions = _parsed(interrupts)
    if not isinstance(questions, list):
        return None
    return [{"id": question["id"]} for question in questions if isinstance(question, dict) and "id" in question]


def _with_short_texts(error: bytes) -> object:
    parts = _parsed(error)
    if not isinstance(parts, dict):
        return None
    return {name: _cut(part) if isinstance(part, str) else part for name, part in parts.items()}


def _cut(text: str) -> str:
    return text if len(text) <= SHORT_TEXT else text[: SHORT_TEXT - 1] + "…"


# In this order until the message is small enough. Without a function nothing is left of the part.
_THINNER: tuple[tuple[str, Callable[[bytes], object] | None], ...] = (
    ("output", None),
    ("interrupts", _only_ids),
    ("error", _with_short_texts),
    ("usage", None),
    ("interrupts", None),
    ("error", None),
    ("metadata", None),
)


def _parsed(text: bytes) -> Any:
    """None where it is not JSON."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None


def _text(raw: RawRecord, name: bytes) -> str | None:
    value = raw.get(name)
    return None if value is None else value.decode()


def _integer(raw: RawRecord, name: bytes) -> int:
    return int(raw.get(name, b"0"))


def _time(raw: RawRecord, name: bytes) -> str | None:
    value = raw.get(name)
    return None if value is None else rfc3339(int(value))


def _json(raw: RawRecord, name: bytes) -> orjson.Fragment | None:
    value = raw.get(name)
    return orjson.Fragment(value) if value else None
