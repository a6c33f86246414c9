"""Redis is killed, or hangs, under load: what was accepted ends well, and what runs notices nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.conftest import Service
from tests.servers import Process, Processes, Valkey, wait_until
from tests.store_audit import audit
from tests.submitters import Submitters
from tests.traced import Trace

LEASE_SECONDS = 1.5
CLIENTS = 8


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
        yield started


def test_no_accepted_job_is_lost_when_redis_is_killed_under_load_and_all_go_on_by_themselves(
    service: Service, valkey: Valkey, processes: Processes
) -> None:
    gateways = [service.gateway, processes.gateway(valkey.url).ready()]
    workers = service.start_workers(2, LEASE_SECONDS=str(LEASE_SECONDS))
    with Submitters(gateways, CLIENTS) as clients:
        for _ in range(2):
            seen = len(clients.accepted)
            wait_until(lambda seen=seen: len(clients.accepted) > seen + 50, what="jobs are accepted")  # type: ignore[misc]
            valkey.kill()
            refused = len(clients.refused)
            wait_until(lambda seen=refused: len(clients.refused) > seen + CLIENTS, what="they are told")  # type: ignore[misc]
            time.sleep(0.5)
            valkey.restart()
        seen = len(clients.accepted)
        wait_until(lambda: len(clients.accepted) > seen + 50, what="jobs are accepted again")
    ended = service.client.wait_all(clients.accepted)
    assert {job["status"] for job in ended} == {"succeeded"}
    assert {job["tries"] for job in ended} == {1}
    assert len(set(clients.accepted)) == len(clients.accepted)
    assert {one.told for one in clients.refused} == {(503, "store_unavailable", True)}
    assert clients.broken == []
    started = [*workers, *(gateway.process for gateway in gateways)]
    assert _alive(started)
    assert not any("Traceback" in process.log for process in started)
    with valkey.client() as redis:
        assert audit(redis) == []


@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_running_jobs_outlive_an_outage_of_three_leases_without_losing_a_try(
    service: Service, valkey: Valkey, tmp_path: Path, how: str
) -> None:
    """Some jobs end a step while Redis is away, some when it is back; workers that look for work were asking."""
    workers = service.start_workers(2, LEASE_SECONDS=str(LEASE_SECONDS))
    during, after = Trace(tmp_path / "during"), Trace(tmp_path / "after")
    long = {"graph": "traced", "max_attempts": 1}
    ids = {}
    for trace in (during, after):
        held = trace.input(hold=["first"])
        ids[trace] = [service.client.submit(**long, input=held) for _ in range(4)]
        ids[trace].append(service.client.submit(**long, input=held, thread_id=trace.path.name))
    wait_until(lambda: len(during.steps) == len(after.steps) == 5, what="they run")
    with Submitters([service.gateway]) as clients:  # so that claims are under way
        wait_until(lambda: len(clients.accepted) > 20, what="others run beside them")
        valkey.kill() if how == "killed" else valkey.process.pause()
        away_since = time.monotonic()
        during.let("first")
        time.sleep(max(0.0, away_since + 3 * LEASE_SECONDS - time.monotonic()))
        valkey.restart() if how == "killed" else valkey.process.resume()
        seen = len(clients.accepted)
        wait_until(lambda: len(clients.accepted) > seen + 20, what="others run again")
        time.sleep(1.5 * LEASE_SECONDS)  # what is to be taken away is, by then
    after.let("first")
    for trace, jobs in ids.items():
        for job in service.client.wait_all(jobs):
            assert (job["status"], job["attempt"], job["tries"]) == ("succeeded", 1, 1), job
        assert sorted(trace.steps) == ["first"] * 5 + ["second"] * 5
    assert {job["status"] for job in service.client.wait_all(clients.accepted)} == {"succeeded"}
    assert _alive(workers)
    with valkey.client() as redis:
        assert audit(redis) == []


def _alive(processes: list[Process]) -> bool:
    return all(process.status is None for process in processes)
