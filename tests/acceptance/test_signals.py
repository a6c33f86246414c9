"""SIGTERM and SIGINT to workers whose nodes do not give way: each leaves in time, and hands back what it has."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from tests.acceptance.conftest import Service
from tests.servers import Process, is_alive, wait_until

GRACE_SECONDS = 1.0 + 0.5  # beyond DRAIN_SECONDS; the half second is this machine's


def notes(file: Path, what: str) -> int:
    """How often a node has noted this."""
    return len([line for line in file.read_text().splitlines() if line.startswith(what)])


def blocked(service: Service, file: Path, how: str = "sleep") -> list[str]:
    """Jobs that run on one worker, the last of which blocks its loop for good."""
    ids = [service.client.submit("sleeper", {"seconds": 3600}) for _ in range(2)]
    for job_id in ids:
        wait_until(lambda: service.client.job(job_id)["status"] == "running")  # noqa: B023 - called at once
    ids.append(service.client.submit("blocker", {"how": how, "seconds": 3600, "file": str(file)}))
    wait_until(lambda: notes(file, "blocks") == 1, what="the loop is blocked")
    return ids


def handed_back(service: Service, ids: list[str]) -> None:
    for job_id in ids:
        job = service.client.job(job_id)
        assert (job["status"], job["attempt"], job["tries"]) == ("queued", 1, 0)
    assert service.live_workers() == []


def seconds_to_end(worker: Process, *signals: signal.Signals, within: float = 20) -> float:
    """From the last of these signals to the worker's end, with status 0."""
    for number in signals[:-1]:
        worker.send(number)
        time.sleep(0.2)  # two signals of a kind that are not taken yet are one
    sent_at = time.monotonic()
    worker.send(signals[-1])
    assert worker.wait(within) == 0, worker.log
    return time.monotonic() - sent_at


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("how", ["sleep", "spin", "c"])
def test_a_signal_is_obeyed_on_a_blocked_loop(service: Service, lines: Path, how: str, number: signal.Signals) -> None:
    (worker,) = service.start_workers(1)
    ids = blocked(service, lines, how)
    assert seconds_to_end(worker, number) < GRACE_SECONDS
    handed_back(service, ids)


def test_a_signal_is_obeyed_on_a_blocked_loop_that_a_node_s_sys_exit_had_ended_before(
    service: Service, lines: Path
) -> None:
    (worker,) = service.start_workers(1)
    assert service.client.run("quitter", {"seconds": 1})["error"]["type"] == "SystemExit"
    ids = blocked(service, lines, "c")
    assert seconds_to_end(worker, signal.SIGTERM) < GRACE_SECONDS
    handed_back(service, ids)


def test_a_blocked_loop_has_drain_seconds_too_and_no_more(service: Service, lines: Path) -> None:
    (worker,) = service.start_workers(1, DRAIN_SECONDS="2")
    ids = blocked(service, lines)
    assert 2 <= seconds_to_end(worker, signal.SIGTERM) < 2 + GRACE_SECONDS
    handed_back(service, ids)


@pytest.mark.parametrize("how", ["sleep", "c"])
def test_a_second_signal_hands_back_at_once_on_a_blocked_loop(service: Service, lines: Path, how: str) -> None:
    (worker,) = service.start_workers(1, DRAIN_SECONDS="60")
    ids = blocked(service, lines, how)
    assert seconds_to_end(worker, signal.SIGTERM, signal.SIGTERM) < GRACE_SECONDS
    handed_back(service, ids)


def test_a_job_that_blocks_the_loop_and_ends_within_drain_seconds_succeeds(service: Service, lines: Path) -> None:
    (worker,) = service.start_workers(1, DRAIN_SECONDS="20")
    job_id = service.client.submit("blocker", {"how": "sleep", "seconds": 2, "file": str(lines)})
    wait_until(lambda: notes(lines, "blocks") == 1, what="the loop is blocked")
    assert seconds_to_end(worker, signal.SIGTERM) < 10
    assert service.client.job(job_id)["status"] == "succeeded"


