"""POST /jobs: what is accepted, what is kept of it, and what is refused."""

from __future__ import annotations

import asyncio
import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.signing import unseal
from tests.unit.gateway.conftest import SECRET_KEY, Gateway, problem

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
WEBHOOK_SECRET = "whsec_" + "c2VjcmV0" * 5 + "c2U="


async def test_a_job_is_accepted_with_its_id_and_its_address_at_once(gateway: Gateway) -> None:
    answer = await gateway.post("/jobs", {"graph": "echo", "input": {"a": 1}})
    assert answer.status_code == 202
    job_id = answer.json()["id"]
    assert re.fullmatch(r"[0-9a-f]{32}", job_id)
    assert answer.headers["location"] == f"/api/v1/jobs/{job_id}" == answer.json()["links"]["self"]
    assert answer.json()["status"] == "queued"
    assert set(answer.json()["links"]) == {"self", "cancel", "deliveries"}
    assert (await gateway.http.get(answer.headers["location"])).json()["id"] == job_id


async def test_the_worker_gets_what_was_given_and_nothing_else(gateway: Gateway) -> None:
    await gateway.submit(input={"a": [1, 2.5, None]})
    assert orjson.loads((await gateway.worker.run()).payload) == {"input": {"a": [1, 2.5, None]}}
    given_ = {
        "config": {"configurable": {"who": None}, "tags": ["x"], "recursion_limit": 7},
        "context": {"language": "en"},
        "stream": ["values"],
        "limits": {"seconds": 5, "steps": 3},
    }
    await gateway.submit(input=1, **given_)
    assert orjson.loads((await gateway.worker.run()).payload) == {"input": 1, **given_}


async def test_what_is_said_of_a_job_is_kept_in_its_record(gateway: Gateway) -> None:
    answer = await gateway.post(
        "/jobs",
        {
            "graph": "echo", "input": None, "metadata": {"ticket": [1]}, "priority": 3, "queue": "default",
            "thread_id": "t 1", "max_attempts": 7,
            "webhook": {"url": "https://example.com/h", "events": ["job.failed", "job.succeeded"]},
        },
        traceparent=TRACEPARENT,
    )  # fmt: skip
    record = (await gateway.get(f"/jobs/{answer.json()['id']}")).json()
    assert record["metadata"] == {"ticket": [1]}
    assert (record["priority"], record["thread_id"], record["max_attempts"]) == (3, "t 1", 7)
    assert record["webhook"] == {"url": "https://example.com/h", "events": ["job.failed", "job.succeeded"]}
    claimed = await gateway.worker.claim()
    assert claimed.record[b"traceparent"] == TRACEPARENT.encode()
    assert claimed.record[b"webhook_events"] == b"job.failed,job.succeeded"


async def test_the_setting_says_how_many_attempts_a_job_has(gateway: Gateway) -> None:
    job_id = await gateway.submit()
    assert (await gateway.get(f"/jobs/{job_id}")).json()["max_attempts"] == gateway.services.settings.max_attempts


@pytest.mark.parametrize(
    "malformed",
    [
        "",
        "nonsense",
        TRACEPARENT + "-00",
        TRACEPARENT.upper(),
        "00-" + "0" * 32 + "-00f067aa0ba902b7-01",
        "ff" + TRACEPARENT[2:],
    ],
)
async def test_a_malformed_trace_context_is_ignored(gateway: Gateway, malformed: str) -> None:
    answer = await gateway.post("/jobs", {"graph": "echo", "input": 1}, traceparent=malformed)
    assert answer.status_code == 202
    assert b"traceparent" not in (await gateway.worker.claim()).record


async def test_a_webhook_secret_is_kept_sealed_and_never_shown(gateway: Gateway) -> None:
    job_id = await gateway.submit(webhook={"url": "https://example.com/h", "secret": WEBHOOK_SECRET})
    sealed = (await gateway.worker.claim()).record[b"webhook_secret"].decode()
    assert WEBHOOK_SECRET not in sealed
    assert unseal(SECRET_KEY, sealed) == WEBHOOK_SECRET
    assert WEBHOOK_SECRET not in (await gateway.get(f"/jobs/{job_id}")).text


@pytest.mark.parametrize(
    "url", ["http://example.com/", "https://127.0.0.1/", "https://169.254.169.254/", "ftp://x", "https://u:p@x/"]
)
async def test_a_webhook_that_could_never_be_sent_is_refused(gateway: Gateway, url: str) -> None:
    answer = await gateway.post("/jobs", {"graph": "echo", "input": 1, "webhook": {"url": url}})
    assert problem(answer, 422, "webhook_refused")["errors"][0]["pointer"] == "/webhook/url"


