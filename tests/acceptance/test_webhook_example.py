"""examples/webhook_receiver as its users run it: what the service sends it is shown once, and nothing else is."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import sqlite3
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest

from shared.signing import default_secret, new_secret, sign_headers
from tests.acceptance.conftest import Service
from tests.conditions import until
from tests.servers import PROJECT, SECRET_KEY, Process, Processes, fetch, free_port, wait_until

EXAMPLE = PROJECT / "examples" / "webhook_receiver"
SECRET = default_secret(SECRET_KEY, "default")


class Example:
    """The example as a process, and what its database says."""

    def __init__(self, processes: Processes, folder: Path, secrets: str = SECRET) -> None:
        self.processes = processes
        self.database = folder / "webhooks.sqlite3"
        self.secrets = secrets
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.hook = f"{self.url}/hooks/jobs"
        self.process = self.start()

    def start(self) -> Process:
        command = ["-m", "uvicorn", "--app-dir", str(EXAMPLE), "--factory", "receiver:create_app"]
        self.process = self.processes.start(
            "receiver", [sys.executable, *command, "--port", str(self.port)],
            WEBHOOK_SECRETS=self.secrets, WEBHOOK_DATABASE=str(self.database),
        )  # fmt: skip
        wait_until(lambda: fetch(f"{self.url}/jobs")[0] == 200, 20, what=f"the example answers:\n{self.process.log}")
        return self.process

    def jobs(self) -> list[dict[str, Any]]:
        status, body = fetch(f"{self.url}/jobs")
        assert status == 200
        return list(json.loads(body))

    def shown(self, job_id: str) -> int:
        """How often the job was worked on."""
        return sum(f"job {job_id} " in line for line in self.process.log.splitlines())

    def messages(self, done: bool | None = None) -> list[str]:
        """The ids of the messages that are stored."""
        query = "SELECT webhook_id FROM messages WHERE ?1 IS NULL OR (done_at IS NOT NULL) = ?1 ORDER BY rowid"
        with contextlib.closing(sqlite3.connect(self.database, timeout=10)) as database:
            return [row[0] for row in database.execute(query, (done,))]

    def post(self, webhook_id: str, body: bytes, *, secret: str = SECRET, at: datetime | None = None) -> int:
        """Send a message as the service would, and give the status of the answer."""
        return fetch(self.hook, body, sign_headers([secret], webhook_id, at or datetime.now(UTC), body))[0]


@pytest.fixture
def example(processes: Processes, tmp_path: Path) -> Iterator[Example]:
    return Example(processes, tmp_path)


def message(job_id: str, sequence: int = 1, status: str = "succeeded") -> bytes:
    data = {"id": job_id, "status": status, "round": sequence}
    return json.dumps({"type": f"job.{status}", "version": 1, "sequence": sequence, "data": data}).encode()


def the_delivery(service: Service, job_id: str, attempts: int) -> dict[str, Any]:
    """The job's one delivery, once it was tried so often and is delivered."""

    def found() -> dict[str, Any] | None:
        (delivery,) = service.client.http.get(f"/jobs/{job_id}/deliveries").json()["items"]
        return delivery if delivery["status"] == "delivered" and len(delivery["attempts"]) == attempts else None

    return wait_until(found, 20, what=f"it is delivered in {attempts} tries")  # type: ignore[return-value]


def test_a_job_that_ends_is_shown_once_however_often_it_is_delivered(service: Service, example: Example) -> None:
    service.start_workers(1)
    job_id = service.client.submit("echo", {"value": "Grüße, 世界 🧵"}, webhook={"url": example.hook})
    wait_until(lambda: example.jobs() == [{"id": job_id, "sequence": 1, "status": "succeeded"}], 20, what="it is shown")
    delivery = the_delivery(service, job_id, attempts=1)
    answer = service.client.http.post(f"/jobs/{job_id}/deliveries/{delivery['id']}/redeliver")
    assert answer.status_code == 202
    delivery = the_delivery(service, job_id, attempts=2)
    assert [attempt["status_code"] for attempt in delivery["attempts"]] == [204, 204]
    assert example.messages() == [delivery["id"]]
    assert example.jobs() == [{"id": job_id, "sequence": 1, "status": "succeeded"}]
    assert example.shown(job_id) == 1


