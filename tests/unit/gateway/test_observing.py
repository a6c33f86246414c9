"""What every request gets: an id, and an answer even where our own code fails."""

from __future__ import annotations

import re
import signal
from typing import Any

import pytest
import structlog

from gateway.observe import Observe
from shared.store import JobStore, StoreFull
from tests.unit.gateway.conftest import Gateway, problem


async def test_each_answer_has_an_id_of_its_own_whatever_the_client_sends(gateway: Gateway) -> None:
    paths = ["/api/v1/graphs", "/nowhere", "/api/v1/jobs?limit=x", "/docs"]
    answers = [await gateway.http.get(path, headers={"x-request-id": "mine"}) for path in paths]
    ids = {answer.headers["x-request-id"] for answer in answers}
    assert len(ids) == len(paths)
    assert all(re.fullmatch(r"[0-9a-f]{32}", each) for each in ids)


async def test_a_bug_is_a_plain_500_and_the_log_knows_it_by_the_request_s_id(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any) -> None:
        raise RuntimeError("planted secret")

    monkeypatch.setattr(JobStore, "cancel", broken)
    with structlog.testing.capture_logs(processors=[structlog.contextvars.merge_contextvars]) as logs:
        answer = await gateway.post(f"/jobs/{'0' * 32}/cancel")
    problem(answer, 500, "internal_error")
    assert "planted" not in answer.text
    assert "Traceback" not in answer.text
    (line,) = [log for log in logs if log["log_level"] == "error"]
    assert line["request_id"] == answer.headers["x-request-id"]


async def test_a_full_redis_is_a_503_with_retry_after(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(*_: Any) -> None:
        raise StoreFull("OOM command not allowed")

    monkeypatch.setattr(JobStore, "submit", full)
    answer = await gateway.post("/jobs", {"graph": "echo", "input": 1})
    problem(answer, 503, "store_full")
    assert answer.headers["retry-after"] == "1"


async def test_what_takes_get_takes_head(gateway: Gateway) -> None:
    for path in ("/api/v1/health/live", "/api/v1/graphs", "/docs"):
        head, get = await gateway.http.head(path), await gateway.http.get(path)
        assert (head.status_code, head.headers["content-type"]) == (200, get.headers["content-type"])
    assert (await gateway.http.head("/nowhere")).status_code == 404
    assert 'method="HEAD",route="/docs",status="200"' in (await gateway.http.get("/metrics")).text


async def test_a_process_stops_itself_once_after_its_requests_and_a_tenth_more_at_most(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    raised: list[int] = []
    monkeypatch.setattr(signal, "raise_signal", raised.append)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def nothing(*_: Any) -> None:
        return None

    observed = Observe(app, recycle_after=100)
    assert 100 <= observed.recycle_at <= 110
    for answered in range(1, 200):
        await observed({"type": "http", "method": "GET", "path": "/", "headers": []}, nothing, nothing)
        assert raised == ([signal.SIGTERM] if answered >= observed.recycle_at else [])
    forever = Observe(app, recycle_after=0)
    for _ in range(300):
        await forever({"type": "http", "method": "GET", "path": "/", "headers": []}, nothing, nothing)
    assert len(raised) == 1
    assert len({Observe(app, recycle_after=100_000).recycle_at for _ in range(10)}) > 1, "not all at once"
