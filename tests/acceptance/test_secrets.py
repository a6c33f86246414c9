"""Planted secrets, and where they turn up: real processes go through success and failure, and all they say is searched.

Credentials are nowhere: not in a log at any level, an answer, a problem, the metrics, a record, a delivery, nor on the
disk of Redis. What a job contains is in its record and its deliveries, and in no log at INFO.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from shared.api_keys import SCOPES, new_key
from shared.store import KeyStore
from tests.acceptance.conftest import GRAPHS
from tests.providers import Fail, ModelServer
from tests.receivers import Receiver, Reply
from tests.servers import PROJECT, PostgreSQL, Process, Processes, Valkey, wait_until

SECRET_KEY = "planted-secret-key-0123456789abcdefghij"
REDIS_PASSWORD = "planted-redis-password"
DATABASE_PASSWORD = "planted-database-password"
PROVIDER_KEY = "sk-planted0provider0key"
ENDPOINT_SECRET = "whsec_cGxhbnRlZCBlbmRwb2ludCBzZWNyZXQgISEhISEh"
JOB_SECRET = "whsec_cGxhbnRlZCBqb2Igc2VjcmV0ICEhISEhISEhISEh"
WRONG_KEY = "mas_plantedwrong_0123456789abcdefghijklmnopqrstuvwxyzAB"
CONTENT = "planted words of a job"
MODEL_GRAPHS = str(PROJECT / "langgraph.json")


@dataclass
class Said:
    """All that came out of the service, by where."""

    logs: dict[str, str] = field(default_factory=dict)
    about_jobs: dict[str, str] = field(default_factory=dict)
    elsewhere: dict[str, str] = field(default_factory=dict)
    sent: list[str] = field(default_factory=list)

    def everything(self) -> dict[str, str]:
        sent = {f"delivery {number}": body for number, body in enumerate(self.sent)}
        return {**self.logs, **self.about_jobs, **self.elsewhere, **sent}


class Run:
    """One run of the service with all that is planted, at a level of its logs."""

    def __init__(self, folder: Path, stack: ExitStack, database: str, level: str) -> None:
        self.valkey = Valkey(folder / "valkey", password=REDIS_PASSWORD, requirepass=REDIS_PASSWORD)
        stack.callback(self.valkey.stop)
        self.receiver = stack.enter_context(Receiver())
        self.models = stack.enter_context(ModelServer())
        self.processes = stack.enter_context(Processes(folder / "processes"))
        self.said = Said()
        self.level = level
        self.settings = {
            "SECRET_KEY": SECRET_KEY, "LOG_LEVEL": level, "DATABASE_URL": database,
            "WEBHOOK_ALLOW_NETWORKS": "127.0.0.0/8", "OPENAI_API_KEY": PROVIDER_KEY,
            "OPENAI_BASE_URL": self.models.url, "MAX_ATTEMPTS": "1",
        }  # fmt: skip
        gateway = self.processes.gateway(self.valkey.url, **{**self.settings, "AUTH_REQUIRED": "true"}).ready()
        self.key = asyncio.run(self._new_key())
        self.http = httpx.Client(base_url=gateway.url, trust_env=False, timeout=40)
        stack.callback(self.http.close)
        self.http.headers["authorization"] = f"Bearer {self.key}"
        wait_until(lambda: self.http.get("/api/v1/jobs").status_code == 200, 10, what="the key is known")
        for graphs in (GRAPHS, MODEL_GRAPHS):
            worker = self.processes.worker(self.valkey.url, GRAPHS_CONFIG=graphs, **self.settings)
            worker.wait_for_line("worker ready", 40) if level != "WARNING" else None

    async def _new_key(self) -> str:
        text, kept = new_key("acme", "test", SCOPES, now_ms=int(time.time() * 1000))
        async with Redis.from_url(self.valkey.url) as redis:
            await KeyStore(redis).save(kept)
        return text

    def call(self, method: str, path: str, **options: Any) -> httpx.Response:
        return self.http.request(method, f"/api/v1{path}", **options)

    def job(self, graph: str, input: Any, **fields: Any) -> dict[str, Any]:
        """Run a job to its end, told of by webhook."""
        webhook = {"url": self.receiver.url, "secret": JOB_SECRET}
        body = {"graph": graph, "input": input, "webhook": webhook, **fields}
        wait_until(lambda: self.call("GET", f"/graphs/{graph}").status_code == 200, 20, what=f"{graph} is served")
        accepted = self.call("POST", "/jobs", json=body)
        assert accepted.status_code == 202, accepted.text
        record = self.call("GET", f"/jobs/{accepted.json()['id']}", params={"wait": 30}).json()
        assert record["status"] in ("succeeded", "failed"), record
        return dict(record)

    def live(self) -> None:
        """Success and failure of each kind."""
        made = self.call("POST", "/webhooks", json={"url": self.receiver.url, "secret": ENDPOINT_SECRET})
        assert made.status_code == 201
        self.receiver.reply(Reply(500, body=b"no"), Reply(410, body=b"gone"))
        self.models.script(*[Fail(401, message=f"Incorrect API key provided: {PROVIDER_KEY}.")] * 3)
        records = [
            self.job("customer_service", {"messages": [{"role": "user", "content": CONTENT}]}),
            self.job("customer_service", {"messages": [{"role": "user", "content": CONTENT}]}),
            self.job("echo", {"value": CONTENT}, metadata={"of": CONTENT}),
            self.job("faulty", {"message": CONTENT}),
            self.job("echo", {"value": CONTENT}, thread_id=CONTENT),
        ]
        assert [record["status"] for record in records][2:4] == ["succeeded", "failed"]
        assert records[0]["error"]["code"] == "provider_error", records[0]
        self.receiver.wait_for(6, 20)
        self._ask(records)

    def _ask(self, records: list[dict[str, Any]]) -> None:
        """All that can be read, and problems of many kinds."""
        for record in records:
            for path in (f"/jobs/{record['id']}", f"/jobs/{record['id']}/deliveries"):
                self.said.about_jobs[path] = self.call("GET", path).text
        for path in ("/jobs", "/deliveries"):
            self.said.about_jobs[path] = self.call("GET", path).text
        for path in ("/webhooks", "/webhooks/addresses", "/graphs", "/workers", "/health"):
            self.said.elsewhere[path] = self.call("GET", path).text
        for path in ("/metrics", "/openapi.json", "/docs"):
            self.said.elsewhere[path] = self.http.get(path).text
        problems: list[tuple[str, dict[str, Any]]] = [
            ("/jobs", {"headers": {"authorization": f"Bearer {WRONG_KEY}"}}),
            ("/jobs", {"headers": {"authorization": "", "x-api-key": WRONG_KEY}}),
            ("/webhooks", {"json": {"url": "https://example.com/", "secret": f"{ENDPOINT_SECRET}!"}}),
            ("/jobs", {"json": {"graph": "echo", "input": CONTENT, "webhook": {"url": "x", "secret": JOB_SECRET}}}),
            ("/jobs", {"json": {"graph": "echo", "input": 1, "webhook": {"url": 1, "secret": [JOB_SECRET]}}}),
            ("/jobs", {"content": f'{{"graph": "echo", "input": "{JOB_SECRET} {CONTENT}'}),
        ]
        for number, (path, options) in enumerate(problems):
            answer = self.call("POST", path, **options)
            assert answer.status_code >= 400, answer.text
            self.said.elsewhere[f"problem {number}"] = answer.text

    def fail_to_start(self) -> None:
        """Wrong settings, and logins that are refused."""
        redis = f"redis://:{REDIS_PASSWORD}-wrong@127.0.0.1:{self.valkey.port}/0"
        wrong: list[tuple[str, dict[str, str]]] = [
            (redis, {}),
            (f"redis://:{REDIS_PASSWORD}@127.0.0.1:{REDIS_PASSWORD}/0", {}),
            (f"http://:{REDIS_PASSWORD}@127.0.0.1/0", {}),
            (f"redis://:{REDIS_PASSWORD}@127.0.0.1:6379/{REDIS_PASSWORD}", {}),
            (self.valkey.url, {"DATABASE_URL": f"mysql://u:{DATABASE_PASSWORD}@127.0.0.1/d"}),
            (self.valkey.url, {"DATABASE_URL": f"postgresql://u:{DATABASE_PASSWORD}%zz@127.0.0.1/d"}),
            (self.valkey.url, {"DATABASE_URL": f"postgresql://u:{DATABASE_PASSWORD}/@127.0.0.1/d"}),
            (self.valkey.url, {"SECRET_KEY": SECRET_KEY[:20]}),
        ]
        for url, more in wrong:
            options = {**self.settings, **more}
            started = [self.processes.gateway(url, **options).process, self.processes.worker(url, **options)]
            for process in started:
                assert process.wait(40) != 0, process.log

    def refuse_database(self, url: str) -> Process:
        """A worker whose threads' database does not let it in."""
        settings = {**self.settings, "DATABASE_URL": url, "WORKER_QUEUES": "refused", "GRAPHS_CONFIG": GRAPHS}
        worker = self.processes.worker(self.valkey.url, **settings)
        job = {"graph": "echo", "input": {"value": CONTENT}, "thread_id": f"t {len(url)}", "queue": "refused"}
        assert self.call("POST", "/jobs", json=job).status_code == 202
        worker.wait_for_line("the threads' database is away", 40)
        wait_until(lambda: '"threads"' in self.call("GET", "/health").text, 20, what="health tells of the threads")
        self.said.elsewhere[f"health {len(self.said.elsewhere)}"] = self.call("GET", "/health").text
        worker.stop(20)
        return worker

    def end(self) -> Said:
        """Stop everything, and give all that was said."""
        for process in self.processes.started:
            if process.status is None:
                process.stop(20)
        self.said.logs = {process.name: process.log for process in self.processes.started}
        self.said.sent = [request.body.decode() + str(request.headers) for request in self.receiver.requests]
        return self.said

    def on_disk(self) -> bytes:
        """All that Redis has written down."""
        files = [path for path in self.valkey.folder.rglob("*") if path.is_file() and path.suffix != ".log"]
        return b"".join(path.read_bytes() for path in files)


