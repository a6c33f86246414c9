"""Another round of one job: retry, and the answer to an interrupt."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.store import Claimed, NewJob
from tests.unit.gateway.conftest import Gateway, problem

NO_JOB = "0" * 32
STATUSES = ("queued", "running", "interrupted", "succeeded", "failed", "cancelled")
KEPT = {b"step": b"1"}


async def in_status(gateway: Gateway, status: str) -> str:
    """The id of a job that stands so."""
    job_id = await gateway.submit()
    if status == "running":
        await gateway.worker.claim()
    elif status != "queued":
        await gateway.worker.run(status, b"")
    return job_id


async def failed_after_a_step(gateway: Gateway, **fields: Any) -> str:
    """The id of a failed job that has a checkpoint: its own, or its thread's."""
    job_id = await gateway.submit(**fields)
    job = await gateway.worker.claim()
    await make_a_step(gateway, job)
    await gateway.worker.finish(job, "failed", b"")
    return job_id


async def make_a_step(gateway: Gateway, job: Claimed) -> None:
    if b"thread" in job.record:
        assert await gateway.jobs.pin("worker-1", job, [("", "c1", "")])
    else:
        assert await gateway.jobs.checkpoint("worker-1", job, KEPT, [])


@pytest.mark.parametrize(
    ("content", "headers"),
    [
        (b"", {}),
        (b"", {"content-type": "application/json"}),
        (b"", {"content-type": "application/x-www-form-urlencoded"}),
        (b"null", {"content-type": "application/json"}),
        (b"{}", {"content-type": "application/json"}),
        (b'{"from": "checkpoint"}', {"content-type": "application/json"}),
    ],
)
async def test_a_retry_goes_on_from_the_last_checkpoint(
    gateway: Gateway, content: bytes, headers: dict[str, str]
) -> None:
    job_id = await failed_after_a_step(gateway)
    answer = await gateway.http.post(f"/api/v1/jobs/{job_id}/retry", content=content, headers=headers)
    assert (answer.status_code, answer.json()["id"], answer.json()["status"]) == (202, job_id, "queued")
    assert await gateway.jobs.checkpoints(await gateway.worker.claim()) == KEPT


async def test_a_retry_from_the_start_knows_no_checkpoint(gateway: Gateway) -> None:
    job_id = await failed_after_a_step(gateway)
    answer = await gateway.post(f"/jobs/{job_id}/retry", {"from": "start"})
    assert (answer.status_code, answer.json()["status"]) == (202, "queued")
    assert await gateway.jobs.checkpoints(await gateway.worker.claim()) == {}


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"from": "end"}, "/from"), ({"from": None}, "/from"), ({"from": ["start"]}, "/from"),
        ({"form": "start"}, "/form"), ({"start": "start"}, "/start"), ([], ""), ("start", ""), (0, ""), (False, ""),
    ],
)  # fmt: skip
async def test_a_retry_refuses_what_it_does_not_know(gateway: Gateway, body: Any, pointer: str) -> None:
    job_id = await in_status(gateway, "failed")
    answer = await gateway.post(f"/jobs/{job_id}/retry", body)
    assert [error["pointer"] for error in problem(answer, 422, "validation_error")["errors"]] == [pointer]
    assert (await gateway.get(f"/jobs/{job_id}")).json()["status"] == "failed"


@pytest.mark.parametrize("call", ["retry", "resume"])
async def test_the_bodies_of_another_round_are_checked_as_all_are(gateway: Gateway, call: str) -> None:
    path = f"/jobs/{await in_status(gateway, 'interrupted')}/{call}"
    nested = b'{"value": ' + b"[" * 255 + b"]" * 255 + b"}"
    problem(await gateway.post(path, b'{"value": '), 400, "invalid_json")
    problem(await gateway.post(path, b'{"value": "\\ud800"}'), 400, "invalid_json")
    problem(await gateway.post(path, b'{"value": 1}', content_type="text/plain"), 415, "unsupported_media_type")
    problem(await gateway.post(path, b'{"value": 18446744073709551616}'), 422, "integer_too_large")
    problem(await gateway.post(path, nested), 422, "too_deeply_nested")
    assert (await gateway.get(path.removesuffix(f"/{call}"))).json()["status"] == "interrupted"


