"""Limits as an operator sets them, on real processes: by key, and of what a tenant runs at once."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime

import httpx
import pytest

from tests.acceptance.conftest import GRAPHS, Service
from tests.servers import PROJECT, Gateway, Processes, wait_until

NewKey = Callable[..., httpx.Client]


@pytest.fixture
def guarded(processes: Processes, valkey_url: str) -> Gateway:
    return processes.gateway(valkey_url, AUTH_REQUIRED="true", RATE_LIMIT_PER_MINUTE="5").ready()


@pytest.fixture
def new_key(guarded: Gateway, valkey_url: str) -> NewKey:
    """A client with a key of its own."""

    def make(tenant: str, scopes: str = "jobs:read,jobs:write") -> httpx.Client:
        arguments = ("create", "--tenant", tenant, "--name", "test", "--scopes", scopes)
        environment = {"PATH": "/usr/bin:/bin", "REDIS_URL": valkey_url, "PYTHONPATH": str(PROJECT)}
        command = [sys.executable, "-m", "gateway", "keys", *arguments]
        made = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd="/", timeout=60)
        return httpx.Client(
            base_url=guarded.api, trust_env=False, timeout=70, headers={"X-Api-Key": made.stdout.splitlines()[-1]}
        )

    return make


def known(client: httpx.Client) -> None:
    """Wait until the gateway knows the key; what it does not know does not count."""
    wait_until(lambda: client.get("/jobs").status_code == 200, 5, what="the key is known")


def test_one_keys_limit_is_not_anothers_and_an_operator_raises_that_of_a_tenant(new_key: NewKey) -> None:
    one, two, other = new_key("acme"), new_key("acme"), new_key("other")
    operator = new_key("operators", "ops")
    for client in (one, two, other):
        known(client)
        assert [client.get("/jobs").status_code for _ in range(6)] == [200] * 4 + [429] * 2
        answer = client.get("/jobs")
        assert answer.json()["code"] == "rate_limited"
        assert answer.headers["ratelimit"] == f'"minute";r=0;t={answer.headers["retry-after"]}'
    wait_until(lambda: operator.get("/tenants").status_code == 200, 5, what="the operator's key is known")
    raised = operator.put("/tenants/acme/limits", json={"requests_per_minute": 10})
    assert raised.status_code == 200
    for client in (one, two):
        wait_until(lambda client=client: client.get("/jobs").status_code == 200, 5, what="the limit is known")
        assert [client.get("/jobs").status_code for _ in range(5)] == [200] * 4 + [429]
    assert other.get("/jobs").status_code == 429
    assert other.get("/health/live").status_code == 200
    for client in (one, two, other, operator):
        client.close()


def test_a_tenant_runs_as_many_jobs_as_it_may_and_each_that_ends_lets_the_next_one_start(service: Service) -> None:
    put = service.client.http.put("/tenants/default/limits", json={"max_running": 2})
    assert put.status_code == 200, put.text
    service.start_workers(3, WORKER_CONCURRENCY="4", GRAPHS_CONFIG=GRAPHS)
    jobs = [service.client.submit("sleeper", {"seconds": 0.3}) for _ in range(12)]
    most = 0

    def all_ended() -> bool:
        nonlocal most
        running = service.client.http.get("/jobs", params={"status": "running", "limit": 100}).json()["items"]
        most = max(most, len(running))
        return not service.client.http.get("/jobs", params={"status": "queued,running"}).json()["items"]

    started = time.monotonic()
    wait_until(all_ended, 40, what="all jobs have ended")
    took = time.monotonic() - started
    assert most == 2
    assert took > 6 * 0.3 * 0.9, "twelve jobs, two at a time"
    assert {job["status"] for job in service.client.wait_all(jobs)} == {"succeeded"}


def test_a_place_that_is_free_wakes_the_worker_of_another_queue(service: Service) -> None:
    service.client.http.put("/tenants/default/limits", json={"max_running": 1})
    service.wait_for(*(service.start_worker(GRAPHS_CONFIG=GRAPHS, WORKER_QUEUES=queue) for queue in ("a", "b")))
    gaps = []
    for _ in range(5):
        first = service.client.submit("sleeper", {"seconds": 0.3}, queue="a")
        wait_until(lambda first=first: service.client.job(first)["status"] == "running", what="it runs")
        second = service.client.submit("sleeper", {"seconds": 0}, queue="b")
        ended, began = service.client.job(first, 30)["finished_at"], service.client.job(second, 30)["started_at"]
        gaps.append((datetime.fromisoformat(began) - datetime.fromisoformat(ended)).total_seconds())
    assert min(gaps) >= 0
    assert statistics.median(gaps) < 0.4, "by itself a worker looks once a second, here 0.7 s after the end"
