"""What must hold of records that another version has made: all is read as it was, and what was unfinished ends."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import httpx

from tests.deploy.old_records.making import TALK, TENANT, deliveries, steps
from tests.deploy.old_records.services import Service, receiver
from tests.servers import wait_until

Facts = Mapping[str, Any]
# What may differ while nothing has happened to a job: its place in the line, for others were taken or put back.
OF_THE_MOMENT = {"links", "position"}
SECONDS = 40.0


def read(service: Service, facts: Facts) -> None:
    """Start the gateway, compare, start a worker, and see everything through. Raises `AssertionError`."""
    jobs = {name: str(record["id"]) for name, record in facts["jobs"].items()}
    service.start_gateway()
    _keys_hold(service, facts["keys"])
    _all_is_as_it_was(service, facts)
    with receiver() as heard:
        for name in ("lost", "lost-in-thread"):
            (service.files / f"{name}.trace.second").touch()
        service.start_worker()
        _unfinished_ends(service, jobs)
        _questions_are_answered(service, jobs)
        _failures_are_tried_again(service, jobs)
        _threads_remember(service, jobs)
        _waiting_deliveries_arrive(service, jobs, heard)
        _what_is_far_away_waits(service, jobs)
    service.stop_workers()


def _keys_hold(service: Service, keys: Mapping[str, str]) -> None:
    if keys:
        for text in ("", keys["revoked"]):
            headers = {"authorization": f"Bearer {text}"} if text else {}
            assert service.http.get("/jobs", headers=headers).status_code == 401
        service.use_api_key(keys["good"])


def _all_is_as_it_was(service: Service, facts: Facts) -> None:
    for name, before in facts["jobs"].items():
        now = service.job(before["id"])
        changed = {field: (before[field], now.get(field)) for field in before if now.get(field) != before[field]}
        assert not changed.keys() - OF_THE_MOMENT, f"{name}: {changed}"
    ids = {record["id"] for record in facts["jobs"].values()}
    assert {job["id"] for job in _all(service.http, "/jobs")} == ids
    for status in {record["status"] for record in facts["jobs"].values()}:
        expected = {record["id"] for record in facts["jobs"].values() if record["status"] == status}
        assert {job["id"] for job in _all(service.http, "/jobs", status=status)} == expected
    of_thread = {record["id"] for record in facts["jobs"].values() if record["thread_id"] == TALK}
    assert {job["id"] for job in _all(service.http, "/jobs", thread_id=TALK)} == of_thread
    for name, before in facts["deliveries"].items():
        now = deliveries(service, facts["jobs"][name]["id"])
        assert [(one["id"], one["status"], one["attempts"]) for one in now] == [
            (one["id"], one["status"], one["attempts"]) for one in before
        ], name
    if facts["endpoint"] is not None:
        secret = facts["endpoint"]["secret"]
        assert secret.startswith("whsec_")
        before = {field: facts["endpoint"][field] for field in ("id", "url", "events")}
        [now] = service.ask("GET", "/webhooks")["items"]
        assert {field: now[field] for field in before} == before
    if facts["limits"] is not None:
        told = service.ask("GET", f"/tenants/{TENANT}/limits")
        assert {field: told[field] for field in facts["limits"]} == facts["limits"]


def _all(http: httpx.Client, path: str, **filters: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    cursor: str | None = ""
    while cursor is not None:
        answer = http.get(path, params={"limit": "5", **filters, **({"cursor": cursor} if cursor else {})})
        assert answer.status_code == 200, answer.text
        items += answer.json()["items"]
        cursor = answer.json()["next_cursor"]
    return items


def _ends(service: Service, job_id: str, status: str = "succeeded") -> dict[str, Any]:
    wait_until(lambda: service.job(job_id, 10)["status"] in {"succeeded", "failed"}, SECONDS, what=f"{job_id} ends")
    job = service.job(job_id)
    assert job["status"] == status, job
    return job


def _unfinished_ends(service: Service, jobs: Mapping[str, str]) -> None:
    """Each runs to its end, once, from the step after the last one that was stored."""
    for name in ("first", "urgent", "delayed", "parked"):
        _ends(service, jobs[name])
        assert steps(service.files / f"{name}.trace") == ["first", "second"], name
    for name in ("lost", "backoff", "lost_in_thread"):
        _ends(service, jobs[name])
        trace = steps(service.files / f"{name.replace('_', '-')}.trace")
        assert trace == ["first", "second", "second"], (name, trace)
    lost, parked = service.job(jobs["lost_in_thread"]), service.job(jobs["parked"])
    assert lost["finished_at"] <= parked["started_at"]


def _questions_are_answered(service: Service, jobs: Mapping[str, str]) -> None:
    for name in ("interrupted", "interrupted_in_thread"):
        service.ask("POST", f"/jobs/{jobs[name]}/resume", 202, json={"value": "yes"})
        trail = _ends(service, jobs[name])["output"]["trail"]
        assert [trail[0].split()[0], trail[1], trail[2].split()[0]] == ["first", "answered yes", "last"]
        trace = steps(service.files / f"{name.replace('_', '-')}.trace")
        assert trace == ["first", "ask", "ask", "last"], (name, trace)


def _failures_are_tried_again(service: Service, jobs: Mapping[str, str]) -> None:
    for name in ("failed", "failed_in_thread"):
        service.ask("POST", f"/jobs/{jobs[name]}/retry", 202)
        _ends(service, jobs[name])
        trace = steps(service.files / f"{name.replace('_', '-')}.trace")
        assert trace == ["first", "second", "second"], (name, trace)


def _threads_remember(service: Service, jobs: Mapping[str, str]) -> None:
    said = [message["content"] for message in _ends(service, jobs["in_thread"])["output"]["messages"]]
    assert said == ["one", "first", "second", "two", "first", "second", "three", "first", "second"]
    job_id = service.submit("two_nodes", {"messages": ["four"]}, thread_id=TALK)
    assert len(_ends(service, job_id)["output"]["messages"]) == len(said) + 3


def _waiting_deliveries_arrive(service: Service, jobs: Mapping[str, str], heard: Any) -> None:
    waiting = {name: deliveries(service, jobs[name]) for name in ("unheard", "unheard_cancel", "delayed")}
    for name, [one] in waiting.items():
        if one["status"] == "pending":  # its next try may be minutes away
            service.ask("POST", f"/deliveries/{one['id']}/redeliver", 202)
        wait_until(
            lambda name=name: deliveries(service, jobs[name])[0]["status"] == "delivered",
            SECONDS,
            what=f"the webhook of {name} is delivered",
        )
    paths = [request.path for request in heard.requests]
    assert sorted(paths) == ["/delayed", "/endpoint", "/unheard"], paths


def _what_is_far_away_waits(service: Service, jobs: Mapping[str, str]) -> None:
    job = service.job(jobs["christmas"])
    if datetime.fromisoformat(job["run_at"]) > datetime.now(UTC):
        assert job["status"] == "queued"
        service.ask("POST", f"/jobs/{job['id']}/cancel", 202)
    else:
        _ends(service, job["id"])
