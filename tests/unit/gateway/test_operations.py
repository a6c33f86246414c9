"""Graphs, workers, health and metrics."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import fakeredis
import pytest
from redis import Redis as SyncRedis
from redis.asyncio import Redis

from shared.store import KeeperStore, connect
from shared.store.safety import Safety
from tests.servers import free_port
from tests.unit.gateway.conftest import BROKEN, STRICT, Gateway, MakeGateway, problem


@pytest.fixture
def beat(fake_server: fakeredis.FakeServer) -> Iterator[Any]:
    """Says that a worker lives."""
    with fakeredis.FakeRedis(server=fake_server) as client:

        def send(worker: str, *graphs: str) -> KeeperStore:
            keeper = KeeperStore(_as_redis(client), worker)
            keeper.heartbeat({"id": worker, "host": "h", "pid": 7, "graphs": list(graphs), "running": []}, 10)
            return keeper

        yield send


def _as_redis(client: Any) -> SyncRedis:
    return client  # type: ignore[no-any-return]


def _away() -> Any:
    return connect(f"redis://127.0.0.1:{free_port()}/0")


async def test_the_catalogue_tells_schemas_errors_and_who_serves_a_graph_now(gateway: Gateway, beat: Any) -> None:
    beat("w1", "strict")
    beat("w2", "strict", "echo")
    graphs = {graph["id"]: graph for graph in (await gateway.get("/graphs")).json()["items"]}
    assert set(graphs) == {"broken", "echo", "strict"}
    assert graphs["strict"] == {**STRICT, "error": None, "workers": ["w1", "w2"]}
    assert graphs["broken"] == {"id": "broken", "error": BROKEN, "workers": []}
    assert (await gateway.get("/graphs/strict")).json() == graphs["strict"]
    problem(await gateway.get("/graphs/nosuch"), 404, "graph_not_found")
    problem(await gateway.get("/graphs/%00"), 404, "graph_not_found")


async def test_workers_are_listed_while_they_live(gateway: Gateway, beat: Any) -> None:
    assert (await gateway.get("/workers")).json() == {"items": [], "next_cursor": None}
    keeper = beat("w1", "echo")
    assert [worker["id"] for worker in (await gateway.get("/workers")).json()["items"]] == ["w1"]
    keeper.farewell()
    assert (await gateway.get("/workers")).json()["items"] == []


def _set_up(monkeypatch: pytest.MonkeyPatch, *unsafe: str, unknown: tuple[str, ...] = ()) -> None:
    async def look(_: Redis, *, wait_replicas: int) -> Safety:
        return Safety(unsafe, unknown)

    monkeypatch.setattr("gateway.routes.health.look_at_server", look)


async def test_health_is_ok_with_a_safe_redis_and_a_worker(
    gateway: Gateway, beat: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _set_up(monkeypatch)
    beat("w1", "echo")
    answer = await gateway.get("/health")
    assert answer.status_code == 200
    assert answer.json() == {
        "status": "ok",
        "parts": {"redis": {"status": "ok"}, "workers": {"status": "ok", "count": 1}},
    }


async def test_health_is_degraded_without_a_worker(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    _set_up(monkeypatch)
    answer = await gateway.get("/health")
    assert (answer.status_code, answer.json()["status"]) == (200, "degraded")
    assert answer.json()["parts"]["workers"]["status"] == "degraded"
    assert answer.json()["parts"]["redis"]["status"] == "ok"


async def test_health_is_degraded_on_a_redis_that_may_lose_jobs(
    gateway: Gateway, beat: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _set_up(monkeypatch, "one is off", "two is everysec", unknown=("three",))
    beat("w1", "echo")
    answer = await gateway.get("/health")
    assert (answer.status_code, answer.json()["status"]) == (200, "degraded")
    assert "one is off; two is everysec." in answer.json()["parts"]["redis"]["detail"]


async def test_health_is_ok_on_a_redis_that_keeps_its_settings_to_itself_and_says_so(
    gateway: Gateway, beat: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _set_up(monkeypatch, unknown=("appendfsync",))
    beat("w1", "echo")
    answer = (await gateway.get("/health")).json()
    assert (answer["status"], answer["parts"]["redis"]["status"]) == ("ok", "ok")
    assert "does not tell whether it is safe: appendfsync" in answer["parts"]["redis"]["detail"]


async def test_health_is_down_without_redis_while_the_process_lives(make_gateway: MakeGateway) -> None:
    async with make_gateway(redis=_away(), notices_redis=_away()) as gateway:
        health = await gateway.get("/health")
        assert (health.status_code, health.json()["status"]) == (503, "down")
        assert health.json()["parts"]["redis"]["status"] == "down"
        assert "127.0.0.1" not in health.text
        ready = await gateway.get("/health/ready")
        assert problem(ready, 503, "store_unavailable")
        assert ready.headers["retry-after"] == "1"
        live = await gateway.get("/health/live")
        assert (live.status_code, live.json()) == (200, {"status": "ok"})


async def test_ready_says_that_redis_answers(gateway: Gateway) -> None:
    assert (await gateway.get("/health/ready")).json() == {"status": "ok"}


async def test_metrics_count_requests_by_template_and_jobs_by_graph(gateway: Gateway) -> None:
    job_id = await gateway.submit("strict", {"count": 1})
    await gateway.get(f"/jobs/{job_id}")
    await gateway.http.request("BREW", "/api/v1/nowhere/at-all")
    text = (await gateway.http.get("/metrics")).text
    assert 'mas_http_requests_total{method="GET",route="/api/v1/jobs/{job_id}",status="200"}' in text
    assert 'mas_http_requests_total{method="OTHER",route="unmatched",status="404"}' in text
    assert 'mas_http_request_seconds_count{route="/api/v1/jobs"}' in text
    assert 'mas_jobs_submitted_total{graph="strict"}' in text
    assert 'mas_queue_depth{queue="default"} 1.0' in text
    assert 'mas_queue_oldest_seconds{queue="default"}' in text
    assert job_id not in text
    assert "nowhere" not in text


async def test_a_replayed_submit_is_not_counted_as_a_job(gateway: Gateway) -> None:
    def count(text: str) -> list[str]:
        return [line for line in text.splitlines() if line.startswith('mas_jobs_submitted_total{graph="echo"}')]

    await gateway.post("/jobs", {"graph": "echo", "input": 1}, idempotency_key="k")
    before = count((await gateway.http.get("/metrics")).text)
    await gateway.post("/jobs", {"graph": "echo", "input": 1}, idempotency_key="k")
    assert before == count((await gateway.http.get("/metrics")).text)
    assert len(before) == 1


async def test_metrics_are_answered_without_redis_too(make_gateway: MakeGateway) -> None:
    async with make_gateway(redis=_away(), notices_redis=_away()) as gateway:
        answer = await gateway.http.get("/metrics")
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/plain")
        assert "mas_http_requests_total" in answer.text
        assert "mas_queue_depth" not in answer.text
