"""The pool that calls share: one connection that broke says that the idle ones may be dead too.

A firewall that forgets connections, or a peer that is gone, closes none of them: each would be found dead by a call of
its own, which waits for it in vain, long after the first.
"""

from __future__ import annotations

import time

from redis.asyncio import BlockingConnectionPool
from redis.asyncio.connection import AbstractConnection

LET_GO_SECONDS = 1.0  # at most once: a connection is also given up where its caller is


class SharedPool(BlockingConnectionPool):
    """Lets go of the idle connections where one comes back broken; calls make new ones."""

    _let_go_at = float("-inf")

    async def release(self, connection: AbstractConnection) -> None:
        now = time.monotonic()
        if not connection.is_connected and now - self._let_go_at >= LET_GO_SECONDS:
            self._let_go_at = now
            idle, self._available_connections = self._available_connections, []
            for one in idle:
                await one.disconnect(nowait=True)
        await super().release(connection)