@pytest.mark.parametrize("status", ["queued", "running", "interrupted", "succeeded"])
@pytest.mark.parametrize("start", ["checkpoint", "start"])
async def test_only_failed_and_cancelled_jobs_can_be_retried(gateway: Gateway, status: str, start: str) -> None:
    job_id = await in_status(gateway, status)
    answer = await gateway.post(f"/jobs/{job_id}/retry", {"from": start})
    assert status in problem(answer, 409, "job_not_retryable")["detail"]
    assert (await gateway.get(f"/jobs/{job_id}")).json()["round"] == 1


async def test_a_cancelled_job_can_be_retried(gateway: Gateway) -> None:
    job_id = await gateway.submit()
    await gateway.post(f"/jobs/{job_id}/cancel")
    assert (await gateway.post(f"/jobs/{job_id}/retry")).status_code == 202
    assert (await gateway.worker.run()).id == job_id


async def test_a_retry_is_refused_when_its_thread_has_moved_on_and_the_answer_says_what_to_do(gateway: Gateway) -> None:
    job_id = await failed_after_a_step(gateway, thread_id="t")
    waiting = await gateway.submit(thread_id="t")
    for _ in ("another job is about to go on", "another job has gone on"):
        answer = await gateway.post(f"/jobs/{job_id}/retry")
        assert '{"from": "start"}' in problem(answer, 409, "thread_moved_on")["detail"]
        record = (await gateway.get(f"/jobs/{job_id}")).json()
        assert (record["status"], record["round"]) == ("failed", 1)
        if (await gateway.get(f"/jobs/{waiting}")).json()["status"] == "queued":
            claimed = await gateway.worker.claim()
            await make_a_step(gateway, claimed)
            await gateway.worker.finish(claimed)
    answer = await gateway.post(f"/jobs/{job_id}/retry", {"from": "start"})
    assert (answer.status_code, answer.json()["status"]) == (202, "queued")
    assert (await gateway.worker.run()).id == job_id


async def test_a_job_whose_thread_stands_where_it_left_it_can_be_retried(gateway: Gateway) -> None:
    job_id = await failed_after_a_step(gateway, thread_id="t")
    assert (await gateway.post(f"/jobs/{job_id}/retry")).status_code == 202


@pytest.mark.parametrize("value", [None, True, 0, "", "yes", [], {"a": [1, 2.5, None]}, 2**64 - 1, {"value": {}}])
async def test_a_resume_brings_the_worker_its_value(gateway: Gateway, value: Any) -> None:
    job_id = await in_status(gateway, "interrupted")
    answer = await gateway.post(f"/jobs/{job_id}/resume", {"value": value})
    assert (answer.status_code, answer.json()["id"], answer.json()["status"]) == (202, job_id, "queued")
    assert (await gateway.get(f"/jobs/{job_id}")).json()["round"] == 2
    claimed = await gateway.worker.claim()
    assert (claimed.id, orjson.loads(claimed.answer)) == (job_id, value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)  # fmt: skip


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=JSON, ascii_only=st.booleans())
async def test_any_json_is_an_answer_and_reaches_the_worker_as_it_was_sent(
    gateway: Gateway, value: Any, ascii_only: bool
) -> None:
    job_id = await in_status(gateway, "interrupted")
    body = json.dumps({"value": value}, ensure_ascii=ascii_only).encode()
    assert (await gateway.post(f"/jobs/{job_id}/resume", body)).status_code == 202
    claimed = await gateway.worker.run()
    assert json.dumps(orjson.loads(claimed.answer)) == json.dumps(value)


@pytest.mark.parametrize("status", [status for status in STATUSES if status != "interrupted"])
async def test_only_interrupted_jobs_can_be_resumed(gateway: Gateway, status: str) -> None:
    job_id = await in_status(gateway, status)
    answer = await gateway.post(f"/jobs/{job_id}/resume", {"value": 1})
    assert status in problem(answer, 409, "job_not_interrupted")["detail"]
    record = (await gateway.get(f"/jobs/{job_id}")).json()
    assert (record["status"], record["round"]) == (status, 1)


async def test_a_question_is_answered_once(gateway: Gateway) -> None:
    job_id = await in_status(gateway, "interrupted")
    assert (await gateway.post(f"/jobs/{job_id}/resume", {"value": "first"})).status_code == 202
    problem(await gateway.post(f"/jobs/{job_id}/resume", {"value": "second"}), 409, "job_not_interrupted")
    assert (await gateway.worker.claim()).answer == b'"first"'


