"""POST /jobs/retry: all of the caller's jobs that match, in as many calls as it takes."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from redis.asyncio import Redis

from shared.jobs import rfc3339
from shared.store import JobStore, NewJob, StoreFull, paging
from shared.store.keys import key, ref
from tests.unit.gateway.conftest import Gateway, problem


def error(code: str) -> bytes:
    return b'{"type":"E","code":"%s","message":"no","node":null,"retryable":false}' % code.encode()


async def ended(gateway: Gateway, status: str = "failed", code: str = "graph_error", **fields: Any) -> str:
    """The id of a job that ended so, created a second after the one before."""
    gateway.jobs.clock_offset_ms += 1000
    graph = fields.pop("graph", "echo")
    job_id = await gateway.submit(graph, {"count": 1}, **fields)
    if status == "cancelled":
        await gateway.post(f"/jobs/{job_id}/cancel")
    else:
        await gateway.worker.run(status, b"", **({"error": error(code)} if status == "failed" else {}))
    return job_id


async def retry(gateway: Gateway, **body: Any) -> dict[str, Any]:
    """The answer to a call that has to be taken."""
    answer = await gateway.post("/jobs/retry", body)
    assert answer.status_code == (200 if body.get("dry_run") else 202), answer.text
    return dict(answer.json())


async def all_pages(gateway: Gateway, **body: Any) -> list[dict[str, Any]]:
    """The answers to all calls of a loop."""
    pages = [await retry(gateway, **body)]
    while pages[-1]["next_cursor"] is not None:
        assert len(pages) < 50, "no end"
        pages.append(await retry(gateway, **body, cursor=pages[-1]["next_cursor"]))
    return pages


def ids(*pages: dict[str, Any]) -> list[str]:
    return [item["id"] for page in pages for item in page["items"]]


async def statuses(gateway: Gateway, *job_ids: str) -> list[str]:
    return [(await gateway.get(f"/jobs/{job_id}")).json()["status"] for job_id in job_ids]


async def everything(redis: Redis) -> dict[bytes, Any]:
    return {name: await redis.dump(name) for name in await redis.keys("*")}


async def test_all_failed_jobs_run_again_and_no_others(gateway: Gateway) -> None:
    failed = [await ended(gateway, code="provider_error"), await ended(gateway, code="timeout")]
    others = [await ended(gateway, status) for status in ("cancelled", "succeeded", "interrupted")]
    answer = await retry(gateway)
    first = (await gateway.get(f"/jobs/{failed[0]}")).json()
    assert answer["items"][0] == {
        "id": failed[0], "graph": "echo", "status": "queued", "created_at": first["created_at"],
        "error_code": "provider_error",
    }  # fmt: skip
    assert (answer["matched"], answer["retried"], ids(answer), answer["next_cursor"]) == (2, 2, failed, None)
    assert (first["status"], first["round"], first["error"]) == ("queued", 2, None)
    assert await statuses(gateway, *failed, *others) == ["queued"] * 2 + ["cancelled", "succeeded", "interrupted"]
    assert await retry(gateway) == {"matched": 0, "retried": 0, "items": [], "next_cursor": None}


async def test_all_that_is_given_has_to_match(gateway: Gateway) -> None:
    a = await ended(gateway, code="provider_error")
    b = await ended(gateway, code="timeout")
    c = await ended(gateway, code="provider_error", graph="strict")
    d = await ended(gateway, "cancelled")
    times = {name: (await gateway.get(f"/jobs/{name}")).json()["created_at"] for name in (a, b, c, d)}
    found: list[tuple[dict[str, Any], list[str]]] = [
        ({}, [a, b, c]),
        ({"status": ["cancelled"]}, [d]),
        ({"status": ["cancelled", "failed"]}, [a, b, c, d]),
        ({"graph": ["strict"]}, [c]),
        ({"graph": ["echo", "nosuch"]}, [a, b]),
        ({"error_code": ["provider_error"]}, [a, c]),
        ({"error_code": ["timeout", "nosuch"]}, [b]),
        ({"error_code": ["provider_error"], "graph": ["echo"]}, [a]),
        ({"error_code": ["provider_error"], "status": ["cancelled"]}, []),
        ({"created_after": times[a]}, [b, c]),
        ({"created_before": times[c]}, [a, b]),
        ({"created_after": times[a], "created_before": times[c]}, [b]),
        ({"created_after": times[b], "error_code": ["provider_error"]}, [c]),
    ]
    for body, expected in found:
        assert ids(await retry(gateway, **body, dry_run=True)) == expected, body
    for body, expected in found[7:9] + found[11:]:
        assert ids(await retry(gateway, **body)) == expected, body
    assert await statuses(gateway, a, b, c, d) == ["queued", "queued", "queued", "cancelled"]


async def test_both_times_are_exclusive_to_less_than_a_millisecond(gateway: Gateway) -> None:
    job_id = await ended(gateway)
    at = datetime.fromisoformat((await gateway.get(f"/jobs/{job_id}")).json()["created_at"]).astimezone(UTC)
    just_later = f"{at:%Y-%m-%dT%H:%M:%S.}{at.microsecond + 1:06d}Z"
    assert ids(await retry(gateway, created_before=at.isoformat(), dry_run=True)) == []
    assert ids(await retry(gateway, created_before=just_later, dry_run=True)) == [job_id]
    assert ids(await retry(gateway, created_after=just_later, dry_run=True)) == []


async def test_a_dry_run_says_what_matches_and_changes_nothing(gateway: Gateway, redis: Redis) -> None:
    failed = [await ended(gateway, code="timeout", thread_id="t") for _ in range(3)]
    before = await everything(redis)
    answer = await gateway.post("/jobs/retry", {"dry_run": True, "limit": 2, "from": "start"})
    assert answer.status_code == 200
    assert (answer.json()["matched"], answer.json()["retried"], ids(answer.json())) == (2, 0, failed[:2])
    assert answer.json()["next_cursor"]
    assert {item["status"] for item in answer.json()["items"]} == {"failed"}
    assert {item["error_code"] for item in answer.json()["items"]} == {"timeout"}
    assert await everything(redis) == before


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 1000])
async def test_a_loop_takes_each_job_once_and_the_oldest_first(gateway: Gateway, limit: int) -> None:
    failed = [await ended(gateway) for _ in range(7)]
    dry = await all_pages(gateway, limit=limit, dry_run=True)
    pages = await all_pages(gateway, limit=limit)
    assert ids(*dry) == ids(*pages) == failed
    assert max(page["matched"] for page in pages) <= limit
    assert sum(page["retried"] for page in pages) == 7


async def test_a_job_that_fails_again_meanwhile_does_not_come_twice(gateway: Gateway) -> None:
    failed = [await ended(gateway) for _ in range(3)]
    first = await retry(gateway, limit=2)
    for _ in range(2):
        await gateway.worker.run("failed", b"", error=error("graph_error"))
    second = await retry(gateway, limit=2, cursor=first["next_cursor"])
    assert (ids(first), ids(second), second["next_cursor"]) == (failed[:2], failed[2:], None)


async def test_a_loop_ends_with_all_that_match_however_rare_they_are(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paging, "MAX_EXAMINED", 4)
    monkeypatch.setattr(paging, "STRIDE", 2)
    codes = ["rare" if number in (0, 9, 10) else "graph_error" for number in range(12)]
    jobs = [await ended(gateway, code=code) for code in codes]
    pages = await all_pages(gateway, error_code=["rare"], limit=2)
    assert ids(*pages) == [jobs[0], jobs[9], jobs[10]]
    assert len(pages) >= 3
    assert [] in [page["items"] for page in pages]
    listed, cursor = [], None
    while True:
        page = (await gateway.get("/jobs", error_code="graph_error", **({"cursor": cursor} if cursor else {}))).json()
        listed += ids(page)
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert listed == [job for job, code in zip(jobs, codes, strict=True) if code == "graph_error"][::-1]


async def test_from_start_holds_for_each_job(gateway: Gateway) -> None:
    for _ in range(2):
        await gateway.submit()
        job = await gateway.worker.claim()
        assert await gateway.jobs.checkpoint("worker-1", job, {b"step": b"1"}, [])
        await gateway.worker.finish(job, "failed", b"")
    assert (await retry(gateway, limit=1))["retried"] == 1
    assert await gateway.jobs.checkpoints(await gateway.worker.run("failed", b"")) == {b"step": b"1"}
    assert (await retry(gateway, **{"from": "start"}))["retried"] == 2
    assert await gateway.jobs.checkpoints(await gateway.worker.run()) == {}
    assert await gateway.jobs.checkpoints(await gateway.worker.run()) == {}


async def test_the_jobs_of_a_thread_run_in_their_old_order(gateway: Gateway) -> None:
    failed = [await ended(gateway, thread_id="t") for _ in range(4)]
    await all_pages(gateway, limit=2)
    assert [(await gateway.worker.run()).id for _ in failed] == failed


async def test_a_job_whose_thread_has_moved_on_says_so_for_itself(gateway: Gateway) -> None:
    await gateway.submit(thread_id="t")
    stuck = await gateway.worker.claim()
    assert await gateway.jobs.pin("worker-1", stuck, [("", "c1", "")])
    await gateway.worker.finish(stuck, "failed", b"", error=error("timeout"))
    free = await ended(gateway)
    waiting = await gateway.submit(thread_id="t")
    answer = await retry(gateway)
    assert (answer["matched"], answer["retried"], ids(answer)) == (2, 1, [stuck.id, free])
    refused = answer["items"][0]
    assert (refused["status"], refused["error_code"]) == ("failed", "timeout")
    assert (refused["error"]["code"], refused["error"]["status"]) == ("thread_moved_on", 409)
    assert await statuses(gateway, stuck.id, free, waiting) == ["failed", "queued", "queued"]
    assert (await retry(gateway, **{"from": "start"}))["retried"] == 1


async def test_who_comes_too_late_for_a_job_is_told_so(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    retried, erased, left = [await ended(gateway) for _ in range(3)]
    retry_many = JobStore.retry_many

    async def late(self: JobStore, tenant: str, job_ids: Any, start: Any) -> Any:
        await self.retry(tenant, retried)
        await self.erase(tenant, erased)
        return await retry_many(self, tenant, job_ids, start)

    monkeypatch.setattr(JobStore, "retry_many", late)
    answer = await retry(gateway)
    assert answer["retried"] == 1
    outcomes = [(item["status"], item.get("error", {}).get("code")) for item in answer["items"]]
    assert outcomes == [("queued", "job_not_retryable"), (None, "job_not_found"), ("queued", None)]
    assert (await gateway.get(f"/jobs/{retried}")).json()["round"] == 2
    assert (await gateway.get(f"/jobs/{left}")).json()["round"] == 2


async def test_a_job_that_redis_has_no_room_for_is_told_of_alone(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        await ended(gateway)

    async def half_full(self: JobStore, tenant: str, job_ids: Any, start: Any) -> Any:
        return [("queued", "queued"), StoreFull("OOM"), ValueError("a bug")]

    monkeypatch.setattr(JobStore, "retry_many", half_full)
    answer = await retry(gateway)
    assert answer["retried"] == 1
    assert [item.get("error", {}).get("code") for item in answer["items"]] == [None, "store_full", "internal_error"]
    assert [item["status"] for item in answer["items"]] == ["queued", "failed", "failed"]
    assert "a bug" not in str(answer)


async def test_the_jobs_of_a_call_are_retried_in_one_round_trip(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = [await ended(gateway) for _ in range(5)]
    calls: list[int] = []
    retry_many = JobStore.retry_many

    async def counted(self: JobStore, tenant: str, job_ids: Any, start: Any) -> Any:
        calls.append(len(job_ids))
        return await retry_many(self, tenant, job_ids, start)

    monkeypatch.setattr(JobStore, "retry_many", counted)
    assert ids(await retry(gateway, limit=1000)) == failed
    assert calls == [5]


async def test_the_jobs_of_other_tenants_are_left_alone(gateway: Gateway) -> None:
    job_id = "f" * 32
    await gateway.jobs.submit(NewJob(tenant="other", id=job_id, graph="echo", payload=b"{}", max_attempts=3))
    await gateway.worker.run("failed", b"", error=error("timeout"))
    assert ids(await retry(gateway, status=["failed", "cancelled"])) == []
    assert await gateway.jobs.statuses([f"other:{job_id}"]) == {f"other:{job_id}": "failed"}


async def test_a_record_without_a_readable_error_has_no_code(gateway: Gateway, redis: Redis) -> None:
    jobs = [await ended(gateway) for _ in range(4)]
    for job_id, stored in zip(jobs, (b"{", b"[]", b'{"code":7}', b"{}"), strict=True):
        await redis.hset(key("job", ref("default", job_id)), "error", stored)  # type: ignore[misc]
    answer = await retry(gateway, dry_run=True)
    assert [item["error_code"] for item in answer["items"]] == [None] * 4
    assert ids(await retry(gateway, error_code=["graph_error"], dry_run=True)) == []


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        (b"", ""), (None, ""), ([], ""), ({"statuses": ["failed"]}, "/statuses"), ({"id": ["x"]}, "/id"),
        ({"status": ["running"]}, "/status/0"), ({"status": []}, "/status"), ({"status": "failed"}, "/status"),
        ({"status": None}, "/status"), ({"graph": []}, "/graph"), ({"graph": ["a:b"]}, "/graph/0"),
        ({"graph": ["g"] * 51}, "/graph"), ({"error_code": []}, "/error_code"), ({"error_code": [""]}, "/error_code/0"),
        ({"error_code": ["x" * 65]}, "/error_code/0"), ({"error_code": "timeout"}, "/error_code"),
        ({"created_after": "now"}, "/created_after"), ({"created_after": "2026-01-01T00:00:00"}, "/created_after"),
        ({"created_before": "2026-01-01T00:00:00"}, "/created_before"), ({"limit": 0}, "/limit"),
        ({"limit": 1001}, "/limit"), ({"limit": None}, "/limit"), ({"from": "end"}, "/from"),
        ({"cursor": "x" * 201}, "/cursor"), ({"dry_run": "perhaps"}, "/dry_run"), ({"dry_run": None}, "/dry_run"),
    ],
)  # fmt: skip
async def test_a_wrong_filter_is_refused_and_retries_nothing(gateway: Gateway, body: Any, pointer: str) -> None:
    job_id = await ended(gateway)
    answer = await gateway.post("/jobs/retry", body)
    assert [found["pointer"] for found in problem(answer, 422, "validation_error")["errors"]] == [pointer]
    assert await statuses(gateway, job_id) == ["failed"]


async def test_a_cursor_that_no_list_gave_is_refused(gateway: Gateway) -> None:
    job_id = await ended(gateway)
    problem(await gateway.post("/jobs/retry", {"cursor": "x"}), 422, "invalid_cursor")
    assert await statuses(gateway, job_id) == ["failed"]


@pytest.mark.parametrize("at", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00", rfc3339(0)])
async def test_any_time_with_a_zone_is_taken(gateway: Gateway, at: str) -> None:
    job_id = await ended(gateway)
    for name in ("created_after", "created_before"):
        assert ids(await retry(gateway, **{name: at, "dry_run": True})) in ([], [job_id])
        assert (await gateway.get("/jobs", **{name: at})).status_code == 200