async def test_a_webhook_secret_that_no_library_takes_is_refused_without_being_repeated(gateway: Gateway) -> None:
    webhook = {"url": "https://example.com/h", "secret": "whsec_short"}
    answer = await gateway.post("/jobs", {"graph": "echo", "input": 1, "webhook": webhook})
    assert problem(answer, 422, "validation_error")["errors"][0]["pointer"] == "/webhook/secret"
    assert "whsec_short" not in answer.text


async def test_a_job_can_be_delayed_by_seconds_or_until_a_time(gateway: Gateway) -> None:
    first = await gateway.submit(delay_seconds=60)
    second = await gateway.submit(run_at=(datetime.now(UTC) + timedelta(days=300)).isoformat())
    for job_id in (first, second):
        record = (await gateway.get(f"/jobs/{job_id}")).json()
        assert record["status"] == "queued"
        assert record["run_at"] > record["created_at"]


@pytest.mark.parametrize(
    "run_at", ["9999-12-31T23:59:59-12:00", "2999-01-01T00:00:00Z", "not a time", "2030-01-01T00:00:00"]
)
async def test_a_run_at_without_a_zone_or_beyond_a_year_is_refused(gateway: Gateway, run_at: str) -> None:
    answer = await gateway.post("/jobs", {"graph": "echo", "input": 1, "run_at": run_at})
    assert problem(answer, 422, "validation_error")["errors"][0]["pointer"] == "/run_at"


async def test_a_run_at_in_the_past_runs_now(gateway: Gateway) -> None:
    job_id = await gateway.submit(run_at="0001-01-01T00:00:00+14:00")
    assert (await gateway.worker.claim()).id == job_id


async def test_the_same_key_and_body_give_the_same_answer_and_say_so(gateway: Gateway) -> None:
    body = {"graph": "echo", "input": {"b": 1, "a": 2}}
    first = await gateway.post("/jobs", body, idempotency_key="key-1")
    assert "idempotent-replayed" not in first.headers
    await gateway.worker.run()
    reordered = b'{"input": {"a": 2, "b": 1}, "graph": "echo"}'
    second = await gateway.post("/jobs", reordered, idempotency_key="key-1")
    assert second.headers["idempotent-replayed"] == "true"
    assert (second.status_code, second.json()) == (202, first.json())
    assert second.headers["location"] == first.headers["location"]
    assert len((await gateway.get("/jobs")).json()["items"]) == 1


async def test_fifty_submits_at_once_with_one_key_are_one_job(gateway: Gateway) -> None:
    answers = await asyncio.gather(
        *(gateway.post("/jobs", {"graph": "echo", "input": 1}, idempotency_key="race") for _ in range(50))
    )
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert sum("idempotent-replayed" not in answer.headers for answer in answers) == 1


async def test_the_same_key_with_another_body_is_refused(gateway: Gateway) -> None:
    await gateway.post("/jobs", {"graph": "echo", "input": 1}, idempotency_key="key-1")
    problem(
        await gateway.post("/jobs", {"graph": "echo", "input": 2}, idempotency_key="key-1"),
        422,
        "idempotency_key_reused",
    )


@pytest.mark.parametrize("key", ["", "a b", "k" * 256, "café", "tab\tkey"])
async def test_a_key_that_is_not_1_to_255_visible_characters_is_refused(gateway: Gateway, key: str) -> None:
    headers = [("content-type", "application/json"), ("idempotency-key", key.encode("latin-1"))]
    answer = await gateway.http.post("/api/v1/jobs", content=b'{"graph":"echo","input":1}', headers=headers)  # type: ignore[arg-type]
    assert problem(answer, 422, "validation_error")["errors"][0]["header"].lower() == "idempotency-key"


async def test_a_busy_thread_refuses_a_job_that_will_not_wait(gateway: Gateway) -> None:
    running = await gateway.submit(thread_id="t")
    answer = await gateway.post("/jobs", {"graph": "echo", "input": 1, "thread_id": "t", "on_busy": "reject"})
    assert problem(answer, 409, "thread_busy")["job_id"] == running


SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
)
DOCUMENTS = st.recursive(
    SCALARS | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(document=DOCUMENTS, ascii_only=st.booleans())
async def test_any_json_reaches_the_worker_as_it_was_sent(gateway: Gateway, document: Any, ascii_only: bool) -> None:
    body = {"graph": "echo", "input": document, "metadata": {"kept": document}}
    answer = await gateway.post("/jobs", json.dumps(body, ensure_ascii=ascii_only).encode())
    assert answer.status_code == 202, answer.text
    claimed = await gateway.worker.run()
    # Compared as text: 1 is not 1.0, and -0.0 is not 0.0.
    assert json.dumps(orjson.loads(claimed.payload)["input"]) == json.dumps(document)
    assert json.dumps(orjson.loads(claimed.record[b"metadata"])["kept"]) == json.dumps(document)