async def test_an_answer_that_names_its_round_never_answers_the_next_question(gateway: Gateway) -> None:
    job_id = await in_status(gateway, "interrupted")
    body = {"value": "first", "round": 1}
    assert (await gateway.post(f"/jobs/{job_id}/resume", body)).status_code == 202
    await gateway.worker.run("interrupted")
    answer = await gateway.post(f"/jobs/{job_id}/resume", body)
    assert "Round 1 is over" in problem(answer, 409, "job_not_interrupted")["detail"]
    assert (await gateway.post(f"/jobs/{job_id}/resume", {"value": "second", "round": 2})).status_code == 202


async def test_an_interrupted_job_that_was_cancelled_takes_no_answer_and_is_counted(gateway: Gateway) -> None:
    async def counted() -> float:
        lines = (await gateway.http.get("/metrics")).text.splitlines()
        name = 'mas_jobs_ended_total{graph="echo",status="cancelled"} '
        return sum(float(line.removeprefix(name)) for line in lines if line.startswith(name))

    before = await counted()
    job_id = await in_status(gateway, "interrupted")
    assert (await gateway.post(f"/jobs/{job_id}/cancel")).json()["status"] == "cancelled"
    problem(await gateway.post(f"/jobs/{job_id}/resume", {"value": 1}), 409, "job_not_interrupted")
    assert await counted() == before + 1


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        (b"", ""), (None, ""), ({}, "/value"), ([], ""), (7, ""), ({"value": 1, "form": 2}, "/form"),
        ({"Value": 1}, "/value"),
    ],
)  # fmt: skip
async def test_a_resume_needs_a_value_and_takes_nothing_else(gateway: Gateway, body: Any, pointer: str) -> None:
    job_id = await in_status(gateway, "interrupted")
    answer = await gateway.post(f"/jobs/{job_id}/resume", body)
    assert problem(answer, 422, "validation_error")["errors"][0]["pointer"] == pointer
    assert (await gateway.get(f"/jobs/{job_id}")).json()["status"] == "interrupted"


@pytest.mark.parametrize("call", ["retry", "resume"])
async def test_no_other_tenant_s_job_gets_another_round(gateway: Gateway, call: str) -> None:
    problem(
        await gateway.post(f"/jobs/{NO_JOB}/{call}", {"value": 1} if call == "resume" else {}), 404, "job_not_found"
    )
    status: Any = "failed" if call == "retry" else "interrupted"
    await gateway.jobs.submit(NewJob(tenant="other", id=NO_JOB, graph="echo", payload=b"{}", max_attempts=3))
    await gateway.worker.run(status, b"")
    problem(
        await gateway.post(f"/jobs/{NO_JOB}/{call}", {"value": 1} if call == "resume" else {}), 404, "job_not_found"
    )
    assert await gateway.jobs.statuses([f"other:{NO_JOB}"]) == {f"other:{NO_JOB}": status}


@pytest.mark.parametrize("status", STATUSES)
async def test_the_links_of_a_job_are_what_can_be_asked_of_it(gateway: Gateway, status: str) -> None:
    job_id = await in_status(gateway, status)
    links = (await gateway.get(f"/jobs/{job_id}")).json()["links"]
    assert links.pop("self") == f"/api/v1/jobs/{job_id}"
    assert links.pop("deliveries") == f"/api/v1/jobs/{job_id}/deliveries"
    bodies = {"retry": {}, "resume": {"value": 1}, "cancel": None}
    for name, body in bodies.items():
        job_id = await in_status(gateway, status)
        answer = await gateway.post(f"/jobs/{job_id}/{name}", body)
        assert (answer.status_code == 202) == (name in links), name
        await gateway.post(f"/jobs/{job_id}/cancel")  # what runs again is not to be claimed for the next
    assert links.keys() <= bodies.keys()


async def test_an_answer_s_links_fit_the_status_that_it_tells(gateway: Gateway) -> None:
    job_id = await in_status(gateway, "interrupted")
    resumed = (await gateway.post(f"/jobs/{job_id}/resume", {"value": 1})).json()
    cancelled = (await gateway.post(f"/jobs/{job_id}/cancel")).json()
    retried = (await gateway.post(f"/jobs/{job_id}/retry")).json()
    assert set(resumed["links"]) == set(retried["links"]) == {"self", "cancel", "deliveries"}
    assert set(cancelled["links"]) == {"self", "retry", "deliveries"}
