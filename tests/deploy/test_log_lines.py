"""One log of all processes, in which a job can be followed by its id: gateway, worker, another worker, webhook."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

from tests.deploy.machine import Machine
from tests.receivers import Receiver
from tests.servers import wait_until
from tests.traced import Trace

SECRET_WORDS = "planted-words-of-a-client"


def lines_of(machine: Machine, job: str) -> list[dict[str, Any]]:
    """As `jq 'select(.job == "…")' app.log` gives them."""
    lines = [json.loads(line) for line in (machine.logs / "app.log").read_text().splitlines()]
    return [line for line in lines if line.get("job") == job]


def test_a_job_is_followed_from_the_gateway_over_two_workers_to_its_webhook(machine: Machine, tmp_path: Path) -> None:
    trace = Trace(tmp_path / "steps")
    with machine.client() as client, Receiver() as receiver:
        given = trace.input(hold=["second"], returned=SECRET_WORDS)
        sent = {"graph": "traced", "input": given, "webhook": {"url": receiver.url}}
        answer = client.http.post("/jobs", json=sent, headers={"X-Request-Id": "ignored-from-strangers"})
        job, request_id = answer.json()["id"], answer.headers["x-request-id"]
        wait_until(lambda: trace.pids("second"), 15, what="the job is in its second step")
        (first,) = trace.pids("second")
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: len(trace.pids("second")) == 2, 30, what="another worker goes on with it")
        trace.let("second")
        assert client.job(job, wait=30)["status"] == "succeeded"
        wait_until(lambda: [line for line in lines_of(machine, job) if line["event"] == "webhook_tried"], 15)
    told = [(line["event"], line.get("attempt"), line.get("status")) for line in lines_of(machine, job)]
    story = [("job accepted", None, None), ("attempt started", 1, None), ("attempt started", 2, None)]
    assert [one for one in told if one in story] == story
    assert ("job ended", 2, "succeeded") in told
    accepted, *others = lines_of(machine, job)
    assert (accepted["request_id"], accepted["tenant"]) == (request_id, "default")
    workers = {line["worker"] for line in others if line["event"] == "attempt started"}
    assert len(workers) == 2
    (tried,) = [line for line in others if line["event"] == "webhook_tried"]
    assert tried["delivery"]
    assert SECRET_WORDS not in (machine.logs / "app.log").read_text()


def test_the_jobs_of_a_batch_are_in_the_line_of_their_request(machine: Machine) -> None:
    with machine.client() as client:
        jobs = [{"graph": "echo", "input": {"value": value}} for value in range(3)]
        answer = client.http.post("/jobs/batch", json={"jobs": [*jobs, {"graph": "none", "input": {}}]})
    ids = [item["id"] for item in answer.json()["items"] if "id" in item]
    lines = [json.loads(line) for line in (machine.logs / "app.log").read_text().splitlines()]
    (line,) = [line for line in lines if line["event"] == "jobs accepted"]
    assert (line["jobs"], line["refused"]) == (ids, 1)
    assert line["request_id"] == answer.headers["x-request-id"]
