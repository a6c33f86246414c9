"""Reading, listing, cancelling, retrying and erasing jobs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tests.unit.gateway.conftest import Gateway, problem

FAILURE = b'{"type":"ValueError","code":"graph_error","message":"no","node":"n","retryable":false}'
FIELDS = {
    "id", "graph", "status", "queue", "priority", "thread_id", "created_at", "started_at", "finished_at", "attempt",
    "tries", "max_attempts", "round", "metadata", "output", "error", "interrupts", "usage", "webhook", "links",
}  # fmt: skip


async def test_a_record_has_all_that_is_known_of_a_job(gateway: Gateway) -> None:
    job_id = await gateway.submit(input=1)
    assert set((await gateway.get(f"/jobs/{job_id}")).json()) == FIELDS
    await gateway.worker.run(
        output=b'{"large":18446744073709551615,"text":"\xc3\xa9"}', usage=b'{"model":{"tokens":3}}'
    )
    record = (await gateway.get(f"/jobs/{job_id}")).json()
    assert (record["status"], record["attempt"], record["tries"], record["round"]) == ("succeeded", 1, 1, 1)
    assert record["output"] == {"large": 2**64 - 1, "text": "é"}
    assert record["usage"] == {"model": {"tokens": 3}}
    assert record["created_at"] <= record["started_at"] <= record["finished_at"]


async def test_a_failed_job_says_why(gateway: Gateway) -> None:
    job_id = await gateway.submit()
    await gateway.worker.run("failed", b"", error=FAILURE)
    record = (await gateway.get(f"/jobs/{job_id}")).json()
    assert (record["status"], record["error"]["code"], record["output"]) == ("failed", "graph_error", None)


async def test_a_waiting_job_is_cancelled_at_once_and_counted(gateway: Gateway) -> None:
    job_id = await gateway.submit()
    answer = await gateway.post(f"/jobs/{job_id}/cancel")
    assert (answer.status_code, answer.json()["status"]) == (202, "cancelled")
    problem(await gateway.post(f"/jobs/{job_id}/cancel"), 409, "job_ended")
    assert 'mas_jobs_ended_total{graph="echo",status="cancelled"}' in (await gateway.http.get("/metrics")).text


async def test_a_running_job_is_asked_to_end(gateway: Gateway) -> None:
    job_id = await gateway.submit()
    claimed = await gateway.worker.claim()
    answer = await gateway.post(f"/jobs/{job_id}/cancel")
    assert (answer.status_code, answer.json()["status"]) == (202, "running")
    assert await gateway.jobs.release("worker-1", claimed, "hand_back") == "cancelled"


async def test_an_interrupted_job_can_be_cancelled(gateway: Gateway) -> None:
    job_id = await gateway.submit()
    await gateway.worker.run("interrupted", b"", interrupts=b'[{"value":"really?"}]')
    assert (await gateway.get(f"/jobs/{job_id}")).json()["interrupts"] == [{"value": "really?"}]
    assert (await gateway.post(f"/jobs/{job_id}/cancel")).json()["status"] == "cancelled"


async def test_a_failed_job_can_be_run_again_and_no_other(gateway: Gateway) -> None:
    job_id = await gateway.submit()
    problem(await gateway.post(f"/jobs/{job_id}/retry"), 409, "job_not_retryable")
    await gateway.worker.run("failed", b"", error=FAILURE)
    answer = await gateway.post(f"/jobs/{job_id}/retry")
    assert (answer.status_code, answer.json()["status"]) == (202, "queued")
    record = (await gateway.get(f"/jobs/{job_id}")).json()
    assert (record["round"], record["tries"], record["error"]) == (2, 0, None)
    await gateway.worker.run()
    problem(await gateway.post(f"/jobs/{job_id}/retry"), 409, "job_not_retryable")


async def test_an_ended_job_can_be_erased_and_no_other(gateway: Gateway) -> None:
    job_id = await gateway.submit()
    problem(await gateway.http.delete(f"/api/v1/jobs/{job_id}"), 409, "job_not_ended")
    await gateway.worker.run()
    answer = await gateway.http.delete(f"/api/v1/jobs/{job_id}")
    assert (answer.status_code, answer.content) == (204, b"")
    problem(await gateway.get(f"/jobs/{job_id}"), 404, "job_not_found")
    problem(await gateway.http.delete(f"/api/v1/jobs/{job_id}"), 404, "job_not_found")


async def test_jobs_are_listed_newest_first_page_by_page_without_outputs(gateway: Gateway) -> None:
    ids = [await gateway.submit(input=number) for number in range(7)]
    await gateway.worker.run(output=b'"an output"')
    seen, cursor = [], None
    for _ in range(4):
        page = (await gateway.get("/jobs", limit=2, **({"cursor": cursor} if cursor else {}))).json()
        assert all(set(item) == FIELDS - {"output"} for item in page["items"])
        seen += [item["id"] for item in page["items"]]
        cursor = page["next_cursor"]
    assert (seen, cursor) == (ids[::-1], None)


async def test_filters_of_a_list_all_have_to_match(gateway: Gateway) -> None:
    done = await gateway.submit(thread_id="a")
    await gateway.worker.run()
    strict = await gateway.submit("strict", {"count": 1})
    waiting = await gateway.submit(thread_id="b b")
    found = {
        "status=succeeded": [done],
        "status=queued,succeeded": [waiting, strict, done],
        "status=queued&status=succeeded": [waiting, strict, done],
        "status=queued&graph=echo": [waiting],
        "graph=strict,echo&status=queued": [waiting, strict],
        "thread_id=b%20b": [waiting],
        "thread_id=b%20b&status=failed": [],
        "status=": [waiting, strict, done],
        "graph=nosuch": [],
    }
    for query, ids in found.items():
        answer = await gateway.http.get(f"/api/v1/jobs?{query}")
        assert [item["id"] for item in answer.json()["items"]] == ids, query


async def test_created_after_is_exclusive(gateway: Gateway) -> None:
    job_id = await gateway.submit()
    at = (await gateway.get(f"/jobs/{job_id}")).json()["created_at"]
    before = (datetime.fromisoformat(at) - timedelta(milliseconds=1)).astimezone(UTC).isoformat()
    assert (await gateway.get("/jobs", created_after=at)).json()["items"] == []
    assert len((await gateway.get("/jobs", created_after=before)).json()["items"]) == 1
    assert len((await gateway.get("/jobs", created_after="0001-01-01T00:00:00Z")).json()["items"]) == 1


async def test_created_before_is_exclusive(gateway: Gateway) -> None:
    job_id = await gateway.submit()
    at = (await gateway.get(f"/jobs/{job_id}")).json()["created_at"]
    after = (datetime.fromisoformat(at) + timedelta(milliseconds=1)).astimezone(UTC).isoformat()
    assert (await gateway.get("/jobs", created_before=at)).json()["items"] == []
    assert len((await gateway.get("/jobs", created_before=after)).json()["items"]) == 1


async def test_a_list_is_filtered_by_the_codes_of_errors(gateway: Gateway) -> None:
    job_id = await gateway.submit()
    await gateway.worker.run("failed", b"", error=FAILURE)
    await gateway.submit()
    for query, found in {"graph_error": [job_id], "timeout,graph_error": [job_id], "timeout": []}.items():
        items = (await gateway.get("/jobs", error_code=query)).json()["items"]
        assert [item["id"] for item in items] == found, query


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("status=ended", "status"), ("limit=0", "limit"), ("limit=101", "limit"), ("limit=x", "limit"),
        ("limit=" + "9" * 5000, "limit"), ("graph=a:b", "graph"), ("graph=%00", "graph"),
        ("thread_id=a%00b", "thread_id"), ("thread_id=", "thread_id"), ("thread_id=" + "x" * 513, "thread_id"),
        ("created_after=now", "created_after"), ("created_after=1e30", "created_after"),
        ("created_after=2026-01-01T00:00:00", "created_after"), ("created_before=x", "created_before"),
        ("error_code=" + "x" * 65, "error_code"), ("cursor=" + "x" * 201, "cursor"),
        ("graph=" + ",".join(["g"] * 51), "graph"),
    ],
)  # fmt: skip
async def test_a_wrong_parameter_is_named(gateway: Gateway, query: str, parameter: str) -> None:
    answer = await gateway.http.get(f"/api/v1/jobs?{query}")
    assert {error["parameter"] for error in problem(answer, 422, "validation_error")["errors"]} == {parameter}


@pytest.mark.parametrize(
    "cursor", ["x", "ée", "%00", "MTox", "LTU6eA", "OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTp4", "====", "%ff"]
)
async def test_a_cursor_that_no_list_gave_is_refused_or_finds_nothing(gateway: Gateway, cursor: str) -> None:
    await gateway.submit()
    answer = await gateway.http.get(f"/api/v1/jobs?cursor={cursor}")
    if cursor == "MTox":  # "1:x": a position before all jobs
        assert answer.json() == {"items": [], "next_cursor": None}
    else:
        problem(answer, 422, "invalid_cursor")


@pytest.mark.parametrize(
    "job_id", ["0" * 32, "x", "batch", "retry", "A" * 32, "0" * 31 + "%00", "0" * 33, "%F0%9F%98%80", "..%2f", "*"]
)
async def test_what_cannot_be_a_job_s_id_is_not_found(gateway: Gateway, job_id: str) -> None:
    calls = {
        "GET": ["", "/deliveries"],
        "POST": ["/cancel", "/retry", "/resume", "/deliveries/x/redeliver"],
        "DELETE": [""],
    }
    for method, ends in calls.items():
        for end in ends:
            body = {"value": 1} if end == "/resume" else None
            answer = await gateway.http.request(method, f"/api/v1/jobs/{job_id}{end}", json=body)
            assert answer.status_code == 404, answer.text
            assert answer.json()["code"] in ("job_not_found", "delivery_not_found", "not_found")
