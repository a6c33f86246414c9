"""Large answers that nobody reads, many at once: those who have been reading for the longest are cut."""

from __future__ import annotations

import asyncio
import socket

import psutil
from redis.asyncio import Redis

from shared.store import JobStore, NewJob
from tests.memory import MB
from tests.raw_http import connect, get
from tests.servers import Processes, fetch, wait_until

ANSWER_MB = 9
CLIENTS = 50  # of which the kernel keeps some megabytes each, and the gateway the rest


def end_a_job(redis_url: str, output: bytes, job_id: str = "1" * 32) -> str:
    """A job that has succeeded with this output; its id."""

    async def end() -> str:
        async with Redis.from_url(redis_url) as redis:
            store = JobStore(redis, result_ttl_seconds=600)
            submitted = await store.submit(NewJob("default", job_id, "echo", b"{}", 3))
            claim = await store.claim(
                "w", queues=["default"], graphs=["echo"], lease_seconds=60, limit=1, max_bytes=10**8, recover=False
            )
            await store.finish("w", claim.jobs[0], "succeeded", output=output)
            return submitted.id

    return asyncio.run(end())


def test_many_large_answers_that_are_not_read_are_cut_and_others_are_served(
    processes: Processes, redis_url: str
) -> None:
    job_id = end_a_job(redis_url, b'"%s"' % (b"x" * ANSWER_MB * MB))
    gateway = processes.gateway(redis_url, REQUEST_SECONDS="600").ready()  # so that none is cut for its slowness
    server = psutil.Process(gateway.process.pid)

    def connected() -> int:
        connections = server.net_connections("tcp")
        return sum(one.status == psutil.CONN_ESTABLISHED and one.laddr.port == gateway.port for one in connections)

    clients: list[socket.socket] = []
    try:
        for _ in range(CLIENTS):
            clients.append(connect(gateway))
            clients[-1].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            clients[-1].sendall(get(f"/api/v1/jobs/{job_id}"))
            assert clients[-1].recv(12) == b"HTTP/1.1 200"
        wait_until(lambda: "a connection is cut" in gateway.process.log, 15, what="some are cut")
        wait_until(lambda: 0 < connected() < CLIENTS)
        assert fetch(f"{gateway.api}/health/ready")[0] == 200
    finally:
        for client in clients:
            client.close()
