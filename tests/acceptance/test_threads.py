"""Jobs of one thread over HTTP, on several workers: one at a time, in order, whatever becomes of the one ahead."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from shared.store.keys import KEYS, digest, key
from tests.acceptance.conftest import Service
from tests.servers import Process, wait_until
from tests.store_audit import audit
from tests.thread_jobs import Thread

LEASE_SECONDS = 1.0


@pytest.fixture(scope="module")
def workers(shared_service: Service) -> list[Process]:
    return shared_service.start_workers(4, LEASE_SECONDS=str(LEASE_SECONDS))


@pytest.fixture(autouse=True)
def no_thread_stays_busy(shared_service: Service, workers: list[Process]) -> Iterator[None]:
    """After each test: no thread belongs to a job, none has a line, and all else that Redis has agrees."""
    yield
    with Redis.from_url(shared_service.redis_url) as redis:
        busy = (KEYS["thread"] + "*", KEYS["line"] + "*")
        wait_until(lambda: not any(redis.keys(pattern) for pattern in busy), what="all threads are free")
        assert audit(redis) == []


@pytest.fixture
def thread(shared_service: Service, request: pytest.FixtureRequest, tmp_path: Path) -> Thread:
    return Thread(shared_service, request.node.name, tmp_path)


def test_jobs_of_a_thread_run_one_at_a_time_in_order_on_several_workers(
    shared_service: Service, workers: list[Process], tmp_path: Path
) -> None:
    threads = [Thread(shared_service, f"of several {number}", tmp_path) for number in range(5)]
    for _ in range(6):
        for one in threads:
            one.submit(input={"seconds": 0.02})
    pids = set()
    for one in threads:
        jobs = one.in_turn(*one.traces)
        assert {(job["status"], job["attempt"]) for job in jobs} == {("succeeded", 1)}
        assert [len(job["output"]["trail"]) for job in jobs] == [2, 4, 6, 8, 10, 12]
        pids |= {pid for trace in one.traces.values() for _, pid in trace.starts}
    assert len(pids) > 1, "several workers took part"


def test_a_job_waits_while_the_one_ahead_backs_off(thread: Thread) -> None:
    failing = thread.submit(input={"fail": {"second": {"error": "connection"}}})
    ahead, *others = thread.in_turn(failing, thread.submit(), thread.submit())
    assert (ahead["status"], ahead["tries"]) == ("succeeded", 2)
    assert [job["status"] for job in others] == ["succeeded", "succeeded"]


def test_the_next_job_starts_when_the_one_ahead_is_cancelled(thread: Thread) -> None:
    ahead = thread.submit(hold=["first"])
    parked, last = thread.submit(), thread.submit()
    thread.has_started(ahead)
    assert thread.post(parked, "cancel")[0] == 202  # leaves the line
    assert thread.client.job(parked)["status"] == "cancelled"
    assert thread.post(ahead, "cancel")[0] == 202
    jobs = thread.in_turn(ahead, last)
    assert [job["status"] for job in jobs] == ["cancelled", "succeeded"]
    assert thread.traces[parked].steps == []


def test_a_job_waits_until_the_one_ahead_has_run_again_after_its_worker_was_killed(
    thread: Thread, workers: list[Process]
) -> None:
    ahead = thread.submit(hold=["second"])
    others = [thread.submit(), thread.submit()]
    thread.has_started(ahead, "second")
    (pid,) = thread.traces[ahead].pids("second")
    next(worker for worker in workers if worker.pid == pid).kill()
    wait_until(lambda: len(thread.traces[ahead].pids("second")) == 2, what="the job runs again")
    assert [thread.traces[job_id].steps for job_id in others] == [[], []]
    thread.let(ahead, "second")
    jobs = thread.in_turn(ahead, *others)
    assert [(job["status"], job["attempt"]) for job in jobs] == [("succeeded", 2), ("succeeded", 1), ("succeeded", 1)]


def test_the_next_job_starts_when_the_one_ahead_has_lost_its_worker_for_the_last_time(thread: Thread) -> None:
    killing = thread.submit("killer", input={"how": "kill"}, max_attempts=1)
    ahead, job = thread.in_turn(killing, thread.submit())
    assert (ahead["status"], ahead["error"]["code"], job["status"]) == ("failed", "worker_lost", "succeeded")


def test_a_job_of_next_week_blocks_nobody(thread: Thread) -> None:
    later = thread.submit(delay_seconds=7 * 24 * 3600)
    assert thread.in_turn(thread.submit())[0]["status"] == "succeeded"
    assert thread.client.job(later)["status"] == "queued"
    assert thread.post(later, "cancel")[0] == 202


def test_a_delayed_job_takes_its_place_when_it_is_due(shared_service: Service, thread: Thread) -> None:
    ahead = thread.submit(hold=["first"])
    delayed = thread.submit(delay_seconds=0.5)
    soon = thread.submit()
    with Redis.from_url(shared_service.redis_url) as redis:
        line = key("line", "default", digest(thread.name))
        wait_until(lambda: redis.zcard(line) == 2, what="the delayed job is due")
    thread.let(ahead, "first")
    thread.in_turn(ahead, soon, delayed)


def test_a_retried_job_goes_on_at_its_last_checkpoint_while_its_thread_has_not_moved_on(thread: Thread) -> None:
    job_id = thread.submit(input={"fail": {"second": {"error": "final"}}})
    assert thread.in_turn(job_id)[0]["status"] == "failed"
    assert thread.post(job_id, "retry") == (202, "")
    (job,) = thread.in_turn(job_id)
    assert (job["status"], job["round"]) == ("succeeded", 2)
    assert thread.traces[job_id].steps == ["first", "second", "second"]


def test_a_retried_job_joins_its_thread_at_the_end(thread: Thread) -> None:
    failed = thread.submit(input={"fail": {"first": {"error": "final"}}})
    assert thread.in_turn(failed)[0]["status"] == "failed"
    ahead, parked = thread.submit(hold=["first"]), thread.submit()
    thread.has_started(ahead)
    assert thread.post(failed, "retry", {"from": "start"}) == (202, "")
    thread.let(ahead, "first")
    jobs = thread.in_turn(ahead, parked, failed)
    assert [job["status"] for job in jobs] == ["succeeded"] * 3


def test_a_retry_is_refused_when_the_thread_has_moved_on_unless_it_is_from_the_start(thread: Thread) -> None:
    failed = thread.submit(input={"fail": {"second": {"error": "final"}}})
    other = thread.submit()
    assert [job["status"] for job in thread.in_turn(failed, other)] == ["failed", "succeeded"]
    assert thread.post(failed, "retry") == (409, "thread_moved_on")
    assert thread.client.job(failed)["status"] == "failed"
    assert thread.post(failed, "retry", {"from": "start"}) == (202, "")
    _, job = thread.in_turn(other, failed)
    assert (job["status"], job["round"]) == ("succeeded", 2)
    assert thread.traces[failed].steps == ["first", "second", "first", "second"]


@pytest.mark.parametrize(("call", "body"), [("resume", {"value": "yes"}), ("cancel", None)])
def test_an_interrupted_job_holds_its_thread_until_it_is_answered_or_cancelled(
    shared_service: Service, thread: Thread, tmp_path: Path, call: str, body: Any
) -> None:
    asking, parked = thread.submit("traced_asking"), thread.submit()
    wait_until(lambda: thread.client.job(asking)["status"] == "interrupted", what="the job asks")
    # Meanwhile jobs come and go, on all workers.
    others = [Thread(shared_service, f"{thread.name} {number}", tmp_path) for number in range(6)]
    for other in others:
        other.in_turn(other.submit())
    assert thread.client.job(parked)["attempt"] == 0
    assert thread.post(asking, call, body)[0] == 202
    jobs = thread.in_turn(asking, parked)
    assert [job["status"] for job in jobs] == ["succeeded" if call == "resume" else "cancelled", "succeeded"]


def test_on_busy_queue_waits_in_line_as_does_a_job_that_says_nothing(thread: Thread) -> None:
    ahead = thread.submit(hold=["first"])
    queued, silent = thread.submit(on_busy="queue"), thread.submit()
    thread.has_started(ahead)
    thread.let(ahead, "first")
    thread.in_turn(ahead, queued, silent)


def test_on_busy_reject_refuses_a_job_of_a_busy_thread_and_of_no_other(thread: Thread) -> None:
    ahead = thread.submit(hold=["first"], on_busy="reject")
    thread.has_started(ahead)
    refused = thread.client.http.post(
        "/jobs", json={"graph": "traced", "input": {}, "thread_id": thread.name, "on_busy": "reject"}
    )
    assert (refused.status_code, refused.json()["code"]) == (409, "thread_busy")
    listed = thread.client.http.get("/jobs", params={"thread_id": thread.name}).json()["items"]
    assert [job["id"] for job in listed] == [ahead]
    thread.let(ahead, "first")
    thread.in_turn(ahead)
    thread.in_turn(thread.submit(on_busy="reject"))


def test_on_busy_cancel_starts_the_next_job_when_the_running_one_has_ended_and_not_before(
    thread: Thread, workers: list[Process]
) -> None:
    ahead = thread.submit(hold=["first"])
    thread.has_started(ahead)
    (pid,) = thread.traces[ahead].pids("first")
    worker = next(worker for worker in workers if worker.pid == pid)
    worker.pause()  # so that the cancel is not obeyed at once
    try:
        jobs = thread.in_turn(ahead, thread.submit(on_busy="cancel"))
    finally:
        worker.resume()
    assert [job["status"] for job in jobs] == ["cancelled", "succeeded"]


@pytest.mark.parametrize("state", ["backing_off", "interrupted"])
def test_on_busy_cancel_ends_a_job_that_does_not_run_at_once(thread: Thread, state: str) -> None:
    if state == "interrupted":
        ahead = thread.submit("traced_asking")
        wait_until(lambda: thread.client.job(ahead)["status"] == "interrupted")
    else:
        busy = {"first": {"error": "503", "retry_after": 3600}}
        ahead = thread.submit(input={"fail": busy})
        wait_until(lambda: (job := thread.client.job(ahead))["status"] == "queued" and job["error"])
    jobs = thread.in_turn(ahead, thread.submit(on_busy="cancel"))
    assert [job["status"] for job in jobs] == ["cancelled", "succeeded"]
