"""Tries over HTTP: errors that another try may help and those that none helps, rounds that a client asks for, and jobs
that kill their worker or cannot be read."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from shared.store.keys import key, ref
from tests.acceptance.conftest import GRAPHS, Service
from tests.chaos.workers import WorkerPool
from tests.servers import Process, wait_until
from tests.store_audit import audit
from tests.traced import Trace


@pytest.fixture(scope="module")
def worker(shared_service: Service) -> Process:
    return shared_service.start_workers(1)[0]


@pytest.fixture
def service(shared_service: Service, worker: Process) -> Service:
    """With one worker."""
    return shared_service


@pytest.fixture
def trace(tmp_path: Path) -> Trace:
    return Trace(tmp_path / "steps")


def run(service: Service, trace: Trace, fail: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """The job once it has ended; `fail` says how its steps do."""
    return service.client.run("traced", trace.input(fail=fail), **fields)


def seconds(job: dict[str, Any]) -> float:
    """From the job's first start to its end."""
    return (datetime.fromisoformat(job["finished_at"]) - datetime.fromisoformat(job["started_at"])).total_seconds()


def post(service: Service, path: str, body: Any = None) -> Any:
    answer = service.client.http.post(f"/jobs/{path}", json=body)
    assert answer.is_success, answer.text
    return answer.json()


# Errors


def test_a_job_with_a_retryable_error_goes_on_at_the_step_that_failed(service: Service, trace: Trace) -> None:
    job = run(service, trace, {"second": {"error": "connection"}})
    assert (job["status"], job["attempt"], job["tries"], job["error"]) == ("succeeded", 2, 2, None)
    assert trace.steps == ["first", "second", "second"]


def test_a_job_with_a_retryable_error_waits_and_says_why(service: Service, trace: Trace) -> None:
    busy = {"second": {"error": "503", "retry_after": 3600}}
    job_id = service.client.submit("traced", trace.input(fail=busy))
    wait_until(lambda: service.client.job(job_id)["error"], what="the first try has failed")
    job = service.client.job(job_id)
    assert (job["status"], job["tries"], job["finished_at"]) == ("queued", 1, None)
    assert (job["error"]["code"], job["error"]["node"], job["error"]["retryable"]) == ("provider_error", "second", True)
    post(service, f"{job_id}/cancel")


def test_a_retry_comes_no_sooner_than_the_provider_asked(service: Service, trace: Trace) -> None:
    job = run(service, trace, {"first": {"error": "429", "retry_after": 1.5}})
    assert (job["status"], job["tries"]) == ("succeeded", 2)
    assert 1.5 <= seconds(job) < 1.5 + 0.5 + 5  # a jitter of at most half a second, and a busy machine


def test_a_job_with_a_final_error_fails_at_once(service: Service, trace: Trace) -> None:
    job = run(service, trace, {"second": {"error": "final"}})
    assert (job["status"], job["attempt"], job["tries"]) == ("failed", 1, 1)
    assert job["error"] == {
        "type": "ValueError",
        "code": "graph_error",
        "message": "no try would help",
        "node": "second",
        "retryable": False,
    }
    assert trace.steps == ["first", "second"]


def test_a_job_without_a_try_left_fails_with_its_last_error(service: Service, trace: Trace) -> None:
    job = run(service, trace, {"second": {"error": "503", "retry_after": 0, "times": 9}}, max_attempts=2)
    assert (job["status"], job["attempt"], job["tries"]) == ("failed", 2, 2)
    assert (job["error"]["code"], job["error"]["retryable"]) == ("provider_error", True)
    assert trace.steps == ["first", "second", "second"]


# Rounds that a client asks for


def test_a_retry_goes_on_at_the_step_that_failed_and_has_all_tries_again(service: Service, trace: Trace) -> None:
    fail = {"second": {"error": "503", "retry_after": 0, "times": 3}}
    failed = run(service, trace, fail, max_attempts=2)
    assert (failed["status"], failed["tries"]) == ("failed", 2)
    post(service, f"{failed['id']}/retry")
    job = service.client.job(failed["id"], wait=30)
    assert (job["status"], job["round"], job["tries"], job["error"]) == ("succeeded", 2, 2, None)
    assert trace.steps == ["first", *["second"] * 4]


def test_a_retry_from_the_start_runs_every_step_again(service: Service, trace: Trace) -> None:
    failed = run(service, trace, {"second": {"error": "final"}})
    post(service, f"{failed['id']}/retry", {"from": "start"})
    job = service.client.job(failed["id"], wait=30)
    assert (job["status"], job["round"], len(job["output"]["trail"])) == ("succeeded", 2, 2)
    assert trace.steps == ["first", "second", "first", "second"]


