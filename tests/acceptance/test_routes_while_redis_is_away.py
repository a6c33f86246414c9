"""While Redis is away every route that needs it says so, promptly, and the others answer as ever."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.acceptance.conftest import Service
from tests.servers import Processes, Valkey, wait_until

PROMPT_SECONDS = 2.0
SLACK_SECONDS = 1.5  # for a machine that is busy
# What each operation with a body is sent, and those that do without Redis.
JOB = {"graph": "echo", "input": {"value": 1}}
BODIES: dict[str, Any] = {
    "POST /api/v1/jobs": JOB,
    "POST /api/v1/jobs/batch": {"jobs": [JOB, JOB]},
    "POST /api/v1/jobs/{job_id}/retry": {},
    "POST /api/v1/jobs/{job_id}/resume": {"value": 1},
    "POST /api/v1/jobs/retry": {},
    "POST /api/v1/webhooks": {"url": "http://127.0.0.1:1/hook"},
    "PATCH /api/v1/webhooks/{endpoint_id}": {"description": "new"},
    "POST /api/v1/webhooks/{endpoint_id}/rotate": {},
    "POST /api/v1/webhooks/addresses/enable": {"url": "http://127.0.0.1:1/hook"},
    "POST /api/v1/deliveries/redeliver": {},
    "PUT /api/v1/tenants/{tenant}/limits": {"max_running": 5},
}
WITHOUT_REDIS = {"GET /api/v1/health/live", "GET /metrics"}
OF_HEALTH = {"GET /api/v1/health"}  # a 503 too, with a document of its own
NOT_DESCRIBED = ["/docs", "/openapi.json"]  # neither needs Redis


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    server = Valkey(tmp_path / "valkey")
    yield server
    if server.process.status is None:
        server.process.resume()
    server.stop()


@pytest.fixture
def service(processes: Processes, valkey: Valkey) -> Iterator[Service]:
    started = Service(processes, valkey.url)
    with started.client:
        started.start_workers(1)
        yield started


class Caller:
    """Calls operations of the page with what makes each of them a good request, as far as Redis' answer."""

    def __init__(self, service: Service) -> None:
        client = service.client
        self.root, self.http = service.gateway.url, client.http
        job_id = client.run("echo", {"value": 1})["id"]
        endpoint = client.http.post("/webhooks", json={"url": "http://127.0.0.1:1/endpoint"}).json()["id"]
        names = {"job_id": job_id, "endpoint_id": endpoint, "delivery_id": f"{job_id}_1_succeeded", "graph_id": "echo"}
        names["tenant"] = "acme"
        self.names = names
        self.operations: list[str] = []
        for path, methods in self.http.get(f"{self.root}/openapi.json").json()["paths"].items():
            for method, described in methods.items():
                operation = f"{method.upper()} {path}"
                self.operations.append(operation)
                assert ("requestBody" in described) == (operation in BODIES), f"{operation}: what is it sent?"

    def call(self, operation: str, **query: str) -> tuple[httpx.Response, float]:
        """The answer, and how long it took."""
        method, _, path = operation.partition(" ")
        body = BODIES.get(operation)
        started = time.monotonic()
        answer = self.http.request(method, self.root + self._filled(path), json=self._filled(body), params=query)
        return answer, time.monotonic() - started

    def _filled(self, value: Any) -> Any:
        if isinstance(value, str):
            for name, given in self.names.items():
                value = value.replace("{" + name + "}", given)
            assert "{" not in value, f"{value}: needs a name"
            return value
        if isinstance(value, dict):
            return {name: self._filled(one) for name, one in value.items()}
        return [self._filled(one) for one in value] if isinstance(value, list) else value


def told(answer: httpx.Response) -> tuple[int, str, bool]:
    """Status, code, and whether the client is told when to come again."""
    return answer.status_code, answer.json().get("code", ""), "retry-after" in answer.headers


@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_every_route_that_needs_redis_answers_503_in_two_seconds_and_says_when_to_come_again(
    service: Service, valkey: Valkey, how: str
) -> None:
    caller = Caller(service)
    waiting = service.client.submit("sleeper", {"seconds": 600})
    with ThreadPoolExecutor(32) as threads:
        held = [threads.submit(caller.call, f"GET /api/v1/jobs/{waiting}", wait="60") for _ in range(10)]
        time.sleep(0.5)
        assert not any(poll.done() for poll in held)
        away_since = time.monotonic()
        valkey.kill() if how == "killed" else valkey.process.pause()
        polls = [poll.result() for poll in held]
        assert {told(answer) for answer, _ in polls} == {(503, "store_unavailable", True)}
        assert time.monotonic() - away_since < PROMPT_SECONDS + SLACK_SECONDS

        needing = [one for one in caller.operations if one not in WITHOUT_REDIS]
        assert len(needing) > 30
        answers = dict(zip(needing, threads.map(caller.call, needing), strict=True))
        answers["a new long poll"] = caller.call(f"GET /api/v1/jobs/{waiting}", wait="60")
        for operation, (answer, seconds) in answers.items():
            code = "" if operation in OF_HEALTH else "store_unavailable"
            assert (operation, *told(answer)) == (operation, 503, code, True)
            assert seconds < PROMPT_SECONDS + SLACK_SECONDS, operation
        assert statistics.median(seconds for _, seconds in answers.values()) < PROMPT_SECONDS + 0.2

        health = answers["GET /api/v1/health"][0].json()
        assert (health["status"], health["parts"]["redis"]["status"]) == ("down", "down")
        assert health["parts"]["redis"]["detail"] == "Redis cannot be reached."
        assert health["parts"]["connections"]["status"] == "ok"
        for operation in (*WITHOUT_REDIS, *(f"GET {path}" for path in NOT_DESCRIBED)):
            answer, seconds = caller.call(operation)
            assert (operation, answer.status_code) == (operation, 200)
            assert seconds < PROMPT_SECONDS + SLACK_SECONDS, operation

    valkey.restart() if how == "killed" else valkey.process.resume()
    wait_until(lambda: service.client.http.get("/health").json()["status"] == "ok", what="health is well again")
    for operation in ("GET /api/v1/jobs", "GET /api/v1/graphs", "POST /api/v1/jobs"):
        assert caller.call(operation)[0].status_code in (200, 202)
    service.client.http.post(f"/jobs/{waiting}/cancel")
    assert service.client.job(waiting, wait=20)["status"] == "cancelled"
    assert service.gateway.process.status is None
    assert "Traceback" not in service.gateway.process.log