def test_an_abandoned_sync_node_holds_up_no_exit_and_its_late_result_is_dropped(
    service: Service, lines: Path, tmp_path: Path
) -> None:
    (worker,) = service.start_workers(1)
    gate = tmp_path / "gate"
    node = {"file": str(lines), "gate": str(gate)}
    cancelled, timed_out = (
        service.client.submit("waiter", node),
        service.client.submit("waiter", node, limits={"seconds": 1}),
    )
    wait_until(lambda: notes(lines, "waits") == 2, what="both wait")
    assert service.client.http.post(f"/jobs/{cancelled}/cancel").status_code == 202
    before = service.client.wait_all([cancelled, timed_out])
    assert [job["status"] for job in before] == ["cancelled", "failed"]
    assert before[1]["error"]["code"] == "timeout"
    gate.touch()
    wait_until(lambda: notes(lines, "goes on") == 2, what="their threads end")
    gate.unlink()
    assert service.client.run("echo", {"value": 1})["status"] == "succeeded"
    assert service.client.wait_all([cancelled, timed_out]) == before

    running = service.client.submit("waiter", node)
    wait_until(lambda: notes(lines, "waits") == 3, what="the third waits")
    assert seconds_to_end(worker, signal.SIGTERM) < GRACE_SECONDS
    assert not is_alive(worker.pid)
    handed_back(service, [running])


def test_abandoned_sync_nodes_take_nobody_s_place(service: Service, lines: Path, tmp_path: Path) -> None:
    service.start_workers(1, WORKER_CONCURRENCY="1")
    for number in range(1, 8):
        job_id = service.client.submit("waiter", {"file": str(lines), "gate": str(tmp_path / "gate")})
        wait_until(lambda: notes(lines, "waits") == number, what="it waits")  # noqa: B023 - called at once
        assert service.client.http.post(f"/jobs/{job_id}/cancel").status_code == 202
    assert service.client.run("two_nodes", {"messages": "hi"})["status"] == "succeeded"
    assert notes(lines, "goes on") == 0


def test_a_node_that_refuses_to_be_cancelled_holds_up_no_exit_and_its_job_is_handed_back(
    service: Service, lines: Path, tmp_path: Path
) -> None:
    (worker,) = service.start_workers(1, LEASE_SECONDS="30")
    gate = tmp_path / "gate"
    job_id = service.client.submit("stubborn", {"file": str(lines), "gate": str(gate)})
    wait_until(lambda: notes(lines, "runs") == 1, what="it runs")
    assert seconds_to_end(worker, signal.SIGTERM) < 7  # five for the attempt to stop and the job to be handed back
    assert notes(lines, "refuses") >= 1
    handed_back(service, [job_id])
    gate.touch()
    service.start_workers(1)
    job = service.client.job(job_id, wait=30)
    assert (job["status"], job["attempt"], job["tries"]) == ("succeeded", 2, 1)


def test_a_node_that_blocks_the_loop_when_it_is_cancelled_holds_up_no_exit(
    service: Service, lines: Path, tmp_path: Path
) -> None:
    (worker,) = service.start_workers(1, LEASE_SECONDS="30")
    node = {"file": str(lines), "gate": str(tmp_path / "gate"), "how": "sleep", "seconds": 3600}
    job_id = service.client.submit("stubborn", node)
    wait_until(lambda: notes(lines, "runs") == 1, what="it runs")
    assert seconds_to_end(worker, signal.SIGTERM) < GRACE_SECONDS
    assert notes(lines, "refuses") == 1
    handed_back(service, [job_id])


def test_a_node_may_end_processes_that_it_has_forked(service: Service) -> None:
    (worker,) = service.start_workers(1)
    for _ in range(3):
        job = service.client.run("forker", {})
        assert (job["status"], job["output"]["status"]) == ("succeeded", -signal.SIGTERM)
    assert worker.status is None
    assert seconds_to_end(worker, signal.SIGTERM) < GRACE_SECONDS
