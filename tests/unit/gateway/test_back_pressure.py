"""A queue that has no room: 429 with `Retry-After`, for the job alone that had none."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from shared.metrics import exposition
from tests.unit.gateway.conftest import LENIENT, Gateway, MakeGateway, problem

ONE = {"graph": "echo", "input": 1}


@pytest.fixture
async def small(make_gateway: MakeGateway) -> AsyncIterator[Gateway]:
    """A gateway whose queues take two jobs, and its tenants three."""
    async with make_gateway(max_queue_depth=2, max_tenant_depth=3) as gateway:
        await gateway.registry.publish({"echo": LENIENT}, {})
        yield gateway


def refused(code: str) -> float:
    line = next((line for line in exposition().decode().splitlines() if f'reason="{code}"' in line), "0")
    return float(line.split()[-1])


async def test_a_full_queue_answers_429_with_retry_after_and_stores_nothing(small: Gateway) -> None:
    for _ in range(2):
        assert (await small.post("/jobs", ONE)).status_code == 202
    counted = refused("queue_full")
    answer = await small.post("/jobs", ONE, idempotency_key="k")
    document = problem(answer, 429, "queue_full")
    assert answer.headers["retry-after"] == str(document["retry_after"]) == "60"
    assert "MAX_QUEUE_DEPTH" in document["detail"]
    assert len((await small.get("/jobs")).json()["items"]) == 2
    assert refused("queue_full") == counted + 1
    await small.worker.run()
    assert (await small.post("/jobs", ONE, idempotency_key="k")).status_code == 202


async def test_once_it_drains_the_pace_is_told(small: Gateway) -> None:
    for _ in range(2):
        await small.post("/jobs", ONE)
    await small.worker.run()
    await small.post("/jobs", ONE)
    assert 1 <= int((await small.post("/jobs", ONE)).headers["retry-after"]) <= 10


async def test_a_tenant_s_queues_have_a_limit_together(small: Gateway) -> None:
    for queue in ("a", "b", "c"):
        assert (await small.post("/jobs", {**ONE, "queue": queue})).status_code == 202
    answer = await small.post("/jobs", {**ONE, "queue": "d"})
    assert "MAX_TENANT_DEPTH" in problem(answer, 429, "tenant_full")["detail"]


async def test_of_a_batch_the_jobs_are_taken_that_have_room(small: Gateway) -> None:
    sent = {"jobs": [ONE, ONE, ONE]}
    first = (await small.post("/jobs/batch", sent, idempotency_key="b")).json()["items"]
    assert [item.get("status") for item in first[:2]] == ["queued", "queued"]
    assert (first[2]["error"]["code"], first[2]["error"]["retry_after"]) == ("queue_full", 60)
    await small.worker.run()
    second = (await small.post("/jobs/batch", sent, idempotency_key="b")).json()["items"]
    assert (second[:2], second[2]["status"]) == (first[:2], "queued")


async def test_without_limits_there_are_none(make_gateway: MakeGateway) -> None:
    async with make_gateway(max_queue_depth=0, max_tenant_depth=0) as gateway:
        await gateway.registry.publish({"echo": LENIENT}, {})
        items = (await gateway.post("/jobs/batch", {"jobs": [ONE] * 500})).json()["items"]
        assert {item["status"] for item in items} == {"queued"}