def test_each_round_of_a_job_is_shown_in_order(service: Service, example: Example) -> None:
    service.start_workers(1)
    job_id = service.client.submit("asking", {"messages": []}, webhook={"url": example.hook})
    wait_until(lambda: [job["status"] for job in example.jobs()] == ["interrupted"], 20, what="the question is shown")
    assert service.client.http.post(f"/jobs/{job_id}/cancel").status_code == 202
    wait_until(
        lambda: example.jobs() == [{"id": job_id, "sequence": 2, "status": "cancelled"}], 20, what="the end is shown"
    )
    assert example.shown(job_id) == 2


def test_an_endpoint_that_is_rotated_reaches_a_receiver_with_either_secret(
    service: Service, processes: Processes, tmp_path: Path
) -> None:
    service.start_workers(1)
    old = new_secret()
    example = Example(processes, tmp_path, secrets=old)
    created = service.client.http.post("/webhooks", json={"url": example.hook, "secret": old})
    assert created.status_code == 201, created.text
    here = f"/webhooks/{created.json()['id']}"
    new = service.client.http.post(f"{here}/rotate").json()["secret"]
    job_id = service.client.run("echo", {"value": 1})["id"]
    wait_until(lambda: [job["id"] for job in example.jobs()] == [job_id], 20, what="the old secret verifies it")
    example.process.stop()
    example.secrets = new
    example.start()
    other_id = service.client.run("echo", {"value": 1})["id"]
    wait_until(lambda: example.shown(other_id) == 1, 20, what="the new secret verifies it")
    assert service.client.http.post(f"{here}/ping").status_code == 202
    wait_until(lambda: any(name.startswith("ping_") for name in example.messages(done=True)), 20, what="the ping came")
    assert {job["id"] for job in example.jobs()} == {job_id, other_id}


def test_what_is_forged_altered_late_or_malformed_is_refused_and_not_stored(example: Example) -> None:
    body, now = message("j1"), datetime.now(UTC)
    signed = sign_headers([SECRET], "m1", now, body)
    assert example.post("m1", body, secret=new_secret()) == 401
    assert example.post("m1", body, at=now - timedelta(minutes=6)) == 401
    assert fetch(example.hook, body + b" ", signed)[0] == 401
    assert fetch(example.hook, body, signed | {"webhook-id": "m2"})[0] == 401
    assert fetch(example.hook, b"\xff", signed)[0] == 401
    assert fetch(example.hook, body)[0] == 401
    for signature in ("", "v1", "v1,!", "v1,a,b", "v1,é", "v2," + signed["webhook-signature"][3:]):
        assert fetch(example.hook, body, signed | {"webhook-signature": signature})[0] == 401
    for timestamp in ("", "soon", "nan", "9" * 400):
        assert fetch(example.hook, body, signed | {"webhook-timestamp": timestamp})[0] == 401
    assert fetch(example.hook, b"x" * 1_000_001, signed)[0] == 413
    assert example.messages() == []
    assert fetch(example.hook, body, signed)[0] == 204
    assert example.messages() == ["m1"]
    assert "Traceback" not in example.process.log


def test_a_message_that_is_known_is_answered_with_success_and_not_worked_on_again(example: Example) -> None:
    assert [example.post("m1", message("j1")) for _ in range(3)] == [204, 204, 204]
    wait_until(lambda: example.messages(done=True) == ["m1"], what="it is done")
    assert example.post("m1", message("j1")) == 204
    assert example.post("m2", message("j2")) == 204
    wait_until(lambda: example.messages(done=True) == ["m1", "m2"], what="the next one is done")
    assert (example.shown("j1"), example.shown("j2")) == (1, 1)


def test_an_older_round_that_comes_late_changes_nothing(example: Example) -> None:
    assert example.post("m2", message("j1", 2, "failed")) == 204
    wait_until(lambda: example.messages(done=True) == ["m2"], what="the younger one is done")
    assert example.post("m1", message("j1", 1, "interrupted")) == 204
    assert example.post("m2-to-an-endpoint", message("j1", 2, "failed")) == 204
    wait_until(lambda: len(example.messages(done=True)) == 3, what="all are done")
    assert example.jobs() == [{"id": "j1", "sequence": 2, "status": "failed"}]
    assert example.shown("j1") == 1


