"""Backup, wipe, restore, by the real scripts on a real Valkey, SQLite and PostgreSQL: nothing that was kept is lost."""

from __future__ import annotations

import stat
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.clients import Client
from tests.deploy.kept_service import PASSWORD, KeptService, manifest_of
from tests.receivers import Receiver
from tests.servers import SECRET_KEY, PostgreSQL, Processes, free_port, wait_until
from tests.store_audit import audit
from tests.traced import Trace


@pytest.fixture
def root() -> Iterator[Path]:
    """A folder with a short path: that of a socket has no more than 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="kept-") as folder:
        yield Path(folder)


@pytest.fixture
def processes(root: Path) -> Iterator[Processes]:
    with Processes(root / "logs") as started:
        yield started


@pytest.fixture(params=["sqlite", "postgresql"])
def kept(root: Path, processes: Processes, request: pytest.FixtureRequest) -> KeptService:
    if request.param == "sqlite":
        return KeptService(root, processes)
    server: PostgreSQL = request.getfixturevalue("postgres_server")
    return KeptService(root, processes, server.new_database().replace("postgres:@", f"postgres:{PASSWORD}@", 1))


class Work:
    """One of each kind of job, thread and webhook, as it was before the backup."""

    def __init__(self, client: Client, folder: Path) -> None:
        self.folder = folder
        self.late_port = free_port()
        self.secret = client.http.post(
            "/webhooks", json={"url": f"http://127.0.0.1:{self.late_port}/all", "events": ["job.failed"]}
        ).json()["secret"]
        self.succeeded = client.run("two_nodes", {"messages": []})
        self.failed = client.run("faulty", {"message": "as it should"})
        self.cancelled = client.submit("echo", {"value": 1}, delay_seconds=3600)
        client.http.post(f"/jobs/{self.cancelled}/cancel")
        self.asking = client.run("traced_asking", self.trace("asking").input())
        assert (self.succeeded["status"], self.failed["status"], self.asking["status"]) == (
            "succeeded", "failed", "interrupted",
        )  # fmt: skip
        self.remembered = client.run("traced", self.trace("thread").input(), thread_id="a thread")
        self.waiting = client.submit("two_nodes", {"messages": []}, queue="later")
        self.delayed = client.submit("two_nodes", {"messages": []}, delay_seconds=15)
        self.running = client.submit("traced", self.trace("running").input(hold=["second"]))
        self.in_thread = client.submit(
            "traced", self.trace("in thread").input(hold=["second"]), thread_id="a busy thread"
        )
        self.behind = client.submit("traced", self.trace("behind").input(), thread_id="a busy thread")
        self.called = client.submit(
            "two_nodes", {"messages": []}, webhook={"url": f"http://127.0.0.1:{self.late_port}/job"}
        )
        client.job(self.called, wait=10)
        for name in ("running", "in thread"):
            wait_until(lambda name=name: "second" in self.trace(name).steps, what=f"{name} has come to its second step")
        wait_until(lambda: self._deliveries(client) == 2, what="both webhooks were tried in vain")

    def trace(self, name: str) -> Trace:
        return Trace(self.folder / name)

    def _deliveries(self, client: Client) -> int:
        """How many deliveries have been tried, and wait for the next try."""
        found = [
            one
            for job in (self.called, self.failed["id"])
            for one in client.http.get(f"/jobs/{job}/deliveries").json()["items"]
        ]
        return sum(1 for one in found if one["status"] == "pending" and one["attempts"])


def all_jobs(client: Client) -> dict[str, Any]:
    """Each job by its id, as a list shows it."""
    return {job["id"]: job for job in client.http.get("/jobs", params={"limit": 100}).json()["items"]}


def test_what_was_kept_is_there_again_after_all_was_wiped_and_goes_on(kept: KeptService, tmp_path: Path) -> None:
    client = kept.start()
    work = Work(client, tmp_path)
    before = all_jobs(client)
    backup = kept.backup()
    assert before == all_jobs(client), "a backup disturbs nothing"
    kept.stop(kill=True)
    kept.wipe()

    said = kept.restore(backup.name)
    assert "is good" in said
    assert kept.app.joinpath(".env").stat().st_mode & 0o777 == 0o600
    assert (kept.app / "teams" / "support.yaml").read_text() == "name: support\n"
    assert (kept.etc / "nginx/sites-available/multi-agent-service.conf").exists()

    with Receiver(port=work.late_port) as receiver:
        client = kept.start(queues="default,later")  # by what the restored .env says, with the same API key
        assert all_jobs(client).keys() == before.keys()
        for job in (work.succeeded, work.failed):
            assert client.job(job["id"]) == job
        assert client.job(work.cancelled)["status"] == "cancelled"
        for name in ("running", "in thread"):
            wait_until(lambda name=name: work.trace(name).steps == ["first", "second", "second"], 20, what=name)
            work.trace(name).let("second")
        for job in (work.running, work.in_thread, work.behind, work.waiting, work.delayed):
            assert client.job(job, wait=30)["status"] == "succeeded", job
        assert client.job(work.in_thread)["attempt"] == 2
        assert len(client.job(work.behind)["output"]["trail"]) == 4, "it remembers the one before"
        client.http.post(f"/jobs/{work.asking['id']}/resume", json={"value": "yes"})
        assert client.job(work.asking["id"], wait=30)["status"] == "succeeded"
        further = client.run("traced", work.trace("further").input(), thread_id="a thread")
        assert further["output"]["trail"][:2] == work.remembered["output"]["trail"]
        assert {request.path for request in receiver.wait_for(2, 30)} == {"/all", "/job"}
        client.run("faulty", {"message": "again"})
        receiver.wait_for(3, 20)  # the endpoint is registered, and its secret can be opened
    with kept.redis() as client_of_redis:
        assert audit(client_of_redis) == []
        assert client_of_redis.config_get("appendonly") == {b"appendonly": b"yes"}
    client.http.close()
    kept.stop(kill=True)
    client = kept.start()
    assert client.job(further["id"])["status"] == "succeeded", "what came after the restore is kept by Redis again"
