"""The load, in a process of its own: submits over several connections or in batches, or submits and waits."""

from __future__ import annotations

import asyncio
import json
import sys
import time

import aiohttp

from bench.graph import INPUT

BODY = json.dumps({"graph": "two_nodes", "input": INPUT}).encode()
HEADERS = {"content-type": "application/json"}


async def submit(base: str, jobs: int, connections: int, key: str = "") -> dict[str, float]:
    """Submit `jobs` jobs over so many connections, with an API key if one is given. Gives submits/s."""
    left = iter(range(jobs))
    headers = HEADERS | ({"authorization": f"Bearer {key}"} if key else {})

    async def client(session: aiohttp.ClientSession) -> None:
        for _ in left:
            async with session.post(f"{base}/jobs", data=BODY, headers=headers) as answer:
                await answer.read()
                if answer.status != 202:
                    raise RuntimeError(f"{answer.status}: {await answer.text()}")

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=connections)) as session:
        started = time.perf_counter()
        await asyncio.gather(*(client(session) for _ in range(connections)))
        return {"per_second": jobs / (time.perf_counter() - started)}


async def batches(base: str, jobs: int, size: int, webhook: str = "") -> dict[str, float]:
    """Submit `jobs` jobs in batches of `size`, two at a time, each with this webhook if one is given."""
    job = {"graph": "two_nodes", "input": INPUT} | ({"webhook": {"url": webhook}} if webhook else {})
    body = json.dumps({"jobs": [job] * size}).encode()
    left = iter(range(jobs // size))

    async def client(session: aiohttp.ClientSession) -> None:
        for _ in left:
            async with session.post(f"{base}/jobs/batch", data=body, headers=HEADERS) as answer:
                items = (await answer.json())["items"]
                if not all("id" in item for item in items):
                    raise RuntimeError(f"not all accepted: {items[:1]}")

    async with aiohttp.ClientSession() as session:
        started = time.perf_counter()
        await asyncio.gather(client(session), client(session))
        return {"per_second": jobs / (time.perf_counter() - started)}


async def latency(base: str, jobs: int) -> dict[str, float]:
    """Submit a job and wait for its answer over HTTP, one at a time. Gives seconds."""
    took = []
    async with aiohttp.ClientSession() as session:
        for number in range(jobs + 20):
            started = time.perf_counter()
            async with session.post(f"{base}/jobs", data=BODY, headers=HEADERS) as answer:
                job = (await answer.json())["id"]
            async with session.get(f"{base}/jobs/{job}?wait=10") as answer:
                status = (await answer.json())["status"]
            if status != "succeeded":
                raise RuntimeError(status)
            if number >= 20:
                took.append(time.perf_counter() - started)
    took.sort()
    return {"p50": took[len(took) // 2], "p95": took[int(len(took) * 0.95)]}


if __name__ == "__main__":
    what, base, *rest = sys.argv[1:]
    options = [int(one) if one.isdigit() else one for one in rest]
    measure = {"submit": submit, "batches": batches, "latency": latency}[what]
    print(json.dumps(asyncio.run(measure(base, *options))))  # type: ignore[operator]
