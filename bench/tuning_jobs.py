"""Bursts of jobs for workers that each have a queue of their own, so that several set-ups stand ready side by side."""

from __future__ import annotations

import asyncio
import json
import sys
import time
import urllib.request

import redis
import uvloop
from uuid_utils import uuid7

from bench.graph import INPUT
from bench.http_client import Connection
from bench.processes import until
from shared.store.keys import key


def post(base: str, path: str, body: object) -> bytes:
    request = urllib.request.Request(base + path, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return bytes(answer.read())


def burst(base: str, client: redis.Redis, graph: str, queue: str, jobs: int, *, threads: bool = False) -> float:
    """Seconds from the submit of so many jobs in one batch to the last end; each has a thread of its own, or none."""
    index = key("index", "default", graph, "succeeded")
    before = int(client.zcard(index))  # type: ignore[arg-type]
    inputs = INPUT if graph == "two_nodes" else {}
    own = [{"thread_id": uuid7().hex} if threads else {} for _ in range(jobs)]
    started = time.perf_counter()
    answer = post(
        base, "/jobs/batch", {"jobs": [{"graph": graph, "input": inputs, "queue": queue, **one} for one in own]}
    )
    if answer.count(b'"status":"queued"') != jobs:
        raise RuntimeError(f"not all accepted: {answer[:1000]!r}")
    until(lambda: int(client.zcard(index)) >= before + jobs, 120, f"not all of {graph} ended", every=0.005)  # type: ignore[arg-type]
    return time.perf_counter() - started


async def learn(base: str, jobs: int, every: float) -> dict[str, float]:
    """Submit jobs and learn of their ends at once, each on a connection of its own: by a wait, or by asking each so
    many seconds where `every` is not 0. Gives the requests and the p50 of the time from an end to its answer."""
    late: list[float] = []
    asked = 0

    async def one() -> None:
        nonlocal asked
        async with Connection.to(base) as connection:
            body = json.dumps({"graph": "waits", "input": {"seconds": 1}}).encode()
            job = json.loads((await connection.send(connection.request("POST", "/jobs", body))).body)["id"]
            question = connection.request("GET", f"/jobs/{job}" + ("" if every else "?wait=30"))
            while True:
                await asyncio.sleep(every)
                asked += 1
                record = json.loads((await connection.send(question)).body)
                if record["status"] == "succeeded":
                    break
        from datetime import datetime

        late.append(time.time() - datetime.fromisoformat(record["finished_at"]).timestamp())

    await asyncio.gather(*(one() for _ in range(jobs)))
    late.sort()
    return {"late": late[len(late) // 2], "asked": asked / jobs}


if __name__ == "__main__":
    _, base, jobs, every = sys.argv
    print(json.dumps(uvloop.run(learn(base, int(jobs), float(every)))))
