"""What jobs leave in Redis: no place in the queue once they have ended, and nothing at all after their retention."""

from __future__ import annotations

import asyncio

from redis import Redis

from shared.store import JobStore, connect
from shared.store.keys import KEYS
from tests.servers import wait_until
from tests.store_dump import read_all

RETENTION_SECONDS = 7 * 24 * 3600
# What outlives jobs: names, the fairness of tenants, workers that were killed (for a day), where threads stand.
LASTING = (
    "queues", "graphs", "turns", "drained", "wake", "workers", "pulse", "catalogue", "catalogue_errors", "head",
    "health",
)  # fmt: skip
# What Redis itself forgets, within a day at the latest.
EXPIRING = ("idem", "claims")
DAY_SECONDS = 24 * 3600


def places_taken(redis: Redis) -> dict[str, object]:
    """The lanes, lines, leases and fences that have a job, and the threads that are busy."""
    dump = read_all(redis)
    places: dict[str, object] = {short: dump.zsets[short] for short in ("lane", "solo", "line", "due", "leases")}
    places |= {"lanes": dump.sets["lanes"], "held": dump.sets["held"]}
    places |= {"running": dump.strings["running"], "thread": dump.hashes["thread"]}
    return {short: found for short, found in places.items() if found}


def left_over(redis: Redis, redis_url: str) -> list[str]:
    """The keys that are left once the retention of all jobs and deliveries is over. Forgets them."""

    async def forget() -> None:
        connection = connect(redis_url)
        store = JobStore(connection, result_ttl_seconds=1, clock_offset_ms=(RETENTION_SECONDS + 60) * 1000)
        while any(await store.expire(1000)):
            pass
        await connection.aclose()

    asyncio.run(forget())
    heartbeats = KEYS["worker"] + "*"
    wait_until(lambda: not redis.keys(heartbeats), 10, what="the heartbeats of killed workers run out")
    lasting, expiring = (tuple(KEYS[short] for short in shorts) for shorts in (LASTING, EXPIRING))
    names = [name.decode() for name in redis.keys("*")]  # type: ignore[union-attr]
    kept = [name for name in names if name.startswith(expiring) and not 0 < redis.ttl(name) <= DAY_SECONDS]  # type: ignore[operator]
    return sorted(name for name in names if not name.startswith((*lasting, *expiring))) + kept
