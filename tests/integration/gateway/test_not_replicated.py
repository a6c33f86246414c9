"""What a client is told while the replicas that `WAIT_REPLICAS` asks for are away."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.main import create_app
from shared.settings import Settings
from shared.store import Registry
from tests.servers import SECRET_KEY, Valkey, wait_until

ECHO = {"id": "echo", "input_schema": None, "context_schema": None}
JOB = {"graph": "echo", "input": 1}


@pytest.fixture
def master(tmp_path: Path) -> Iterator[Valkey]:
    server = Valkey(tmp_path / "master", repl_diskless_sync_delay="0")
    yield server
    server.stop()


@pytest.fixture
def replica(tmp_path: Path, master: Valkey) -> Iterator[Valkey]:
    server = Valkey(tmp_path / "replica", replicaof=f"127.0.0.1 {master.port}")
    with server.client() as client:
        wait_until(lambda: client.info("replication")["master_link_status"] == "up", what="the replica is in step")  # type: ignore[index]
    yield server
    server.process.resume()
    server.stop()


@pytest.fixture
async def http(master: Valkey, replica: Valkey) -> AsyncIterator[httpx.AsyncClient]:
    settings: dict[str, Any] = {"redis_url": master.url, "secret_key": SECRET_KEY, "auth_required": False}
    app = create_app(Settings(**settings, wait_replicas=1))
    async with app.router.lifespan_context(app):
        await Registry(app.state.services.redis).publish({"echo": ECHO}, {})
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://x/api/v1") as client:
            yield client


async def test_a_job_that_no_replica_has_is_503_with_retry_after_and_the_repetition_is_the_same_job(
    http: httpx.AsyncClient, replica: Valkey
) -> None:
    warm = await http.post("/jobs", json=JOB)
    assert warm.status_code == 202
    replica.process.pause()
    key = {"Idempotency-Key": "order-1"}
    answer = await http.post("/jobs", json=JOB, headers=key)
    assert (answer.status_code, answer.json()["code"]) == (503, "not_replicated")
    assert answer.headers["retry-after"] == "1"
    batch = (await http.post("/jobs/batch", json={"jobs": [JOB, JOB]})).json()
    assert [item["error"]["code"] for item in batch["items"]] == ["not_replicated"] * 2
    cancel = await http.post(f"/jobs/{warm.json()['id']}/cancel")
    assert (cancel.status_code, cancel.json()["code"]) == (503, "not_replicated")
    stored = {job["id"] for job in (await http.get("/jobs")).json()["items"]}
    replica.process.resume()
    again = await http.post("/jobs", json=JOB, headers=key)
    assert again.status_code == 202
    assert again.json()["id"] in stored
    assert {job["id"] for job in (await http.get("/jobs")).json()["items"]} == stored


async def test_health_says_that_too_few_replicas_are_connected(http: httpx.AsyncClient, replica: Valkey) -> None:
    assert (await http.get("/health")).json()["parts"]["redis"] == {"status": "ok"}
    replica.process.kill()
    health = await http.get("/health")
    assert (health.status_code, health.json()["parts"]["redis"]["status"]) == (200, "degraded")
    assert "WAIT_REPLICAS" in health.json()["parts"]["redis"]["detail"]
