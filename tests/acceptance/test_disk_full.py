"""The disk under Redis' append-only file is full: submits are refused whole, and all goes on once there is room.

A limit on the size of a file stands in for the full disk: writes fail in the same way, in the middle of a record too.
"""

from __future__ import annotations

import resource
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.conftest import Service
from tests.servers import Processes, Valkey, wait_until
from tests.store_audit import audit
from tests.traced import Trace

FULL_BYTES = 2_000_000
LEASE_SECONDS = 1.0
LARGE = "x" * 200_000


def _let_writes_fail() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # EFBIG instead, as ENOSPC would come


class FullDisk:
    """A Valkey whose files may not grow beyond `FULL_BYTES`, until there is `room`."""

    def __init__(self, folder: Path, fsync: str) -> None:
        self.valkey = Valkey(folder, prepare=_let_writes_fail, appendfsync=fsync, auto_aof_rewrite_percentage="0")
        self.fill()

    def fill(self) -> None:
        self._limit(FULL_BYTES)

    def room(self) -> None:
        self._limit(resource.RLIM_INFINITY)

    def _limit(self, size: int) -> None:
        resource.prlimit(self.valkey.process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


@pytest.fixture
def disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[FullDisk]:
    made = FullDisk(tmp_path / "valkey", request.param)
    yield made
    made.valkey.stop()


@pytest.fixture
def service(processes: Processes, disk: FullDisk) -> Iterator[Service]:
    started = Service(processes, disk.valkey.url)
    with started.client:
        started.start_workers(1, LEASE_SECONDS=str(LEASE_SECONDS))
        yield started


def submits_until_refused(service: Service) -> tuple[list[str], int, str, str]:
    """Ids of accepted jobs; the status, code and Retry-After of the first that is not."""
    accepted = []
    for _ in range(200):
        answer = service.client.http.post(
            "/jobs", json={"graph": "two_nodes", "input": {"messages": [LARGE]}, "queue": "q"}
        )
        if answer.status_code != 202:
            return accepted, answer.status_code, answer.json()["code"], answer.headers.get("retry-after", "")
        accepted.append(answer.json()["id"])
    raise AssertionError("the disk was never full")


@pytest.mark.parametrize("disk", ["everysec"], indirect=True)
def test_submits_are_refused_whole_while_the_disk_is_full_and_running_jobs_end_when_there_is_room(
    service: Service, disk: FullDisk, tmp_path: Path
) -> None:
    trace = Trace(tmp_path / "trace")
    running = service.client.submit("traced", trace.input(hold=["first"]))
    wait_until(lambda: trace.steps == ["first"], what="it runs")
    accepted, status, code, retry_after = submits_until_refused(service)
    assert (status, code, retry_after) == (503, "store_full", "1")
    assert accepted

    def counted() -> int:
        return len(service.client.http.get("/jobs", params={"limit": 100}).json()["items"])

    assert counted() == len(accepted) + 1
    trace.let("first")
    until = time.monotonic() + 4 * LEASE_SECONDS
    while time.monotonic() < until:
        refused = service.client.http.post("/jobs", json={"graph": "two_nodes", "input": {"messages": ["hi"]}})
        assert (refused.status_code, refused.json()["code"]) == (503, "store_full")
        time.sleep(0.1)
    health = service.client.http.get("/health").json()
    assert health["parts"]["redis"]["status"] == "degraded"
    assert "append-only file" in health["parts"]["redis"]["detail"]
    assert counted() == len(accepted) + 1
    disk.room()
    job = service.client.job(running, wait=30)
    assert (job["status"], job["attempt"]) == ("succeeded", 1)
    assert trace.steps == ["first", "second"]
    assert service.client.run("two_nodes", {"messages": ["hi"]})["status"] == "succeeded"
    service.start_workers(1, WORKER_QUEUES="q")
    assert {job["status"] for job in service.client.wait_all(accepted)} == {"succeeded"}
    disk.valkey.kill()
    disk.valkey.restart()  # what was written is whole
    with disk.valkey.client() as redis:
        assert audit(redis) == []


@pytest.mark.parametrize("disk", ["always"], indirect=True)
def test_a_server_that_keeps_every_write_ends_when_the_disk_is_full_and_nothing_that_was_accepted_is_lost(
    service: Service, disk: FullDisk
) -> None:
    accepted, status, code, _ = submits_until_refused(service)
    assert (status, code) == (503, "store_unavailable")
    assert disk.valkey.process.wait() == 1
    assert "AOF fsync policy is 'always'" in disk.valkey.process.log
    assert service.client.http.get("/health").status_code == 503
    disk.valkey.restart()  # as its supervisor does, with room now
    wait_until(lambda: service.client.http.get("/health/ready").status_code == 200, what="Redis is back")
    service.start_workers(1, WORKER_QUEUES="q")
    assert {job["status"] for job in service.client.wait_all(accepted)} == {"succeeded"}
    with disk.valkey.client() as redis:
        assert audit(redis) == []
