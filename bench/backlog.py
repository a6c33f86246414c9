"""A backlog of webhook deliveries, held back until the clock starts: their host is paused, as after failures."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager

from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from uuid_utils import uuid7

from bench.graph import INPUT
from bench.processes import until
from shared.addresses import parse_url
from shared.store import JobStore, NewJob
from shared.store.keys import key

TENANT = "default"
GRAPH = "ended"  # no worker serves it
BATCH = 500
FAR = 2**52
MESSAGES = [*INPUT["messages"], *({"type": "ai", "content": text, "id": uuid7().hex} for text in ("first", "second"))]
OUTPUT = json.dumps({"messages": MESSAGES}).encode()


@contextmanager
def held_back(client: Redis, url: str, receiver: str, deliveries: int) -> Iterator[None]:
    """Jobs that have ended wait to be delivered. They may be claimed from the start of the `with` block on."""
    host = parse_url(receiver).origin
    client.hset(key("host", host), "paused_until", FAR)
    asyncio.run(_end_jobs(url, receiver, deliveries))
    client.hdel(key("host", host), "paused_until")
    client.zadd(key("hosts"), {host: 0}, xx=True)
    client.rpush(key("deliveries_wake"), "1")
    yield


def delivered(client: Redis) -> int:
    return int(client.zcard(key("deliveries_index", TENANT, "job", "delivered")))  # type: ignore[arg-type]


def all_delivered(client: Redis, count: int, seconds: float = 180) -> None:
    """Wait until so many are on record as delivered."""
    until(lambda: delivered(client) >= count, seconds, "not all webhooks were delivered")


async def _end_jobs(url: str, receiver: str, count: int) -> None:
    """Submit jobs with a webhook, and let them succeed as a worker does."""
    redis = AsyncRedis.from_url(url)
    store = JobStore(redis, result_ttl_seconds=600)
    for _ in range(count // BATCH):
        jobs = [NewJob(TENANT, uuid7().hex, GRAPH, b"{}", 3, fields={"webhook_url": receiver}) for _ in range(BATCH)]
        await store.submit_many(jobs)
        claim = await store.claim(
            "bench", queues=["default"], graphs=[GRAPH], lease_seconds=60, limit=BATCH, max_bytes=10**8, recover=False
        )
        for claimed in claim.jobs:
            await store.finish("bench", claimed, "succeeded", output=OUTPUT)
    await redis.aclose()
