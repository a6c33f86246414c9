"""More jobs than there is room for: refused by any gateway, told when to come again, and taken then."""

from __future__ import annotations

import signal
import time
from concurrent.futures import ThreadPoolExecutor

import httpx

from tests.acceptance.conftest import Service
from tests.clients import Client
from tests.servers import Processes

DEPTH = 20
SLEEPER = {"graph": "sleeper", "input": {"seconds": 0.2}}


def test_two_gateways_keep_one_depth_and_who_waits_as_told_is_taken(service: Service, processes: Processes) -> None:
    small = [processes.gateway(service.redis_url, MAX_QUEUE_DEPTH=str(DEPTH)) for _ in range(2)]
    clients = [Client(gateway.ready().api) for gateway in small]
    (worker,) = service.start_workers(1, WORKER_CONCURRENCY="2")
    worker.send(signal.SIGTERM)
    worker.wait(30)
    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(lambda place: post(clients[place % 2]), range(3 * DEPTH)))
    assert [answer.status_code for answer in answers].count(202) == DEPTH, "neither one more nor one less"
    refused = [answer for answer in answers if answer.status_code != 202]
    assert {(answer.status_code, answer.json()["code"]) for answer in refused} == {(429, "queue_full")}
    assert {answer.headers["retry-after"] for answer in refused} == {"60"}, "no worker drains it"
    assert clients[0].http.post("/jobs", json={**SLEEPER, "queue": "another"}).status_code == 202
    service.start_workers(1, WORKER_CONCURRENCY="2")
    accepted = [answer.json()["id"] for answer in answers if answer.status_code == 202]
    service.client.job(accepted[0], wait=30)
    told = 0
    for place in range(DEPTH):  # as fast as it can: the queue fills again
        answer = post(clients[place % 2])
        if answer.status_code == 202:
            accepted.append(answer.json()["id"])
            continue
        told = int(answer.headers["retry-after"])
        assert 1 <= told <= 30, "it drains now, at ten a second or so"
        time.sleep(told)
        answer = post(clients[place % 2])
        assert answer.status_code == 202, "there was room by then"
        accepted.append(answer.json()["id"])
        break
    assert told, "the queue was full once more"
    assert {job["status"] for job in service.client.wait_all(accepted)} == {"succeeded"}
    for client in clients:
        client.http.close()


def post(client: Client) -> httpx.Response:
    return client.http.post("/jobs", json=SLEEPER)
