"""More connections than a process may have: it says so, serves whom it can, and recovers."""

from __future__ import annotations

import resource
import socket
from contextlib import suppress

import orjson
import psutil

from tests.memory import Memory
from tests.raw_http import all_until_closed, connect, get, status_and_code
from tests.servers import Processes, fetch, wait_until

JOB = b'{"graph": "echo", "input": 1}'


def test_2000_connections_are_bounded_and_others_are_served(processes: Processes, redis_url: str) -> None:
    gateway = processes.gateway(redis_url, MAX_CONNECTIONS="500").ready()
    idle: list[socket.socket] = []
    try:
        with Memory(gateway.process.pid) as memory:
            for _ in range(2000):
                idle.append(connect(gateway))
                if len(idle) % 100 == 0:
                    assert fetch(f"{gateway.api}/jobs", JOB)[0] == 202
        server = psutil.Process(gateway.process.pid)
        wait_until(lambda: server.num_fds() < 600, what="the oldest are closed")
        assert orjson.loads(fetch(f"{gateway.api}/health")[1])["parts"]["connections"]["status"] == "ok"
        assert memory.peak - memory.before < 100
    finally:
        for connection in idle:
            connection.close()


def test_connections_that_all_wait_for_an_answer_are_not_cut_and_others_are_told_so(
    processes: Processes, redis_url: str
) -> None:
    gateway = processes.gateway(redis_url, MAX_CONNECTIONS="50").ready()
    job_id = orjson.loads(fetch(f"{gateway.api}/jobs", JOB)[1])["id"]
    polls = [connect(gateway) for _ in range(50)]
    for poll in polls:
        poll.sendall(get(f"/api/v1/jobs/{job_id}?wait=30"))
    wait_until(lambda: fetch(f"{gateway.api}/jobs", JOB)[0] == 503, what="there is no room")
    with connect(gateway) as client:
        client.sendall(get("/api/v1/graphs"))
        answer = all_until_closed(client)
    assert status_and_code(answer) == (503, "overloaded")
    assert b"retry-after: " in answer.lower()
    status, health = fetch(f"{gateway.api}/health")
    assert (status, orjson.loads(health)["parts"]["connections"]["status"]) == (200, "degraded")
    assert "50 connections" in orjson.loads(health)["parts"]["connections"]["detail"]
    for poll in polls:
        poll.close()
    wait_until(lambda: fetch(f"{gateway.api}/jobs", JOB)[0] == 202, what="there is room again")
    assert "too many connections" in gateway.process.log


def test_few_are_taken_beyond_the_limit_to_be_told_so(processes: Processes, redis_url: str) -> None:
    gateway = processes.gateway(redis_url, MAX_CONNECTIONS="20").ready()
    job_id = orjson.loads(fetch(f"{gateway.api}/jobs", JOB)[1])["id"]
    connections = [connect(gateway) for _ in range(20)]
    try:
        for poll in connections:
            poll.sendall(get(f"/api/v1/jobs/{job_id}?wait=60"))
        wait_until(lambda: fetch(f"{gateway.api}/jobs", JOB)[0] == 503, what="there is no room")
        files = psutil.Process(gateway.process.pid).num_fds()
        for _ in range(200):
            with suppress(OSError):  # closed while it sends
                connections.append(connect(gateway))
                connections[-1].sendall(b"GET / HTTP/1.1\r\n")  # it has 20 s for the rest
        wait_until(lambda: psutil.Process(gateway.process.pid).num_fds() < files + 40, what="most are closed")
    finally:
        for connection in connections:
            connection.close()


def test_a_limit_of_256_files_is_told_clearly_and_the_process_recovers_by_itself(
    processes: Processes, redis_url: str
) -> None:
    gateway = processes.gateway(
        redis_url, prepare=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
    ).ready()
    job_id = orjson.loads(fetch(f"{gateway.api}/jobs", JOB)[1])["id"]
    clients: list[socket.socket] = []
    for _ in range(600):  # faster than the process can take them
        with suppress(OSError):  # closed while it sends
            clients.append(connect(gateway))
            clients[-1].sendall(get(f"/api/v1/jobs/{job_id}?wait=60"))
    wait_until(lambda: fetch(f"{gateway.api}/health")[0] == 200, what="health answers")
    health = fetch(f"{gateway.api}/health")[1]
    assert orjson.loads(health)["parts"]["connections"]["status"] == "degraded"
    assert orjson.loads(health)["parts"]["redis"]["status"] == "ok"
    assert "too many connections" in gateway.process.log
    for client in clients:
        client.close()
    wait_until(lambda: fetch(f"{gateway.api}/jobs", JOB)[0] == 202, what="it serves again")
    for _ in range(100):
        assert fetch(f"{gateway.api}/jobs", JOB)[0] == 202
    assert "Traceback" not in gateway.process.log
    assert gateway.process.status is None
