"""How many requests somebody may still send: one window of a minute for each API key, shared by all gateways."""

from __future__ import annotations

from dataclasses import dataclass

from redis.asyncio import Redis

from shared.store import scripts
from shared.store.connection import run

WINDOW_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Share:
    """A part of a window: `given` requests now, `left` for who asks next, both until it ends in `seconds`."""

    given: int
    left: int
    seconds: float


class RateStore:
    """The windows. `clock_offset_ms` is for tests only."""

    def __init__(self, redis: Redis, *, clock_offset_ms: int = 0) -> None:
        self.redis = redis
        self.clock_offset_ms = clock_offset_ms

    async def take(self, who: str, limit: int, wanted: int) -> Share:
        """A share of `who`'s window for `wanted` requests or more; all shares of a window are `limit` at most.

        Where the call is sent twice, the first share is lost. Raises `StoreError`s.
        """
        given, left, ends_in = await run(self.redis, scripts.RATE, self.clock_offset_ms, who, limit, wanted)
        return Share(given, left, ends_in / 1000)
