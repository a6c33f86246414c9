"""Backup, wipe, restore, by the real scripts on a real Valkey, SQLite and PostgreSQL: nothing that was kept is lost."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from tests.clients import Client
from tests.deploy.kept_service import KeptService, manifest_of
from tests.receivers import Receiver, Reply
from tests.servers import Processes, free_port, wait_until
from tests.store_audit import audit
from tests.traced import Trace


class Work:
    """One of each kind of job, thread and webhook, as it was before the backup."""

    def __init__(self, client: Client, folder: Path) -> None:
        self.folder = folder
        self.late_port = free_port()
        with Receiver(port=self.late_port, default=Reply(503, {"retry-after": str(LATER_SECONDS)})) as receiver:
            self._do(client)
            receiver.wait_for(2)
            wait_until(lambda: self._deliveries(client) == 2, what="both webhooks were tried in vain")

    def _do(self, client: Client) -> None:
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
        self.delayed = client.submit("two_nodes", {"messages": []}, delay_seconds=LATER_SECONDS)
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
    found, cursor = {}, None
    while True:
        page = client.http.get("/jobs", params={"limit": 100, **({"cursor": cursor} if cursor else {})}).json()
        found |= {job["id"]: job for job in page["items"]}
        cursor = page["next_cursor"]
        if cursor is None:
            return found


THREADS_AT_ONCE = 4
LATER_SECONDS = 20  # after the backup, and mostly after the restore
LATE_SECONDS = 4  # a snapshot of Redis is taken within that


class Load:
    """Clients that submit to threads of their own, two jobs each, and go on to the next thread; until `stop`."""

    def __init__(self, client: Client, folder: Path) -> None:
        self.client = client
        self.folder = folder
        self.submitted = 0
        self.stopping = threading.Event()
        self.clients = [threading.Thread(target=self._submit, args=(number,)) for number in range(THREADS_AT_ONCE)]
        for one in self.clients:
            one.start()

    def stop(self) -> None:
        self.stopping.set()
        for one in self.clients:
            one.join(30)

    def submit(self, thread: str, **fields: Any) -> str:
        """One more job of this thread."""
        self.submitted += 1
        return self.client.submit("traced", Trace(self.folder / thread).input(seconds=0.02), thread_id=thread, **fields)

    def _submit(self, client: int) -> None:
        number = 0
        while not self.stopping.is_set():
            number += 1
            name = f"thread {client} {number}"
            for _ in range(2):
                last = self.submit(name)
            if number % 3:  # the others go on by themselves
                self.client.job(last, wait=20)


def test_a_backup_under_load_is_of_one_piece_and_all_its_work_goes_on(kept: KeptService, tmp_path: Path) -> None:
    client = kept.start(workers=2)
    load = Load(client, tmp_path)
    wait_until(lambda: load.submitted > 12, 60, what="there is load")
    with kept.held_up("database") as (begun, let), kept.started_script("backup.sh") as backup:
        # Redis is to have these threads' first jobs in its snapshot, and the database what they do a moment later.
        late = [load.submit(f"late {number}", delay_seconds=LATE_SECONDS) for number in range(3)]
        wait_until(begun.exists, 30, what="Redis is kept, and the database is not yet")
        submitted = load.submitted
        wait_until(lambda: load.submitted > submitted + 12, 60, what="more threads have begun")
        assert {client.job(job, wait=30)["status"] for job in late} == {"succeeded"}
        let.touch()
        assert backup.wait(60) == 0, backup.communicate()
    load.stop()
    kept.stop(kill=True)
    counts = manifest_of(kept.kept()[-1])["counts"]
    assert any(counts.get(unended) for unended in ("waiting", "running", "delayed")), counts
    kept.wipe()

    kept.restore("latest")
    client = kept.start(workers=2)
    jobs = client.wait_all(list(all_jobs(client)))
    assert len(jobs) == sum(count for name, count in counts.items() if name.startswith("jobs "))
    assert {job["status"] for job in jobs} == {"succeeded"}
    threads: dict[str, list[int]] = {}
    for job in sorted(jobs, key=lambda job: job["finished_at"]):
        threads.setdefault(job["thread_id"], []).append(len(job["output"]["trail"]))
    # No thread has forgotten a step that was kept, and none remembers one from after the snapshot.
    assert {tuple(lengths) for lengths in threads.values()} <= {(2,), (2, 4)}
    with kept.redis() as redis:
        assert audit(redis) == []


def test_what_was_kept_is_there_again_after_all_was_wiped_and_goes_on(kept: KeptService, tmp_path: Path) -> None:
    client = kept.start()
    work = Work(client, tmp_path)
    before = all_jobs(client)
    backup = kept.backup()
    after = all_jobs(client)
    assert {**before, work.delayed: after[work.delayed]} == after, "a backup disturbs nothing"
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
        assert client_of_redis.config_get("appendonly") == {"appendonly": "yes"}
    kept.stop(kill=True)
    client = kept.start()
    assert client.job(further["id"])["status"] == "succeeded", "what came after the restore is kept by Redis again"


def test_a_pg_dump_that_is_older_than_its_server_is_refused(
    kept_root: Path, kept_processes: Processes, postgres_url: str
) -> None:
    kept = KeptService(kept_root, kept_processes, postgres_url)
    kept.start_redis()
    old = kept_root / "old"
    old.mkdir()
    (old / "pg_dump").write_text("#!/bin/sh\necho 'pg_dump (PostgreSQL) 9.6.24'\n")
    (old / "pg_dump").chmod(0o755)
    done = kept.script("backup.sh", PG_BIN=str(old))
    assert (done.returncode, "is older than the server" in done.stderr) == (1, True), done.stderr
    assert kept.kept() == []
