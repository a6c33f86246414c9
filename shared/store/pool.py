"""The connections of the event loop, made to bear three ways of breaking that redis-py leaves to its caller.

A connection whose server has just closed it is found closed by the next write: uvloop says so with a `RuntimeError`,
which redis-py neither sends again nor lets pass for a lost connection. One that is closed while it is being made is
given up at once, whatever number of tries a call may have.

And a firewall that forgets connections, or a peer that is gone, closes none of them: each idle one would be found dead
by a call of its own, which waits for it in vain, long after the first.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from redis.asyncio import BlockingConnectionPool, ConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError

LET_GO_SECONDS = 1.0  # at most once: a connection is also given up where its caller is


class _SaysWhenClosed(AbstractConnection):
    async def send_packed_command(self, command: bytes | str | Iterable[bytes], check_health: bool = True) -> None:
        try:
            await super().send_packed_command(command, check_health)
        except RuntimeError as error:
            raise ConnectionError(f"the connection was closed: {error}") from error


def _saying_when_closed(kind: type[Any]) -> type[Any]:
    """This class of connections, but for what a write to a closed one raises."""
    return type(kind.__name__, (_SaysWhenClosed, kind), {})


class OpenPool(ConnectionPool):
    """A pool for one who reads: a closed connection is a `ConnectionError`."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.connection_class = _saying_when_closed(self.connection_class)

    async def ensure_connection(self, connection: AbstractConnection) -> None:
        try:
            await super().ensure_connection(connection)
        except ConnectionError as error:
            nobody_there = isinstance(error.__context__, ConnectionRefusedError)
            if type(error) is not ConnectionError or nobody_there:
                raise
            await connection.disconnect(nowait=True)
            await super().ensure_connection(connection)


class SharedPool(OpenPool, BlockingConnectionPool):
    """The pool that calls share. Lets go of the idle connections where one comes back broken; calls make new ones."""

    _let_go_at = float("-inf")

    async def release(self, connection: AbstractConnection) -> None:
        now = time.monotonic()
        if not connection.is_connected and now - self._let_go_at >= LET_GO_SECONDS:
            self._let_go_at = now
            idle, self._available_connections = self._available_connections, []
            for one in idle:
                await one.disconnect(nowait=True)
        await super().release(connection)
