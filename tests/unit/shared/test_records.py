"""A job's record, from the raw hash to what clients and webhook receivers read."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.jobs import JobRecord, JobStatus, rfc3339
from shared.records import (
    MAX_WEBHOOK_BYTES,
    SUMMARY_FIELDS,
    error_code,
    job_document,
    job_summary,
    render_ping,
    render_webhook_body,
)

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
        "version": 1,
        "sequence": 2,
        "data": document(ENDED, b'{"n":1}'),
    }


def test_each_round_of_a_job_has_its_number_in_the_sequence() -> None:
    messages = [message(NEW | {b"round": str(number).encode()}) for number in (1, 2, 10)]
    assert [body["sequence"] for body in messages] == [1, 2, 10]


def test_a_ping_names_its_endpoint() -> None:
    assert orjson.loads(render_ping("e1", 1769860861999)) == {
        "type": "webhook.ping",
        "timestamp": "2026-01-31T12:01:01.999Z",
        "version": 1,
        "sequence": 0,
        "data": {"endpoint": "e1"},
    }


# Thin messages -------------------------------------------------------------------------------------------------------

HERE = "/api/v1/jobs/j1"
QUESTION = b'[{"id":"q1","value":"%s"},{"id":"q2","value":1}]'


def message(raw: dict[bytes, bytes], output: bytes | None = None, too_large: bool = False) -> dict[str, Any]:
    body = render_webhook_body("job.failed", 0, raw, "j1", output, output_too_large=too_large)
    assert len(body) <= 262_144
    read: dict[str, Any] = orjson.loads(body)
    assert (read["type"], read["version"], read["data"]["id"]) == ("job.failed", 1, "j1")
    assert read["data"]["links"]["self"] == HERE
    return read


def test_a_large_output_is_linked_and_not_sent() -> None:
    data = message(ENDED, too_large=True)["data"]
    assert data == document(ENDED) | {"links": {**document(ENDED)["links"], "output": HERE}}  # type: ignore[dict-item]


def test_the_whole_message_has_at_most_256_kb_not_its_output_alone() -> None:
    rest = len(render_webhook_body("job.failed", 0, ENDED, "j1", b'""', output_too_large=False))
    longest = b'"' + b"x" * (MAX_WEBHOOK_BYTES - rest) + b'"'
    body = render_webhook_body("job.failed", 0, ENDED, "j1", longest, output_too_large=False)
    assert len(body) == MAX_WEBHOOK_BYTES == 262_144
    assert "output" not in orjson.loads(body)["data"]["links"]
    data = message(ENDED, longest[:-1] + b'x"')["data"]
    assert data == document(ENDED) | {"links": {**document(ENDED)["links"], "output": HERE}}  # type: ignore[dict-item]


def test_of_large_interrupts_the_ids_are_sent_and_the_values_linked() -> None:
    raw = NEW | {b"status": b"interrupted", b"interrupts": QUESTION % (b"x" * 262_144), b"metadata": b'{"a":1}'}
    data = message(raw)["data"]
    assert data["interrupts"] == [{"id": "q1"}, {"id": "q2"}]
    assert data["links"]["interrupts"] == HERE
    assert "output" not in data["links"]
    assert (data["status"], data["metadata"]) == ("interrupted", {"a": 1})


def test_more_interrupts_than_a_message_holds_are_only_linked() -> None:
    many = orjson.dumps([{"id": f"{number:032x}", "value": "x" * 100} for number in range(10_000)])
    data = message(NEW | {b"interrupts": many})["data"]
    assert data["interrupts"] is None
    assert data["links"]["interrupts"] == HERE


def test_the_long_texts_of_an_error_are_cut_before_the_error_is_lost() -> None:
    error = orjson.loads(ENDED[b"error"]) | {"type": "é" * 100_000, "message": "线" * 100_000}
    data = message(ENDED | {b"error": orjson.dumps(error)}, b"[]")["data"]
    assert data["error"]["message"] == "线" * 1023 + "…"
    assert data["error"]["type"] == "é" * 1023 + "…"
    assert (data["error"]["code"], data["error"]["retryable"]) == ("c", True)
    assert (data["links"]["output"], data["links"]["error"]) == (HERE, HERE)
    assert data["metadata"] == {"big": 18446744073709551615}
    assert data["usage"] is not None


def test_a_large_usage_is_linked() -> None:
    data = message(ENDED | {b"usage": orjson.dumps({"models": {"m" * 300_000: {}}})})["data"]
    assert data["usage"] is None
    assert data["links"]["usage"] == HERE
    assert data["error"] == orjson.loads(ENDED[b"error"])


@pytest.mark.parametrize("name", ["interrupts", "error", "usage", "metadata"])
@pytest.mark.parametrize("spoiled", [b"{", b"\xff", b"[1,", b"NaN", b'{"a":"' + b"\\" * 99])
def test_a_part_that_is_not_json_is_left_out(name: str, spoiled: bytes) -> None:
    read = message(ENDED | {name.encode(): spoiled})
    assert read["sequence"] == 2
    assert read["data"][name] is None
    assert read["data"]["links"][name] == HERE


def test_an_output_that_is_not_json_is_left_out() -> None:
    data = message(ENDED, b"\xff")["data"]
    assert data == document(ENDED) | {"links": {**document(ENDED)["links"], "output": HERE}}  # type: ignore[dict-item]


def test_all_parts_together_may_be_too_large() -> None:
    spoiled = dict.fromkeys((b"metadata", b"error", b"interrupts", b"usage"), b'["' + b"x" * 300_000 + b'"]')
    data = message(ENDED | spoiled, b'"x"')["data"]
    assert {name for name, value in data.items() if value is None} >= {"output", "error", "usage", "metadata"}
    assert (data["status"], data["round"]) == ("failed", 2)


@given(st.dictionaries(st.sampled_from(sorted(ENDED)), st.binary() | st.integers().map(lambda n: str(n).encode())))
def test_no_record_is_so_broken_that_there_is_no_message(spoiled: dict[bytes, bytes]) -> None:
    message(ENDED | spoiled, b"[]")
    message(spoiled)


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
