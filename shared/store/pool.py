"""The connections of the event loop, made to bear three ways of breaking that redis-py leaves to its caller.

A connection whose server has just closed it is found closed by the next write: uvloop says so with a `RuntimeError`,
which redis-py neither sends again nor lets pass for a lost connection. One that is closed while it is being made is
given up at once, whatever number of tries a call may have.

And a firewall that forgets connections, or a peer that is gone, closes none of them: each idle one would be found dead
by a call of its own, which waits for it in vain, long after the first.

What redis-py does for each call besides, a second task for the write, a turn of the loop to see whether the connection
still stands, a lock for the pool, is left out where it is not needed: it cost more than the call itself.
"""

from __future__ import annotations

import asyncio
import builtins
import select
import time
from collections.abc import Iterable
from typing import Any, cast

from redis.asyncio import BlockingConnectionPool, ConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.connection import HiredisRespSerializer
from redis.exceptions import ConnectionError, TimeoutError

_PACKER = HiredisRespSerializer()
LET_GO_SECONDS = 1.0  # at most once: a connection is also given up where its caller is


class _OpenConnection(AbstractConnection):
    def pack_command(self, *args: Any) -> list[bytes]:
        return _PACKER.pack(*args)  # type: ignore[no-any-return]

    async def send_packed_command(self, command: bytes | str | Iterable[bytes], check_health: bool = True) -> None:
        if not self.is_connected:
            await self.connect()  # type: ignore[no-untyped-call]
        elif check_health and self.health_check_interval:
            await self.check_health()  # type: ignore[no-untyped-call]
        if isinstance(command, str):
            command = command.encode()
        writer = cast(asyncio.StreamWriter, self._writer)
        try:
            async with asyncio.timeout(self.socket_timeout):
                writer.writelines([command] if isinstance(command, bytes) else command)
                await writer.drain()
        except BaseException as error:  # it may be written in part
            await self.disconnect(nowait=True)
            if isinstance(error, builtins.TimeoutError):
                raise TimeoutError("Timeout writing to socket") from None
            if isinstance(error, (OSError, RuntimeError)):
                raise ConnectionError(f"the connection was closed: {error}") from error
            raise

    async def can_read_destructive(self) -> bool:
        """Whether there is what nobody has asked for; the loop gets a turn only where there is something."""
        if self._nothing_to_read():
            return False
        return bool(await super().can_read_destructive())  # type: ignore[no-untyped-call]

    def _nothing_to_read(self) -> bool:
        writer = self._writer
        if writer is None or writer.is_closing() or self._parser._reader.has_data():  # type: ignore[attr-defined]
            return False
        if not self._socket_is_empty():  # type: ignore[no-untyped-call]
            return False
        if not hasattr(select, "poll"):  # on Windows
            return False
        socket = select.poll()
        socket.register(writer.get_extra_info("socket").fileno(), select.POLLIN)
        return not socket.poll(0)


def _open(kind: type[Any]) -> type[Any]:
    """This class of connections, but for what a write to a closed one raises."""
    return type(kind.__name__, (_OpenConnection, kind), {})


class OpenPool(ConnectionPool):
    """A pool for one who reads: a closed connection is a `ConnectionError`."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.connection_class = _open(self.connection_class)

    async def ensure_connection(self, connection: AbstractConnection) -> None:
        try:
            await super().ensure_connection(connection)
        except ConnectionError as error:
            nobody_there = isinstance(error.__context__, (ConnectionRefusedError, FileNotFoundError))
            if type(error) is not ConnectionError or nobody_there:
                raise
            await connection.disconnect(nowait=True)
            await super().ensure_connection(connection)


class SharedPool(OpenPool, BlockingConnectionPool):
    """The pool that calls share. Lets go of the idle connections where one comes back broken; calls make new ones."""

    _let_go_at = float("-inf")
    _waiting = 0  # calls that wait for a connection, or make one: others do not go before them

    async def get_connection(self, command_name: str | None = None, *keys: Any, **options: Any) -> AbstractConnection:
        if self._waiting or not self._available_connections:
            self._waiting += 1
            try:
                return await super().get_connection()  # type: ignore[no-any-return]
            finally:
                self._waiting -= 1
        connection = self.get_available_connection()  # type: ignore[no-untyped-call]
        try:
            await self.ensure_connection(connection)
        except BaseException:
            await self.release(connection)
            raise
        return connection  # type: ignore[no-any-return]

    async def release(self, connection: AbstractConnection) -> None:
        now = time.monotonic()
        if not connection.is_connected and now - self._let_go_at >= LET_GO_SECONDS:
            self._let_go_at = now
            idle, self._available_connections = self._available_connections, []
            for one in idle:
                await one.disconnect(nowait=True)
        if self._waiting:
            await super().release(connection)
        else:
            self._in_use_connections.remove(connection)
            self._available_connections.append(connection)
