"""POST /jobs/batch: one round trip, and an answer for each job."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from gateway import limits
from shared.store import JobStore, Registry, StoreFull, Submitted
from tests.unit.gateway.conftest import BROKEN, LENIENT, Gateway, MakeGateway, problem

GOOD = {"graph": "echo", "input": 1}


async def test_a_bad_job_does_not_refuse_the_rest(gateway: Gateway) -> None:
    jobs: list[Any] = [
        GOOD, {"graph": "nosuch", "input": 1}, "no job", {**GOOD, "surprise": 1}, {"graph": "strict", "input": {}},
        {**GOOD, "webhook": {"url": "http://10.0.0.1/"}}, {"graph": "broken", "input": 1}, GOOD,
    ]  # fmt: skip
    answer = await gateway.post("/jobs/batch", {"jobs": jobs})
    assert answer.status_code == 202
    items = answer.json()["items"]
    codes = [item["error"]["code"] if "error" in item else item["status"] for item in items]
    assert codes == [
        "queued", "unknown_graph", "validation_error", "validation_error", "invalid_input", "webhook_refused",
        "graph_failed_to_load", "queued",
    ]  # fmt: skip
    assert items[3]["error"]["errors"][0]["pointer"] == "/surprise"
    listed = (await gateway.get("/jobs")).json()["items"]
    assert {job["id"] for job in listed} == {items[0]["id"], items[-1]["id"]}


async def test_a_thousand_jobs_are_accepted_in_their_order_and_in_one_round_trip(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    submit_many = JobStore.submit_many

    async def counted(self: JobStore, jobs: Any) -> Any:
        calls.append(len(jobs))
        return await submit_many(self, jobs)

    monkeypatch.setattr(JobStore, "submit_many", counted)
    # The Redis in memory takes half a second for so many, and several where the machine is busy.
    monkeypatch.setattr(limits, "ANSWER_SECONDS", 30.0)
    answer = await gateway.post("/jobs/batch", {"jobs": [{"graph": "echo", "input": n} for n in range(1000)]})
    assert calls == [1000]
    ids = [item["id"] for item in answer.json()["items"]]
    assert len(set(ids)) == 1000
    first = await gateway.worker.run()
    assert (first.id, orjson.loads(first.payload)) == (ids[0], {"input": 0})


@pytest.mark.parametrize("jobs", [[], [GOOD] * 1001, {}, None])
async def test_a_batch_has_1_to_1000_jobs(gateway: Gateway, jobs: Any) -> None:
    answer = await gateway.post("/jobs/batch", {"jobs": jobs})
    assert problem(answer, 422, "validation_error")["errors"][0]["pointer"] == "/jobs"


async def test_unknown_graphs_cost_one_look_at_the_catalogue_not_one_each(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    await gateway.submit()
    reads: list[int] = []
    catalogue = Registry.catalogue

    async def counted(self: Registry) -> Any:
        reads.append(1)
        return await catalogue(self)

    monkeypatch.setattr(Registry, "catalogue", counted)
    answer = await gateway.post("/jobs/batch", {"jobs": [{"graph": "nosuch", "input": 1}] * 100})
    assert {item["error"]["code"] for item in answer.json()["items"]} == {"unknown_graph"}
    assert len(reads) == 1


async def test_a_batch_sent_again_with_its_key_gives_the_same_jobs(gateway: Gateway) -> None:
    first = await gateway.post("/jobs/batch", {"jobs": [GOOD, GOOD]}, idempotency_key="batch-1")
    second = await gateway.post("/jobs/batch", {"jobs": [GOOD, GOOD]}, idempotency_key="batch-1")
    assert second.json() == first.json()
    assert len({item["id"] for item in first.json()["items"]}) == 2


@pytest.mark.parametrize("jobs", [[GOOD, {"graph": "echo", "input": 2}], [GOOD], [GOOD, GOOD, GOOD]])
async def test_another_batch_with_a_known_key_is_refused_whole(gateway: Gateway, jobs: list[Any]) -> None:
    first = await gateway.post("/jobs/batch", {"jobs": [GOOD, GOOD]}, idempotency_key="batch-1")
    refused = await gateway.post("/jobs/batch", {"jobs": jobs}, idempotency_key="batch-1")
    assert (refused.status_code, refused.json()["code"]) == (422, "idempotency_key_reused")
    single = await gateway.post("/jobs", GOOD, idempotency_key="batch-1")
    assert (single.status_code, single.json()["code"]) == (422, "idempotency_key_reused")
    listed = (await gateway.get("/jobs")).json()["items"]
    assert {item["id"] for item in listed} == {item["id"] for item in first.json()["items"]}


async def test_a_job_that_redis_has_no_room_for_says_so_for_itself(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def half_full(self: JobStore, jobs: Any) -> list[Submitted | Exception]:
        return [Submitted("created", jobs[0].id, "queued", 0), StoreFull("OOM"), ValueError("a bug")]

    monkeypatch.setattr(JobStore, "submit_many", half_full)
    items = (await gateway.post("/jobs/batch", {"jobs": [GOOD] * 3})).json()["items"]
    assert items[0]["status"] == "queued"
    assert [item["error"]["code"] for item in items[1:]] == ["store_full", "internal_error"]
    assert "a bug" not in str(items)


async def test_a_batch_with_nothing_to_accept_asks_redis_for_nothing(make_gateway: MakeGateway) -> None:
    async with make_gateway() as gateway:
        await gateway.registry.publish({"echo": LENIENT}, {"broken": BROKEN})
        answer = await gateway.post("/jobs/batch", {"jobs": [{"graph": "broken", "input": 1}]})
        assert answer.json()["items"][0]["error"]["code"] == "graph_failed_to_load"
