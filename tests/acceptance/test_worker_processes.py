"""`python -m worker --processes N`: one parent that keeps several workers, stopped, killed, or with one that dies."""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path

import psutil
import pytest

from tests.acceptance.conftest import Service
from tests.servers import Process, fetch, free_port, is_alive, wait_until
from tests.traced import Trace


def start(service: Service, count: int = 2, **environment: str) -> tuple[Process, list[int]]:
    """A parent and the process ids of its workers, which take jobs."""
    parent = service.start_worker(WORKER_PROCESSES=str(count), **environment)
    wait_until(lambda: len(workers_of(service, parent)) == count, 30, what="the workers are up")
    return parent, workers_of(service, parent)


def workers_of(service: Service, parent: Process) -> list[int]:
    """The process ids of this parent's workers that are on the list."""
    children = {child.pid for child in psutil.Process(parent.pid).children()}
    return sorted(children & {int(str(one["pid"])) for one in service.live_workers()})


def held_jobs(service: Service, trace: Trace, count: int, **fields: str) -> list[str]:
    """Jobs under way, which wait in their second step until it is let go."""
    jobs = [service.client.submit("traced", trace.input(hold=["second"]), **fields) for _ in range(count)]
    wait_until(lambda: len(trace.pids("second")) == count, 15, what="the jobs are in their second step")
    return jobs


def test_each_process_is_a_full_worker_with_a_metrics_port_of_its_own(shared_service: Service, tmp_path: Path) -> None:
    port = free_port()
    parent, pids = start(shared_service, WORKER_QUEUES="full", WORKER_CONCURRENCY="1", WORKER_METRICS_PORT=str(port))
    trace = Trace(tmp_path / "steps")
    jobs = held_jobs(shared_service, trace, 2, queue="full")
    assert sorted(trace.pids("second")) == pids
    for number in range(2):
        assert b"mas_jobs_running 1.0" in fetch(f"http://127.0.0.1:{port + number}/metrics")[1]
    trace.let("second")
    assert {job["status"] for job in shared_service.client.wait_all(jobs)} == {"succeeded"}
    assert parent.stop() == 0


def test_a_killed_process_comes_back_and_its_job_goes_on(shared_service: Service, tmp_path: Path) -> None:
    parent, pids = start(shared_service, WORKER_QUEUES="killed", LEASE_SECONDS="1")
    trace = Trace(tmp_path / "steps")
    (job,) = held_jobs(shared_service, trace, 1, queue="killed")
    (doomed,) = trace.pids("second")
    trace.let("second")
    os.kill(doomed, signal.SIGKILL)
    ended = shared_service.client.job(job, wait=15)
    assert (ended["status"], ended["attempt"]) == ("succeeded", 2)
    wait_until(lambda: len(workers_of(shared_service, parent)) == 2, 15, what="another worker is in its place")
    assert doomed in pids
    assert doomed not in workers_of(shared_service, parent)
    assert "was ended by SIGKILL; it is started again in 0.5 s" in parent.log
    assert parent.stop() == 0


def test_sigterm_hands_back_the_jobs_of_all_processes_and_a_second_signal_is_passed_on_too(
    shared_service: Service, tmp_path: Path
) -> None:
    parent, pids = start(shared_service, WORKER_QUEUES="stopped", WORKER_CONCURRENCY="1", DRAIN_SECONDS="600")
    trace = Trace(tmp_path / "steps")
    jobs = held_jobs(shared_service, trace, 2, queue="stopped")
    parent.send(signal.SIGTERM)
    wait_until(lambda: parent.log.count('"running": 1') == 2, 10, what="both have heard it")
    assert all(map(is_alive, pids))
    parent.send(signal.SIGTERM)
    assert parent.wait() == 0
    assert not any(map(is_alive, pids))
    for job in map(shared_service.client.job, jobs):
        assert (job["status"], job["attempt"], job["tries"]) == ("queued", 1, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such signal")
def test_the_workers_of_a_killed_parent_hand_their_jobs_back_and_go(shared_service: Service, tmp_path: Path) -> None:
    parent, pids = start(shared_service, WORKER_QUEUES="orphans", LEASE_SECONDS="600")
    trace = Trace(tmp_path / "steps")
    (job,) = held_jobs(shared_service, trace, 1, queue="orphans")
    parent.kill()
    wait_until(lambda: not any(map(is_alive, pids)), what="the workers are gone")
    record = shared_service.client.job(job)
    assert (record["status"], record["attempt"], record["tries"]) == ("queued", 1, 0)


def test_a_recycled_process_is_followed_by_another_at_once(shared_service: Service) -> None:
    parent, pids = start(shared_service, WORKER_QUEUES="recycled", WORKER_RECYCLE_JOBS="1")
    job = shared_service.client.run("two_nodes", {"messages": []}, queue="recycled")
    assert job["status"] == "succeeded"
    wait_until(
        lambda: len(now := workers_of(shared_service, parent)) == 2 and now != pids, 15, what="another is in its place"
    )
    assert "started again" not in parent.log
    assert parent.stop() == 0


def test_a_wrong_setting_that_only_one_worker_can_see_ends_all_with_status_2(shared_service: Service) -> None:
    port = free_port()
    with socket.create_server(("", port + 1)):  # the second worker's
        parent = shared_service.processes.python(
            "worker", "--processes", "2", REDIS_URL=shared_service.redis_url, WORKER_METRICS_PORT=str(port)
        )
        assert parent.wait(20) == 2
    assert f"WORKER_METRICS_PORT is wrong: cannot listen on 127.0.0.1:{port + 1}" in parent.log
    assert "started again" not in parent.log


def test_a_wrong_setting_that_the_parent_can_see_is_one_line_and_status_2(shared_service: Service) -> None:
    processes, url = shared_service.processes, shared_service.redis_url
    parent = processes.python("worker", "--processes", "2", REDIS_URL=url, WORKER_METRICS_PORT="65535")
    assert parent.wait() == 2
    assert parent.log == "WORKER_METRICS_PORT is wrong: each further one of WORKER_PROCESSES takes the next port\n"
    parent = processes.python("worker", "--processes", "0", REDIS_URL=url)
    assert parent.wait() == 2
    assert parent.log.startswith("WORKER_PROCESSES is wrong: ")