@pytest.fixture(scope="module", params=["INFO", "DEBUG"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("secrets")
    database = f"sqlite:///{folder / 'threads.db'}"
    with ExitStack() as stack:
        postgres = PostgreSQL(tmp_path_factory.mktemp("postgres") / "data")
        stack.callback(postgres.stop)
        made = Run(folder, stack, database, request.param)
        made.live()
        if made.level == "DEBUG":  # which says all that INFO does: no words of a job are in it
            made.fail_to_start()
        socket = postgres.new_database().partition("host=")[2].partition("&")[0]
        for user in ("nobody", "anybody"):
            made.refuse_database(f"postgresql://{user}:{DATABASE_PASSWORD}@/postgres?host={socket}")
        made.end()
        yield made


def found(secret: str, said: dict[str, str]) -> dict[str, str]:
    """Where it stands, with what is around it."""
    return {
        where: text[max(0, text.index(secret) - 200) :][: 300 + len(secret)]
        for where, text in said.items()
        if secret in text
    }


def test_no_credential_is_in_anything_that_was_said(run: Run) -> None:
    assert len(run.said.logs) == (21 if run.level == "DEBUG" else 5)
    credentials = [
        SECRET_KEY, SECRET_KEY[:20], REDIS_PASSWORD, DATABASE_PASSWORD, PROVIDER_KEY, ENDPOINT_SECRET, JOB_SECRET,
        WRONG_KEY, run.key,
    ]  # fmt: skip
    places = [(secret, *place) for secret in credentials for place in found(secret, run.said.everything()).items()]
    assert places == []


def test_no_credential_is_on_the_disk_of_redis(run: Run) -> None:
    stored = run.on_disk()
    assert CONTENT.encode() in stored, "it is all there"
    for secret in (SECRET_KEY, PROVIDER_KEY, DATABASE_PASSWORD, ENDPOINT_SECRET, JOB_SECRET, WRONG_KEY, run.key):
        assert secret.encode() not in stored


def test_what_a_job_contains_is_in_its_record_and_its_deliveries_only(run: Run) -> None:
    if run.level == "INFO":
        assert found(CONTENT, run.said.logs) == {}
    assert found(CONTENT, run.said.elsewhere) == {}
    assert found(CONTENT, run.said.about_jobs)
    assert [body for body in run.said.sent if CONTENT in body]
