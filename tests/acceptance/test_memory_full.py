"""Redis' memory is full (`noeviction`): submits are refused whole, and what was accepted ends, webhooks included."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
import redis

from shared.store.keys import key
from tests.acceptance.conftest import Service
from tests.receivers import Receiver
from tests.servers import Processes, Valkey, wait_until
from tests.store_audit import audit
from tests.submitters import Submitters
from tests.traced import Trace

LEASE_SECONDS = 1.5
SLOTS = 6


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    server = Valkey(tmp_path / "valkey", maxmemory_policy="noeviction")
    yield server
    server.stop()


@pytest.fixture
def service(processes: Processes, valkey: Valkey) -> Iterator[Service]:
    started = Service(processes, valkey.url)
    with started.client:
        started.start_workers(1, LEASE_SECONDS=str(LEASE_SECONDS), WORKER_CONCURRENCY=str(SLOTS))
        yield started


def jobs_in(client: redis.Redis) -> set[bytes]:
    """The keys that a submit writes first."""
    return {*client.keys(key("job", "*")), *client.keys(key("input", "*")), *client.keys(key("idem", "*"))}


def test_submits_are_refused_whole_while_memory_is_full_and_what_was_accepted_ends_with_its_webhooks(
    service: Service, valkey: Valkey, tmp_path: Path
) -> None:
    trace = Trace(tmp_path / "steps")
    held = trace.input(hold=["first"])
    submit = service.client.submit
    with Receiver() as receiver, valkey.client() as client:
        hook = {"webhook": {"url": receiver.url}}
        ids = [submit("traced", held, **hook) for _ in range(SLOTS - 2)]
        ids += [submit("traced", held, thread_id=f"t{number}", **hook) for number in range(2)]
        wait_until(lambda: trace.steps == ["first"] * SLOTS, what="they run")
        # Behind them: jobs that wait for a slot, for their thread, or for their time.
        ids += [submit("two_nodes", {"messages": ["hi"]}, **hook) for _ in range(10)]
        ids += [submit("traced", held, thread_id="t0", **hook)]
        ids += [submit("echo", {"value": 1}, delay_seconds=1, **hook)]
        cancelled = submit("two_nodes", {"messages": ["hi"]}, **hook)

        client.config_set("maxmemory", "1mb")
        client.script_flush()
        before = jobs_in(client)
        with Submitters([service.gateway]) as refused:
            batch = service.client.http.post(
                "/jobs/batch", json={"jobs": [{"graph": "echo", "input": {"value": 1}}] * 3}
            )
            assert [item["error"]["code"] for item in batch.json()["items"]] == ["store_full"] * 3
            keyed = service.client.http.post(
                "/jobs", json={"graph": "echo", "input": {"value": 1}}, headers={"Idempotency-Key": "k"}
            )
            assert (keyed.status_code, keyed.json()["code"]) == (503, "store_full")
            assert service.client.http.post(f"/jobs/{cancelled}/cancel").status_code == 202
            trace.let("first")
            ended = service.client.wait_all(ids)
            wait_until(lambda: len(receiver.wait_for(len(ids) + 1)) == len(ids) + 1, what="webhooks come")
        assert refused.accepted == refused.broken == []
        assert {one.told for one in refused.refused} == {(503, "store_full", True)}
        assert len(refused.refused) > 20
        assert jobs_in(client) == before
        health = service.client.http.get("/health").json()
        assert (health["status"], health["parts"]["redis"]["status"]) == ("degraded", "degraded")
        assert "its memory is full" in health["parts"]["redis"]["detail"]

        assert {(job["status"], job["tries"], job["attempt"]) for job in ended} == {("succeeded", 1, 1)}
        assert service.client.job(cancelled)["status"] == "cancelled"
        assert sorted(trace.steps) == ["first"] * (SLOTS + 1) + ["second"] * (SLOTS + 1)
        for job in ended:
            events = [orjson.loads(event) for event in client.lrange(key("events", f"default:{job['id']}"), 0, -1)]
            told = [event["data"]["status"] for event in events if event["type"] == "status"]
            assert told == ["running", "succeeded"]
        hooks = [request.headers["webhook-id"] for request in receiver.wait_for(len(ids) + 1)]
        assert len(set(hooks)) == len(hooks) == len(ids) + 1

        client.config_set("maxmemory", "0")
        assert service.client.run("echo", {"value": 1})["status"] == "succeeded"
        assert audit(client) == []
    valkey.kill()
    valkey.restart()  # what was written is whole
    with valkey.client() as client:
        assert audit(client) == []
    assert "Traceback" not in service.gateway.process.log
