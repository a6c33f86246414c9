"""Connections to Redis that are killed, or hang without being closed: no effect but a moment."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.acceptance.conftest import GRAPHS, Service
from tests.proxies import Proxy
from tests.servers import Processes, Valkey, wait_until
from tests.store_audit import audit
from tests.submitters import Submitters
from tests.traced import Trace

LEASE_SECONDS = 4.0
# A gateway gives Redis two seconds for a request, and lets go of all connections once one hangs.
GATEWAY_SECONDS = 2.0
# An idle worker's blocking read hangs for three seconds, the claim after it for five.
WORKER_SECONDS = 8.5
SLACK_SECONDS = 2.0


class Wires:
    """The gateway's connections to Redis, and the worker's."""

    def __init__(self, service: Service, gateway: Proxy, worker: Proxy) -> None:
        self.service = service
        self.gateway = gateway
        self.worker = worker


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    server = Valkey(tmp_path / "valkey")
    yield server
    server.stop()


@pytest.fixture
def wires(processes: Processes, valkey: Valkey) -> Iterator[Wires]:
    with Proxy(valkey.url) as gateway, Proxy(valkey.url) as worker:
        service = Service(processes, gateway.url)
        service.redis_url = worker.url
        with service.client:
            service.start_workers(1, LEASE_SECONDS=str(LEASE_SECONDS))
            yield Wires(service, gateway, worker)


@pytest.fixture
def service(processes: Processes, valkey: Valkey) -> Iterator[Service]:
    started = Service(processes, valkey.url)
    with started.client:
        started.start_workers(2, LEASE_SECONDS=str(LEASE_SECONDS))
        yield started


def test_killed_connections_and_flushed_scripts_cost_no_job_no_try_and_no_request(
    service: Service, valkey: Valkey, tmp_path: Path
) -> None:
    trace = Trace(tmp_path / "steps")
    held = [service.client.submit("traced", trace.input(hold=["first"]), max_attempts=1) for _ in range(4)]
    wait_until(lambda: len(trace.steps) == 4, what="they run")
    with ThreadPoolExecutor(4) as threads, valkey.client() as redis, Submitters([service.gateway]) as clients:
        polls = [threads.submit(service.client.job, job_id, 60) for job_id in held]
        for turn in range(8):
            seen = len(clients.accepted)
            redis.client_kill_filter(_type="pubsub")
            redis.client_kill_filter(_type="normal", skipme=True)
            redis.script_flush()
            wait_until(lambda seen=seen: len(clients.accepted) > seen + 10, what="jobs are accepted")  # type: ignore[misc]
            time.sleep(0.3)  # a call bears one broken connection, not two
            if turn == 4:
                trace.let("first")
        ended = [poll.result() for poll in polls]
    assert {told.told for told in clients.refused} == set()
    assert clients.broken == []
    for job in ended:
        assert (job["status"], job["attempt"], job["tries"]) == ("succeeded", 1, 1)
    assert sorted(trace.steps) == ["first"] * 4 + ["second"] * 4
    others = service.client.wait_all(clients.accepted)
    assert [job for job in others if (job["status"], job["tries"]) != ("succeeded", 1)] == []
    with valkey.client() as redis:
        assert audit(redis) == []


def test_a_gateway_whose_connections_hang_is_well_again_after_one_moment(wires: Wires) -> None:
    """All at once, as when a firewall forgets them: a request may fail for each of those under way, and none after."""
    service = wires.service
    with ThreadPoolExecutor(32) as threads:  # so that there are many connections
        list(threads.map(lambda number: service.client.run("echo", {"value": number}), range(200)))
    with Submitters([service.gateway], 4) as clients:
        wait_until(lambda: len(clients.accepted) > 20, what="jobs are accepted")
        wires.gateway.swallow()
        hung_at = time.monotonic()
        time.sleep(GATEWAY_SECONDS + SLACK_SECONDS)
        assert len(clients.refused) <= 2 * 4
        assert {one.told for one in clients.refused} <= {(503, "store_unavailable", True)}
        seen = len(clients.refused)
        with ThreadPoolExecutor(32) as threads:  # no connection of before is left to be found dead
            answers = list(threads.map(lambda _: service.client.http.get("/jobs").status_code, range(200)))
        assert set(answers) == {200}
        assert len(clients.refused) == seen
    assert all(one.at - hung_at < GATEWAY_SECONDS + SLACK_SECONDS for one in clients.refused)
    assert {job["status"] for job in service.client.wait_all(clients.accepted)} == {"succeeded"}


def test_a_long_poll_outlives_the_subscription_that_hangs(wires: Wires, tmp_path: Path) -> None:
    service = wires.service
    trace = Trace(tmp_path / "steps")
    job_id = service.client.submit("traced", trace.input(hold=["first"]))
    wait_until(lambda: trace.steps == ["first"], what="it runs")
    with ThreadPoolExecutor(1) as threads:
        poll = threads.submit(service.client.http.get, f"/jobs/{job_id}", params={"wait": 60})
        time.sleep(0.5)
        wires.gateway.swallow()
        trace.let("first")
        ended_at = time.monotonic()
        answer = poll.result(30)
        took = time.monotonic() - ended_at
    assert took < 4 + SLACK_SECONDS  # the subscription is asked after two seconds of silence, and given two more
    if answer.status_code == 200:
        assert answer.json()["status"] == "succeeded"
    else:
        assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
    assert service.client.job(job_id, wait=10)["status"] == "succeeded"


@pytest.mark.parametrize("idle", [True, False], ids=["idle", "at work"])
def test_a_worker_whose_connections_hang_loses_no_try_and_goes_on_soon(
    wires: Wires, valkey: Valkey, tmp_path: Path, idle: bool
) -> None:
    service = wires.service
    # One that takes back what is lost, and no other work.
    settings = {"GRAPHS_CONFIG": GRAPHS, "LEASE_SECONDS": str(LEASE_SECONDS), "WORKER_QUEUES": "other"}
    service.wait_for(service.processes.worker(valkey.url, **settings))
    time.sleep(LEASE_SECONDS / 3 + 1)  # from then on it may
    trace = Trace(tmp_path / "steps")
    held: list[str] = []
    if not idle:
        held = [service.client.submit("traced", trace.input(hold=["first"]), max_attempts=1) for _ in range(6)]
        wait_until(lambda: len(trace.steps) == 6, what="they run")
    wires.worker.swallow()
    hung_at = time.monotonic()
    job = service.client.run("echo", {"value": 1})
    took = time.monotonic() - hung_at
    assert (job["status"], job["tries"]) == ("succeeded", 1)
    assert took < WORKER_SECONDS + SLACK_SECONDS
    time.sleep(max(0.0, hung_at + 2 * LEASE_SECONDS - time.monotonic()))
    trace.let("first")
    for job in service.client.wait_all(held):
        assert (job["status"], job["attempt"], job["tries"]) == ("succeeded", 1, 1)
    assert sorted(trace.steps) == ["first"] * len(held) + ["second"] * len(held)
