"""A worker that is told to stop: what it still does, what it hands back, and what becomes of a claim under way."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from shared.store.scripts import CLAIM, DISOWN
from tests.acceptance.conftest import Service
from tests.proxies import Fault, Proxy
from tests.servers import Process, wait_until
from tests.traced import Trace

DRAIN_SECONDS = 3.0
LEASE_SECONDS = "30"  # nobody waits for it here


@dataclass(frozen=True)
class Stopping:
    """A worker with a queue of its own, and its wire to Redis."""

    queue: str
    process: Process
    proxy: Proxy

    def submit(self, service: Service, trace: Trace, *hold: str, **more: Any) -> str:
        return service.client.submit("traced", trace.input(hold=hold, **more), queue=self.queue)

    def claim_of(self, trace: Trace) -> Fault:
        """Keep the reply back that brings the job of this trace."""
        return self.proxy.hold_reply(CLAIM, str(trace.path).encode())

    def stop(self) -> None:
        """SIGTERM, and wait until it is heard."""
        self.process.send(signal.SIGTERM)
        self.process.wait_for_line("stopping")


@pytest.fixture(scope="module")
def workers(shared_service: Service) -> Iterator[dict[str, Stopping]]:
    """By their queues; started together to save time."""
    drains = {"busy": DRAIN_SECONDS, "at-once": 0, "patient": 30, "unlucky": 0}
    with Redis.from_url(shared_service.redis_url) as client:  # the proxy knows a script's call by its SHA-1
        for script in (CLAIM, DISOWN):
            client.script_load(script.text)
    with ExitStack() as stack:
        started = {}
        for queue, drain in drains.items():
            proxy = stack.enter_context(Proxy(shared_service.redis_url))
            worker = shared_service.start_worker(
                REDIS_URL=proxy.url,
                WORKER_QUEUES=queue,
                WORKER_CONCURRENCY="2",
                DRAIN_SECONDS=str(drain),
                LEASE_SECONDS=LEASE_SECONDS,
            )
            started[queue] = Stopping(queue, worker, proxy)
        shared_service.wait_for(*(one.process for one in started.values()))
        yield started


@dataclass(frozen=True)
class Drained:
    """What became of the jobs of a worker that was told to stop."""

    short: dict[str, Any]  # needs less than DRAIN_SECONDS
    long_meanwhile: dict[str, Any]  # when the short one had ended
    long: dict[str, Any]
    waiting: dict[str, Any]  # there before the signal, for want of a slot
    late: dict[str, Any]
    exit_status: int
    seconds: float


@pytest.fixture(scope="module")
def drained(shared_service: Service, workers: dict[str, Stopping], tmp_path_factory: pytest.TempPathFactory) -> Drained:
    client, worker, folder = shared_service.client, workers["busy"], tmp_path_factory.mktemp("drained")
    traces = {name: Trace(folder / name) for name in ("short", "long", "waiting", "late")}
    short = worker.submit(shared_service, traces["short"], seconds=0.5)
    long = worker.submit(shared_service, traces["long"], "second")
    wait_until(lambda: traces["short"].steps and "second" in traces["long"].steps, what="both slots are taken")
    waiting = worker.submit(shared_service, traces["waiting"])
    told_at = time.monotonic()
    worker.stop()
    late = worker.submit(shared_service, traces["late"])
    ended = client.job(short, wait=30)
    meanwhile = client.job(long)
    status = worker.process.wait(15)
    seconds = time.monotonic() - told_at
    return Drained(ended, meanwhile, *(client.job(job_id) for job_id in (long, waiting, late)), status, seconds)


def test_after_sigterm_a_worker_claims_nothing_more(drained: Drained) -> None:
    for job in (drained.waiting, drained.late):
        assert (job["status"], job["attempt"]) == ("queued", 0)


def test_a_job_that_ends_within_drain_seconds_is_finished(drained: Drained) -> None:
    assert (drained.short["status"], drained.short["attempt"]) == ("succeeded", 1)
    assert drained.long_meanwhile["status"] == "running"


def test_what_does_not_end_within_drain_seconds_is_handed_back_and_that_costs_no_try(drained: Drained) -> None:
    assert (drained.long["status"], drained.long["attempt"], drained.long["tries"]) == ("queued", 1, 0)
    assert drained.seconds >= DRAIN_SECONDS


def test_a_drained_worker_exits_with_0_soon_after_drain_seconds(drained: Drained) -> None:
    assert drained.exit_status == 0
    assert drained.seconds < DRAIN_SECONDS + 1 + 1.5  # the last is for a busy machine


def test_a_job_whose_claim_was_under_way_at_sigterm_is_handed_back_and_that_costs_no_try(
    shared_service: Service, workers: dict[str, Stopping], tmp_path: Path
) -> None:
    worker, trace = workers["at-once"], Trace(tmp_path / "steps")
    claim = worker.claim_of(trace)
    job_id = worker.submit(shared_service, trace)
    assert claim.reached.wait(10)
    worker.stop()
    claim.release()
    assert worker.process.wait() == 0
    job = shared_service.client.job(job_id)
    assert (job["status"], job["attempt"], job["tries"]) == ("queued", 1, 0)


def test_a_job_whose_claim_was_under_way_at_sigterm_has_drain_seconds_too(
    shared_service: Service, workers: dict[str, Stopping], tmp_path: Path
) -> None:
    worker, trace = workers["patient"], Trace(tmp_path / "steps")
    claim = worker.claim_of(trace)
    job_id = worker.submit(shared_service, trace)
    assert claim.reached.wait(10)
    worker.stop()
    claim.release()
    job = shared_service.client.job(job_id, wait=10)
    assert (job["status"], job["attempt"], job["tries"]) == ("succeeded", 1, 1)
    assert worker.process.wait() == 0


def test_a_job_whose_claim_was_lost_at_sigterm_is_handed_back_and_that_costs_no_try(
    shared_service: Service, workers: dict[str, Stopping], tmp_path: Path
) -> None:
    worker, trace = workers["unlucky"], Trace(tmp_path / "steps")
    claim = worker.claim_of(trace)
    job_id = worker.submit(shared_service, trace)
    assert claim.reached.wait(10)
    worker.stop()
    claim.release(drop=True)
    assert worker.process.wait() == 0
    job = shared_service.client.job(job_id)
    assert (job["status"], job["attempt"], job["tries"]) == ("queued", 1, 0)
