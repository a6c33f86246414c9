"""A request that is sent again: as it was answered before, whatever has changed since."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.idempotency import keyed
from tests.unit.gateway.conftest import LENIENT, Gateway, MakeGateway, problem

ONE = {"graph": "echo", "input": 1}
VISIBLE = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1)


async def test_an_answer_stands_when_its_graph_has_changed_and_its_job_is_gone(make_gateway: MakeGateway) -> None:
    async with make_gateway() as gateway:
        await gateway.registry.publish({"echo": LENIENT}, {})
        first = await gateway.post("/jobs", ONE, idempotency_key="k")
        batch = await gateway.post("/jobs/batch", {"jobs": [ONE, {"graph": "nosuch", "input": 1}]}, idempotency_key="b")
        await gateway.registry.publish({"echo": {**LENIENT, "input_schema": {"type": "string"}}}, {})
        gateway.services.catalogue.invalidate()
        problem(await gateway.post("/jobs", ONE), 422, "invalid_input")
        for job_id in (first.json()["id"], batch.json()["items"][0]["id"]):
            await gateway.jobs.cancel("default", job_id)
            await gateway.jobs.erase("default", job_id)
        again = await gateway.post("/jobs", ONE, idempotency_key="k")
        assert (again.status_code, again.content) == (202, first.content)
        assert (again.headers["location"], again.headers["idempotent-replayed"]) == (first.headers["location"], "true")
        whole = await gateway.post("/jobs/batch", {"jobs": [ONE, {"graph": "nosuch", "input": 1}]}, idempotency_key="b")
        assert whole.content == batch.content
        assert (await gateway.get("/jobs")).json()["items"] == []


async def test_what_was_refused_of_a_request_is_tried_again(gateway: Gateway) -> None:
    jobs = {"jobs": [ONE, {"graph": "late", "input": 1}]}
    first = (await gateway.post("/jobs/batch", jobs, idempotency_key="b")).json()["items"]
    assert first[1]["error"]["code"] == "unknown_graph"
    problem(await gateway.post("/jobs", jobs["jobs"][1], idempotency_key="k"), 422, "unknown_graph")
    await gateway.registry.publish({"echo": LENIENT, "late": LENIENT}, {})
    gateway.services.catalogue.invalidate()
    second = (await gateway.post("/jobs/batch", jobs, idempotency_key="b")).json()["items"]
    assert (second[0], second[1]["status"]) == (first[0], "queued")
    assert (await gateway.post("/jobs", jobs["jobs"][1], idempotency_key="k")).status_code == 202


@pytest.mark.parametrize("key", ["order-4711", "!", '"', 'a"b', "x" * 255])
async def test_a_key_is_any_visible_text(gateway: Gateway, key: str) -> None:
    first, second = [await gateway.post("/jobs", ONE, idempotency_key=key) for _ in range(2)]
    assert (first.status_code, second.content) == (202, first.content)


@pytest.mark.parametrize("key", ["", "two words", "tab\there", "x" * 256, "caf\xe9"])
async def test_another_key_is_refused(gateway: Gateway, key: str) -> None:
    answer = await gateway.http.post("/api/v1/jobs", json=ONE, headers=[(b"idempotency-key", key.encode("latin-1"))])
    problem(answer, 422, "validation_error")


async def test_a_key_in_quotes_is_the_same_key(gateway: Gateway) -> None:
    first, second = [await gateway.post("/jobs", ONE, idempotency_key=key) for key in ("k-1", '"k-1"')]
    assert second.content == first.content
    spaced = await gateway.post("/jobs", ONE, idempotency_key='"two words"')
    assert (spaced.status_code, spaced.json()["id"] == first.json()["id"]) == (202, False)


@given(VISIBLE)
def test_what_stands_in_quotes_is_the_key_itself(content: str) -> None:
    quoted = '"' + content.replace("\\", "\\\\").replace('"', '\\"') + '"'
    assert keyed(quoted, {}).key == content


@given(VISIBLE.filter(lambda text: " " not in text and '"' not in text))
def test_what_has_no_quotes_is_the_key_itself(content: str) -> None:
    assert keyed(content, {}).key == content
