"""A Redis that is killed, hangs, or drops its connections: said at once, and over by itself."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from gateway.main import create_app
from shared.settings import Settings
from shared.store import JobStore, Registry, connect
from tests.servers import SECRET_KEY, Valkey

SLACK = 3.0  # seconds, for a machine that is busy: what is told apart is prompt, and held for a minute
ECHO = {"id": "echo", "input_schema": None, "context_schema": None}


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    server = Valkey(tmp_path / "valkey")
    yield server
    server.process.send(signal.SIGCONT)
    server.stop()


@pytest.fixture
async def app(valkey: Valkey) -> AsyncIterator[FastAPI]:
    made = create_app(Settings(redis_url=valkey.url, secret_key=SECRET_KEY, auth_required=False))  # type: ignore[arg-type]
    async with made.router.lifespan_context(made):
        await Registry(made.state.services.redis).publish({"echo": ECHO}, {})
        yield made


@pytest.fixture
async def http(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://x/api/v1") as client:
        yield client


async def _until(condition: Callable[[], Any], within: float = 10.0) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        await asyncio.sleep(0.01)


async def _submit(http: httpx.AsyncClient) -> str:
    answer = await http.post("/jobs", json={"graph": "echo", "input": 1})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


async def _held(app: FastAPI, http: httpx.AsyncClient, job_id: str) -> asyncio.Task[httpx.Response]:
    waiters = app.state.services.waiters
    before = len(waiters)
    poll = asyncio.create_task(http.get(f"/jobs/{job_id}?wait=60"))
    await _until(lambda: len(waiters) == before + 1)
    await asyncio.sleep(0.1)
    return poll


async def _run(valkey: Valkey) -> None:
    """A worker claims and ends one job."""
    async with connect(valkey.url) as redis:
        jobs = JobStore(redis, result_ttl_seconds=100)
        claim = await jobs.claim(
            "w", lease_seconds=10, limit=1, max_bytes=10**6, recover=False, queues=["default"], graphs=["echo"]
        )
        assert await jobs.finish("w", claim.jobs[0], "succeeded", output=b"1") == "done"


async def test_a_long_poll_is_answered_on_a_real_server(app: FastAPI, http: httpx.AsyncClient, valkey: Valkey) -> None:
    poll = await _held(app, http, await _submit(http))
    await _run(valkey)
    assert (await asyncio.wait_for(poll, 2)).json()["status"] == "succeeded"


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
async def test_while_redis_is_away_long_polls_and_all_else_answer_503_within_2_s(
    app: FastAPI, http: httpx.AsyncClient, valkey: Valkey, how: signal.Signals
) -> None:
    poll = await _held(app, http, await _submit(http))
    valkey.process.send(how)
    started = time.monotonic()
    answer = await asyncio.wait_for(poll, 10)
    assert time.monotonic() - started < 2 + SLACK
    assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
    started = time.monotonic()
    paths = ["/jobs", f"/jobs/{'0' * 32}?wait=60", "/workers", "/health/ready", "/health"]
    answers = await asyncio.gather(*(http.get(path) for path in paths for _ in range(20)))
    assert time.monotonic() - started < 2.5 + SLACK
    assert {answer.status_code for answer in answers} == {503}


async def test_after_an_outage_all_goes_on_by_itself(app: FastAPI, http: httpx.AsyncClient, valkey: Valkey) -> None:
    job_id = await _submit(http)
    valkey.kill()
    assert (await http.get(f"/jobs/{job_id}")).status_code == 503
    await asyncio.to_thread(valkey.restart)
    assert (await http.get(f"/jobs/{job_id}")).json()["status"] == "queued"
    poll = await _held(app, http, job_id)
    await _run(valkey)
    assert (await asyncio.wait_for(poll, 5)).json()["status"] == "succeeded"


async def test_a_job_that_ended_while_the_subscription_was_away_wakes_its_waiters(
    app: FastAPI, http: httpx.AsyncClient, valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.notices.RECONNECT_SECONDS", 0.5)
    polls = [await _held(app, http, await _submit(http)) for _ in range(2)]
    with valkey.client() as client:
        client.client_kill_filter(_type="pubsub")
    await _run(valkey)  # nobody hears of it
    done, waiting = await asyncio.wait(polls, timeout=5, return_when=asyncio.FIRST_COMPLETED)
    assert [poll.result().json()["status"] for poll in done] == ["succeeded"]
    assert len(waiting) == 1
    await _run(valkey)
    assert (await asyncio.wait_for(waiting.pop(), 5)).json()["status"] == "succeeded"


async def test_dropped_connections_and_a_flushed_script_cache_are_not_noticed(
    app: FastAPI, http: httpx.AsyncClient, valkey: Valkey
) -> None:
    poll = await _held(app, http, await _submit(http))
    for _ in range(5):
        with valkey.client() as client:
            client.client_kill_filter(_type="normal", skipme=True)
            client.script_flush()
        await _submit(http)
        assert (await http.get("/jobs")).status_code == 200
    assert not poll.done()
    await _run(valkey)
    assert (await asyncio.wait_for(poll, 5)).json()["status"] == "succeeded"


async def test_an_outage_of_half_a_second_does_not_end_a_wait(
    app: FastAPI, http: httpx.AsyncClient, valkey: Valkey
) -> None:
    poll = await _held(app, http, await _submit(http))
    valkey.kill()
    await asyncio.sleep(0.4)
    await asyncio.to_thread(valkey.restart)
    assert not poll.done()
    await _run(valkey)
    assert (await asyncio.wait_for(poll, 5)).json()["status"] == "succeeded"


async def test_health_on_a_safe_server_finds_nothing_but_the_missing_worker(http: httpx.AsyncClient) -> None:
    health = (await http.get("/health")).json()
    assert health["parts"]["redis"] == {"status": "ok"}
    assert health["parts"]["workers"]["status"] == "degraded"


@pytest.mark.parametrize(
    ("setting", "value"), [("appendfsync", "everysec"), ("appendonly", "no"), ("maxmemory-policy", "allkeys-lru")]
)
async def test_health_tells_an_unsafe_server(http: httpx.AsyncClient, valkey: Valkey, setting: str, value: str) -> None:
    with valkey.client() as client:
        client.config_set(setting, value)
    health = await http.get("/health")
    assert (health.status_code, health.json()["parts"]["redis"]["status"]) == (200, "degraded")
    assert setting in health.json()["parts"]["redis"]["detail"]


async def test_a_full_server_takes_no_job_and_says_so(http: httpx.AsyncClient, valkey: Valkey) -> None:
    with valkey.client() as client:
        client.config_set("maxmemory", "1")
        answer = await http.post("/jobs", json={"graph": "echo", "input": 1})
        assert (answer.status_code, answer.json()["code"]) == (503, "store_full")
        assert answer.headers["retry-after"] == "1"
        batch = await http.post("/jobs/batch", json={"jobs": [{"graph": "echo", "input": 1}] * 2})
        assert [item["error"]["code"] for item in batch.json()["items"]] == ["store_full"] * 2
        client.config_set("maxmemory", "0")
    assert (await http.get("/jobs")).json()["items"] == []