def test_it_takes_what_either_of_two_secrets_has_signed(processes: Processes, tmp_path: Path) -> None:
    old, new = new_secret(), new_secret()
    example = Example(processes, tmp_path, secrets=f"{old}, {new}")
    assert [example.post("by-old", message("j1"), secret=old), example.post("by-new", message("j2"), secret=new)] == [
        204,
        204,
    ]
    assert example.post("by-neither", message("j3")) == 401
    assert example.messages() == ["by-old", "by-new"]


def test_what_was_answered_outlives_a_kill(example: Example) -> None:
    names = [f"m{number:02d}" for number in range(30)]
    for name in names:
        assert example.post(name, message(name)) == 204
    example.process.kill()
    example.start()
    wait_until(lambda: example.messages(done=True) == names, what="all are done")
    assert [job["id"] for job in example.jobs()] == names


# In this process, where the work can be held up ---------------------------------------------------------------------


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The example as a module, with a database of its own."""
    monkeypatch.setenv("WEBHOOK_SECRETS", SECRET)
    monkeypatch.setenv("WEBHOOK_DATABASE", str(tmp_path / "webhooks.sqlite3"))
    spec = importlib.util.spec_from_file_location("receiver_example", EXAMPLE / "receiver.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.2)
    monkeypatch.setattr(module, "POLL_SECONDS", 0.05)
    return module


@contextlib.asynccontextmanager
async def running(receiver: ModuleType, work: Callable[[dict[str, Any]], None]) -> AsyncIterator[httpx.AsyncClient]:
    app = receiver.create_app(work)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://receiver") as client,
    ):
        yield client


async def post(client: httpx.AsyncClient, name: str, body: bytes) -> int:
    headers = sign_headers([SECRET], name, datetime.now(UTC), body)
    return (await client.post("/hooks/jobs", content=body, headers=headers)).status_code


async def test_it_answers_before_the_work_is_done(receiver: ModuleType) -> None:
    started, may_end = threading.Event(), threading.Event()

    def work(_: dict[str, Any]) -> None:
        started.set()
        may_end.wait(30)

    async with running(receiver, work) as client:
        try:
            assert await post(client, "m1", message("j1")) == 204
            assert await asyncio.to_thread(started.wait, 10)
            assert await post(client, "m2", message("j2")) == 204
            assert (await client.get("/jobs")).json() == []
        finally:
            may_end.set()

        async def both() -> bool:
            return [job["id"] for job in (await client.get("/jobs")).json()] == ["j1", "j2"]

        await until(both, within=10)


async def test_work_that_fails_is_tried_again_and_holds_up_nothing_else(receiver: ModuleType) -> None:
    tried: list[str] = []

    def work(message: dict[str, Any]) -> None:
        tried.append(message["data"]["id"])
        if message["data"]["id"] == "bad" and (tried.count("bad") < 3 or "good" not in tried):
            raise RuntimeError("not yet")

    async with running(receiver, work) as client:
        assert await post(client, "m1", message("bad")) == 204
        assert await post(client, "m2", message("good")) == 204

        async def both() -> bool:
            return [job["id"] for job in (await client.get("/jobs")).json()] == ["bad", "good"]

        await until(both, within=10)
        assert tried.count("good") == 1
        assert tried.count("bad") >= 3


async def test_without_a_secret_it_does_not_start(receiver: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEBHOOK_SECRETS", " , ")
    with pytest.raises(SystemExit, match="WEBHOOK_SECRETS"):
        receiver.create_app()


def test_what_is_done_is_forgotten_in_the_end_and_what_waits_is_not(receiver: ModuleType, tmp_path: Path) -> None:
    inbox = receiver.Inbox(str(tmp_path / "inbox.sqlite3"))
    assert [inbox.keep(name, b"{}") for name in ("m1", "m2", "m1")] == [True, True, False]
    inbox.settle("m1", None)
    inbox.forget(0)
    assert not inbox.keep("m1", b"{}")
    inbox.forget(float("inf"))
    assert inbox.keep("m1", b"{}")
    assert not inbox.keep("m2", b"{}")
