"""The notification channel, read by one connection a process."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from redis.asyncio import Redis

from shared.store.errors import store_errors
from shared.store.keys import key
from shared.store.workers import CATALOGUE_CHANGED


class Notices:
    """A subscription to what happens to jobs. `blocking` is a connection used for nothing else."""

    def __init__(self, blocking: Redis) -> None:
        self.blocking = blocking

    async def listen(self) -> AsyncGenerator[tuple[str, str] | None, None]:
        """Yield None once subscribed, then (ref, status) for each change; (`catalogue`, ``) when graphs changed.

        Raises `StoreUnavailable` when the connection breaks: what happened until the next `listen` is not told again.
        """
        with store_errors():
            async with self.blocking.pubsub() as subscription:
                await subscription.subscribe(key("notify"))
                async for message in subscription.listen():
                    if message["type"] == "subscribe":
                        yield None
                    elif message["type"] == "message":
                        ref, _, status = message["data"].decode().partition(" ")
                        yield (CATALOGUE_CHANGED, "") if ref == CATALOGUE_CHANGED else (ref, status)
