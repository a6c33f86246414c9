"""The threads' database is away: jobs of threads wait for it, all others run on, and health says so."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from shared.store.keys import KEYS
from tests.acceptance.conftest import Service
from tests.servers import PostgreSQL, Process, wait_until
from tests.store_audit import audit
from tests.thread_jobs import Thread

AWAY_SECONDS = 4.0


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgreSQL]:
    """One of its own: it is killed."""
    server = PostgreSQL(tmp_path_factory.mktemp("postgres") / "data")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def service(shared_service: Service) -> Service:
    return shared_service


@pytest.fixture(scope="module")
def workers(service: Service, postgres: PostgreSQL) -> list[Process]:
    return service.start_workers(2, DATABASE_URL=postgres.new_database(), LEASE_SECONDS="2", WORKER_CONCURRENCY="4")


@pytest.fixture(autouse=True)
def no_thread_stays_busy(service: Service) -> Iterator[None]:
    """After each test: no thread belongs to a job, none has a line, and all else that Redis has agrees."""
    yield
    with Redis.from_url(service.redis_url) as redis:
        busy = (KEYS["thread"] + "*", KEYS["line"] + "*")
        wait_until(lambda: not any(redis.keys(pattern) for pattern in busy), what="all threads are free")
        assert audit(redis) == []


def threads_of(service: Service, folder: Path, count: int) -> list[Thread]:
    return [Thread(service, f"{folder.name} {number}", folder) for number in range(count)]


def health(service: Service) -> dict[str, Any]:
    answer = service.client.http.get("/health")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def threads_are(service: Service, status: str) -> bool:
    return bool(health(service)["parts"].get("threads", {}).get("status") == status)


def test_postgresql_killed_and_restarted_under_jobs_of_threads_loses_none_and_keeps_their_order(
    service: Service, workers: list[Process], postgres: PostgreSQL, tmp_path: Path
) -> None:
    threads = threads_of(service, tmp_path, 6)
    for _ in range(5):
        for thread in threads:
            thread.submit(input={"seconds": 0.1})
    last = list(threads[0].traces)[1]
    wait_until(lambda: service.client.job(last)["status"] != "queued", what="some have run")
    postgres.kill()
    time.sleep(AWAY_SECONDS)
    postgres.restart()
    for thread in threads:
        jobs = thread.in_turn(*thread.traces)
        assert [job["status"] for job in jobs] == ["succeeded"] * 5
        assert max(job["tries"] for job in jobs) <= 2, "an outage costs a job at most the try that it found under way"
        assert [len(job["output"]["trail"]) for job in jobs] == [2, 4, 6, 8, 10]
    assert sum(job["tries"] for thread in threads for job in thread.in_turn(*thread.traces)) <= 30 + 8


def test_while_postgresql_is_away_jobs_of_threads_wait_without_a_try_others_run_on_and_health_says_so(
    service: Service, workers: list[Process], postgres: PostgreSQL, tmp_path: Path
) -> None:
    first, *threads = threads_of(service, tmp_path, 10)
    first.in_turn(first.submit())
    wait_until(lambda: threads_are(service, "ok"), what="health says that all is well")
    postgres.kill()
    waiting = {thread: thread.submit() for thread in threads}
    started = time.monotonic()
    others = [service.client.run("two_nodes", {"messages": ["hi"]}) for _ in range(20)]
    assert {job["status"] for job in others} == {"succeeded"}
    assert time.monotonic() - started < 25
    wait_until(lambda: threads_are(service, "down"), 15, what="health says so")
    told = health(service)
    assert told["status"] == "degraded"
    assert "2 of 2 workers cannot reach the threads' database (OperationalError)" in told["parts"]["threads"]["detail"]
    time.sleep(AWAY_SECONDS)
    assert {service.client.job(job_id)["status"] for job_id in waiting.values()} <= {"queued", "running"}
    assert all(service.client.run("two_nodes", {"messages": ["hi"]})["status"] == "succeeded" for _ in range(5))
    away = time.monotonic() - started
    postgres.restart()
    wait_until(lambda: threads_are(service, "ok"), 15, what="health says that it is back")
    for thread, job_id in waiting.items():
        (job,) = thread.in_turn(job_id)
        assert (job["status"], job["tries"]) == ("succeeded", 1)
        assert job["attempt"] < 4 + away, "it was not tried over and over"
        assert thread.traces[job_id].steps == ["first", "second"]


def test_a_restart_of_postgresql_between_two_jobs_costs_nothing(
    service: Service, workers: list[Process], postgres: PostgreSQL, tmp_path: Path
) -> None:
    threads = threads_of(service, tmp_path, 4)
    for thread in threads:
        thread.in_turn(thread.submit())
    postgres.kill()
    postgres.restart()
    for thread in threads:
        (job,) = thread.in_turn(thread.submit())
        assert (job["status"], job["attempt"]) == ("succeeded", 1)


def test_a_node_under_way_when_postgresql_is_restarted_runs_once(
    service: Service, workers: list[Process], postgres: PostgreSQL, tmp_path: Path
) -> None:
    (thread,) = threads_of(service, tmp_path, 1)
    job_id = thread.submit(hold=["first"])
    thread.has_started(job_id)
    postgres.kill()
    thread.let(job_id, "first")
    postgres.restart()
    (job,) = thread.in_turn(job_id)
    assert (job["status"], job["attempt"]) == ("succeeded", 1)
    assert thread.traces[job_id].steps == ["first", "second"]


def test_a_job_under_way_when_postgresql_goes_away_for_long_goes_back_and_is_tried_again(
    service: Service, workers: list[Process], postgres: PostgreSQL, tmp_path: Path
) -> None:
    (thread,) = threads_of(service, tmp_path, 1)
    job_id = thread.submit(hold=["first"])
    thread.has_started(job_id)
    postgres.kill()
    thread.let(job_id, "first")
    wait_until(lambda: service.client.job(job_id)["status"] == "queued", 30, what="it goes back")
    assert service.client.job(job_id)["error"]["code"] == "connection_error"
    assert service.client.run("two_nodes", {"messages": ["hi"]})["status"] == "succeeded"
    postgres.restart()
    (job,) = thread.in_turn(job_id)
    assert (job["status"], job["tries"], job["error"]) == ("succeeded", 2, None)
    assert thread.traces[job_id].steps == ["first", "first", "second"]


def test_health_says_that_postgresql_is_away_also_while_no_job_needs_it(
    service: Service, workers: list[Process], postgres: PostgreSQL, tmp_path: Path
) -> None:
    (thread,) = threads_of(service, tmp_path, 1)
    thread.in_turn(thread.submit())
    wait_until(lambda: threads_are(service, "ok"), what="health says that all is well")
    postgres.kill()
    wait_until(lambda: not threads_are(service, "ok"), 25, what="health says so")
    postgres.restart()
    wait_until(lambda: threads_are(service, "ok"), 15, what="health says that it is back")
