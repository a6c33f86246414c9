"""A job's record, from the raw hash to what clients and webhook receivers read."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.jobs import JobRecord, JobStatus, rfc3339
from shared.records import SUMMARY_FIELDS, error_code, job_document, job_summary, render_webhook_body

NEW = {
    b"v": b"1",
    b"graph": b"echo",
    b"status": b"queued",
    b"queue": b"default",
    b"priority": b"3",
    b"rank": b"1769860620000",
    b"created_at": b"1769860800123",
    b"attempt": b"0",
    b"tries": b"0",
    b"max_attempts": b"3",
    b"round": b"1",
}
ENDED = NEW | {
    b"status": b"failed",
    b"attempt": b"4",
    b"tries": b"2",
    b"round": b"2",
    b"lost": b"1",
    b"worker": b"w1",
    b"thread_id": "线 🧵".encode(),
    b"thread": b"0" * 40,
    b"traceparent": b"00-ab-cd-01",
    b"run_at": b"1769860860000",
    b"started_at": b"1769860860001",
    b"finished_at": b"1769860861999",
    b"metadata": b'{"big":18446744073709551615}',
    b"interrupts": b'[{"value":"ok?"}]',
    b"error": b'{"type":"E","code":"c","message":"m","node":"n","retryable":true}',
    b"usage": b'{"qwen":{"total_tokens":3}}',
    b"webhook_url": b"https://example.com/h",
    b"webhook_events": b"job.failed,job.succeeded",
    b"webhook_secret": b"whsec_hidden",
}
LINKS = {"self": "", "cancel": "/cancel", "deliveries": "/deliveries"}
JSON = st.recursive(
    st.none() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text('aé\n"\\ 🧵'),
    lambda inner: st.lists(inner) | st.dictionaries(st.text("aé"), inner),
    max_leaves=10,
)


def document(raw: dict[bytes, bytes], output: bytes | None = None, **options: bool) -> dict[str, object]:
    answer: dict[str, object] = orjson.loads(orjson.dumps(job_document("j1", raw, output, **options)))
    return answer


def test_a_new_job_has_each_field_and_null_where_nothing_is_known_yet() -> None:
    assert document(NEW) == {
        "id": "j1", "graph": "echo", "status": "queued", "queue": "default", "priority": 3, "thread_id": None,
        "created_at": "2026-01-31T12:00:00.123Z", "started_at": None, "finished_at": None,
        "attempt": 0, "tries": 0, "max_attempts": 3, "round": 1,
        "metadata": None, "output": None, "error": None, "interrupts": None, "usage": None, "webhook": None,
        "links": {name: f"/api/v1/jobs/j1{path}" for name, path in LINKS.items()},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("status", "names"),
    [
        ("queued", ["self", "cancel", "deliveries"]),
        ("running", ["self", "cancel", "deliveries"]),
        ("interrupted", ["self", "resume", "cancel", "deliveries"]),
        ("succeeded", ["self", "deliveries"]),
        ("failed", ["self", "retry", "deliveries"]),
        ("cancelled", ["self", "retry", "deliveries"]),
        ("of a later version", ["self", "deliveries"]),
    ],
)
def test_the_links_are_what_can_be_asked_of_a_job_of_this_status(status: str, names: list[str]) -> None:
    links = document(NEW | {b"status": status.encode()})["links"]
    assert links == {name: "/api/v1/jobs/j1" + ("" if name == "self" else f"/{name}") for name in names}


def test_a_summary_needs_only_its_fields() -> None:
    raw = {name: value for name, value in ENDED.items() if name in SUMMARY_FIELDS}
    expected = {
        "id": "j1", "graph": "echo", "status": "failed", "created_at": "2026-01-31T12:00:00.123Z", "error_code": "c",
    }  # fmt: skip
    assert job_summary("j1", raw) == job_summary("j1", ENDED) == expected
    assert job_summary("j1", NEW)["error_code"] is None


@pytest.mark.parametrize("error", [b"", b"{", b"null", b"[]", b'"c"', b"7", b"{}", b'{"code":null}', b'{"code":["c"]}'])
def test_an_error_that_cannot_be_read_has_no_code(error: bytes) -> None:
    assert error_code(NEW | {b"error": error}) is None


def test_an_ended_job_says_what_came_of_it() -> None:
    answer = document(ENDED, b'{"n":1}')
    assert answer["thread_id"] == "线 🧵"
    assert answer["run_at"] == "2026-01-31T12:01:00.000Z"
    assert answer["started_at"] == "2026-01-31T12:01:00.001Z"
    assert answer["finished_at"] == "2026-01-31T12:01:01.999Z"
    assert answer["metadata"] == {"big": 18446744073709551615}
    assert answer["error"] == {"type": "E", "code": "c", "message": "m", "node": "n", "retryable": True}
    assert (answer["interrupts"], answer["usage"]) == ([{"value": "ok?"}], {"qwen": {"total_tokens": 3}})
    assert answer["output"] == {"n": 1}
    assert answer["webhook"] == {"url": "https://example.com/h", "events": ["job.failed", "job.succeeded"]}


@pytest.mark.parametrize("raw", [NEW, ENDED])
def test_a_document_is_a_job_record_of_the_api(raw: dict[bytes, bytes]) -> None:
    record = JobRecord.model_validate(document(raw, b"[]"))
    assert record.status == raw[b"status"].decode()
    assert document(raw).keys() <= JobRecord.model_fields.keys()


def test_the_secret_and_the_inner_fields_are_not_shown() -> None:
    body = render_webhook_body("job.failed", 1769860861999, ENDED, "j1", None, output_too_large=False)
    for text in (orjson.dumps(job_document("j1", ENDED)), body):
        for hidden in (b"whsec_hidden", b"rank", b"traceparent", b'"lost"', b'"thread"', b'"worker"'):
            assert hidden not in text


def test_a_list_shows_no_outputs() -> None:
    assert "output" not in document(ENDED, b"1", with_output=False)


@given(JSON)
def test_output_and_metadata_are_passed_on_byte_for_byte(value: object) -> None:
    text = json.dumps(value, ensure_ascii=False).encode()
    answer = orjson.dumps(job_document("j1", NEW | {b"metadata": text}, text))
    assert b'"output":' + text + b"," in answer
    assert b'"metadata":' + text + b"," in answer


def test_a_webhook_body_has_type_time_and_record() -> None:
    body = render_webhook_body("job.failed", 1769860861999, ENDED, "j1", b'{"n":1}', output_too_large=False)
    assert orjson.loads(body) == {
        "type": "job.failed",
        "timestamp": "2026-01-31T12:01:01.999Z",
        "data": document(ENDED, b'{"n":1}'),
    }


def test_a_large_output_is_linked_and_not_sent() -> None:
    data = orjson.loads(render_webhook_body("job.succeeded", 0, ENDED, "j1", None, output_too_large=True))["data"]
    assert data["output"] is None
    assert data["links"]["output"] == "/api/v1/jobs/j1"


@given(st.integers(0, 4_102_444_800_000))
def test_times_are_rfc_3339_in_utc_to_the_millisecond(milliseconds: int) -> None:
    text = rfc3339(milliseconds)
    assert text.endswith("Z")
    assert len(text) == len("2026-01-31T12:00:00.000Z")
    back = datetime.fromisoformat(text)
    assert back.tzinfo == UTC
    assert round(back.timestamp() * 1000) == milliseconds


def test_only_succeeded_failed_and_cancelled_jobs_have_ended() -> None:
    assert {status.value for status in JobStatus if status.ended} == {"succeeded", "failed", "cancelled"}
