"""One `Idempotency-Key` on several gateway processes: one job, and one answer to the byte."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import httpx
import pytest

from tests.acceptance.conftest import Service
from tests.clients import Client

RACERS = 50


@pytest.fixture(scope="module")
def gateways(shared_service: Service) -> Iterator[list[Client]]:
    """Clients of two gateways, one of which has two processes."""
    other = shared_service.processes.gateway(shared_service.redis_url, GATEWAY_WORKERS="2")
    shared_service.start_workers(1)
    with Client(other.ready().api, RACERS) as client:
        yield [shared_service.client, client]


def race(gateways: list[Client], path: str, bodies: list[object], key: str) -> list[httpx.Response]:
    """Send each body once, all at the same moment, to the gateways in turn."""
    start = Barrier(len(bodies))

    def send(place: int) -> httpx.Response:
        start.wait(10)
        http = gateways[place % len(gateways)].http
        return http.post(path, json=bodies[place], headers={"Idempotency-Key": key})

    with ThreadPoolExecutor(len(bodies)) as threads:
        return list(threads.map(send, range(len(bodies))))


def test_fifty_requests_that_race_on_several_processes_are_one_job(gateways: list[Client], lines: Path) -> None:
    jobs = []
    for number in range(5):
        body = {"graph": "counted", "input": {"file": str(lines)}}
        answers = race(gateways, "/jobs", [body] * RACERS, f"key-{number}")
        assert {answer.status_code for answer in answers} == {202}
        assert len({answer.content for answer in answers}) == 1
        assert len({answer.headers["location"] for answer in answers}) == 1
        assert sum("idempotent-replayed" not in answer.headers for answer in answers) == 1
        jobs.append(gateways[0].job(answers[0].json()["id"], wait=30))
    assert [job["status"] for job in jobs] == ["succeeded"] * 5
    assert len(gateways[0].http.get("/jobs", params={"graph": "counted"}).json()["items"]) == 5
    assert len(lines.read_text().splitlines()) == 5, "each job ran once"


def test_of_two_bodies_that_race_under_one_key_one_is_the_job_and_the_other_is_refused(gateways: list[Client]) -> None:
    bodies: list[object] = [{"graph": "echo", "input": {"value": number % 2}} for number in range(RACERS)]
    answers = race(gateways, "/jobs", bodies, "contested")
    accepted = [json.dumps(body) for body, answer in zip(bodies, answers, strict=True) if answer.status_code == 202]
    refused = [answer.json()["code"] for answer in answers if answer.status_code != 202]
    assert (len(accepted), len(set(accepted))) == (RACERS / 2, 1)
    assert refused == ["idempotency_key_reused"] * (RACERS // 2)


def test_batches_that_race_under_one_key_are_one_batch(gateways: list[Client]) -> None:
    batch: object = {"jobs": [{"graph": "two_nodes", "input": {"messages": []}, "priority": n % 10} for n in range(20)]}
    answers = race(gateways, "/jobs/batch", [batch] * 12, "batch")
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.content for answer in answers}) == 1
    known = {item["id"] for item in answers[0].json()["items"]}
    listed = gateways[0].http.get("/jobs", params={"graph": "two_nodes", "limit": 100}).json()["items"]
    assert (len(known), {item["id"] for item in listed}) == (20, known)