def test_a_cancelled_job_can_be_retried_where_it_stood(service: Service, trace: Trace) -> None:
    job_id = service.client.submit("traced", trace.input(hold=["second"]))
    wait_until(lambda: "second" in trace.steps)
    post(service, f"{job_id}/cancel")
    assert service.client.job(job_id, wait=10)["status"] == "cancelled"
    trace.let("second")
    post(service, f"{job_id}/retry")
    assert service.client.job(job_id, wait=30)["status"] == "succeeded"
    assert trace.steps == ["first", "second", "second"]


def test_all_jobs_that_match_a_filter_are_retried_and_a_dry_run_only_names_them(
    service: Service, tmp_path: Path
) -> None:
    client, begun = service.client, datetime.now(UTC).isoformat()
    errors = {"one": "final", "two": "final", "other": "503"}
    traces = {name: Trace(tmp_path / name) for name in errors}
    failed = {
        name: run(service, traces[name], {"second": {"error": error, "retry_after": 0}}, max_attempts=1)["id"]
        for name, error in errors.items()
    }
    wanted = {"graph": ["traced"], "error_code": ["graph_error"], "created_after": begun}
    named = post(service, "retry", {**wanted, "dry_run": True})
    assert [item["id"] for item in named["items"]] == [failed["one"], failed["two"]]
    assert {client.job(job_id)["status"] for job_id in failed.values()} == {"failed"}
    retried = post(service, "retry", wanted)
    assert (retried["matched"], retried["retried"]) == (2, 2)
    ended = {name: client.job(job_id, wait=30) for name, job_id in failed.items()}
    assert {name: (job["status"], job["round"]) for name, job in ended.items()} == {
        "one": ("succeeded", 2),
        "two": ("succeeded", 2),
        "other": ("failed", 1),
    }
    assert traces["one"].steps == ["first", "second", "second"]


# What must not hurt others


def test_jobs_that_kill_their_worker_fail_after_their_tries_and_no_other_job_is_harmed(
    shared_service: Service, tmp_path: Path
) -> None:
    client, innocents = shared_service.client, [Trace(tmp_path / str(number)) for number in range(40)]
    settings = {"GRAPHS_CONFIG": GRAPHS, "WORKER_QUEUES": "killers", "LEASE_SECONDS": "1"}

    def submit(graph: str, given: dict[str, Any]) -> str:
        return client.submit(graph, given, queue="killers", max_attempts=3)

    # They are started again when they die, as by a supervisor.
    with WorkerPool(tmp_path / "workers", shared_service.redis_url, 3, **settings) as pool:
        pool.started()
        wait_until(lambda: len(_live(shared_service, "killers")) == 3, 30, what="the workers are up")
        ids = [submit("traced", trace.input(seconds=0.3)) for trace in innocents[:20]]
        killers = [submit("killer", {"how": how}) for how in ("exit", "kill")]
        ids += [submit("traced", trace.input(seconds=0.3)) for trace in innocents[20:]]
        for job in client.wait_all(killers):
            assert (job["status"], job["attempt"], job["tries"]) == ("failed", 3, 3)
            assert job["error"]["code"] == "worker_lost"
        for job in client.wait_all(ids):
            assert (job["status"], job["error"], len(job["output"]["trail"])) == ("succeeded", None, 2), job
        assert set(pool.statuses.values()) == {1, -9}
        assert len(pool.statuses) <= 6, "one for each try, and no other"
    assert any(len(trace.steps) > 2 for trace in innocents), "some ran beside a killer"


def _live(service: Service, queue: str) -> list[dict[str, Any]]:
    return [worker for worker in service.live_workers() if worker["queues"] == [queue]]


DAMAGE = {
    "a_number_that_is_none": lambda redis, name: redis.hset(name, "tries", "many"),
    "a_field_that_is_gone": lambda redis, name: redis.hdel(name, "max_attempts"),
    "a_record_that_is_gone": lambda redis, name: redis.delete(name),
    "another_kind_of_value": lambda redis, name: redis.set(name, "nonsense"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_job_whose_record_cannot_be_read_fails_alone(
    service: Service, worker: Process, tmp_path: Path, damage: str
) -> None:
    client, traces = service.client, [Trace(tmp_path / name) for name in ("before", "broken", "after")]
    worker.pause()
    with Redis.from_url(service.redis_url) as redis:
        try:
            before, broken, after = (client.submit("traced", trace.input()) for trace in traces)
            DAMAGE[damage](redis, key("job", ref("default", broken)))
        finally:
            worker.resume()
        assert [job["status"] for job in client.wait_all([before, after])] == ["succeeded", "succeeded"]
        job = client.job(broken, wait=10)
        assert (job["status"], job["error"]["code"]) == ("failed", "unreadable_record")
        assert traces[1].steps == []
        assert audit(redis) == []
