"""The load, in a process of its own: submits over several connections or in batches, or submits and waits."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import uvloop

from bench.graph import INPUT
from bench.http_client import Answer, Connection

BODY = json.dumps({"graph": "two_nodes", "input": INPUT}).encode()


async def _seconds(base: str, connections: int, client: Callable[[Connection], Awaitable[None]]) -> float:
    """How long so many clients take, each on a connection of its own that is open already."""
    async with AsyncExitStack() as opened:
        clients = [await opened.enter_async_context(Connection.to(base)) for _ in range(connections)]
        started = time.perf_counter()
        await asyncio.gather(*map(client, clients))
        return time.perf_counter() - started


def _accepted(answer: Answer) -> Answer:
    if answer.status != 202:
        raise RuntimeError(f"{answer.status}: {answer.body[:1000]!r}")
    return answer


async def submit(base: str, jobs: int, connections: int, key: str = "") -> dict[str, float]:
    """Submit `jobs` jobs over so many connections, with an API key if one is given. Gives submits/s."""
    left = iter(range(jobs))
    headers = {"authorization": f"Bearer {key}"} if key else {}

    async def client(connection: Connection) -> None:
        request = connection.request("POST", "/jobs", BODY, **headers)
        for _ in left:
            _accepted(await connection.send(request))

    return {"per_second": jobs / await _seconds(base, connections, client)}


async def batches(base: str, jobs: int, size: int, webhook: str = "") -> dict[str, float]:
    """Submit `jobs` jobs in batches of `size`, two at a time, each with this webhook if one is given."""
    job = {"graph": "two_nodes", "input": INPUT} | ({"webhook": {"url": webhook}} if webhook else {})
    body = json.dumps({"jobs": [job] * size}).encode()
    left = iter(range(jobs // size))

    async def client(connection: Connection) -> None:
        request = connection.request("POST", "/jobs/batch", body)
        for _ in left:
            answer = _accepted(await connection.send(request))
            if b'"error":' in answer.body or answer.body.count(b'"status":"queued"') != size:
                raise RuntimeError(f"not all accepted: {answer.body[:1000]!r}")

    return {"per_second": jobs / await _seconds(base, 2, client)}


async def latency(base: str, jobs: int) -> dict[str, float]:
    """Submit a job and wait for its answer over HTTP, one at a time. Gives seconds."""
    took = []

    async def client(connection: Connection) -> None:
        post = connection.request("POST", "/jobs", BODY)
        for number in range(jobs + 20):
            started = time.perf_counter()
            job = json.loads(_accepted(await connection.send(post)).body)["id"]
            answer = await connection.send(connection.request("GET", f"/jobs/{job}?wait=10"))
            status = json.loads(answer.body)["status"]
            if status != "succeeded":
                raise RuntimeError(status)
            if number >= 20:
                took.append(time.perf_counter() - started)

    await _seconds(base, 1, client)
    took.sort()
    return {"p50": took[len(took) // 2], "p95": took[int(len(took) * 0.95)]}


if __name__ == "__main__":
    what, base, *rest = sys.argv[1:]
    options = [int(one) if one.isdigit() else one for one in rest]
    measure = {"submit": submit, "batches": batches, "latency": latency}[what]
    print(json.dumps(uvloop.run(measure(base, *options))))  # type: ignore[operator]
