"""The notification channel, read by one connection a process."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from redis.asyncio import Redis
from redis.exceptions import ConnectionError

from shared.store.errors import store_errors
from shared.store.keys import key
from shared.store.workers import CATALOGUE_CHANGED

SILENCE_SECONDS = 2.0  # without a word, after which the server is asked whether it is there


class Notices:
    """A subscription to what happens to jobs. `blocking` is a connection used for nothing else."""

    def __init__(self, blocking: Redis) -> None:
        self.blocking = blocking

    async def listen(self) -> AsyncGenerator[tuple[str, str] | None, None]:
        """Yield None once subscribed, then (ref, status) for each change; (`catalogue`, ``) when graphs changed.

        Raises `StoreUnavailable` when the connection breaks or the server goes silent: what happened until the next
        `listen` is not told again.
        """
        with store_errors():
            async with self.blocking.pubsub() as subscription:
                await subscription.subscribe(key("notify"))
                asked = False
                while True:
                    message = await subscription.get_message(timeout=SILENCE_SECONDS)
                    if message is None:  # a server that hangs, or is gone, says as little as one with no news
                        if asked:
                            raise ConnectionError("the subscription has gone silent")
                        await subscription.ping()
                        asked = True
                        continue
                    asked = False
                    if message["type"] == "subscribe":
                        yield None
                    elif message["type"] == "message":
                        ref, _, status = message["data"].decode().partition(" ")
                        yield (CATALOGUE_CHANGED, "") if ref == CATALOGUE_CHANGED else (ref, status)
