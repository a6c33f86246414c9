"""The memory of threads: LangGraph's own SQLite or PostgreSQL saver, by `DATABASE_URL`, opened for the first thread."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from langgraph.checkpoint.base import BaseCheckpointSaver

SQLITE_LOCK_SECONDS = 30
SETUP_LOCK = 0x6D61735F  # "mas_": one worker at a time creates the tables
SETUP_RETRY_SECONDS = 0.1
TRY_LOCK = "SELECT pg_try_advisory_lock(%s) AS locked"


class ThreadMemory:
    """Opens the saver once per process and closes it with it."""

    def __init__(self, database_url: str, *, connections: int) -> None:
        self.database_url = database_url
        self.connections = connections
        self._saver: BaseCheckpointSaver[Any] | None = None
        self._opening = asyncio.Lock()
        self._resources = AsyncExitStack()

    async def saver(self) -> BaseCheckpointSaver[Any]:
        """The saver, its tables in place. Raises the driver's error where the database is away; call it again then."""
        async with self._opening:
            if self._saver is None:
                async with AsyncExitStack() as opening:
                    if self.database_url.startswith("sqlite"):
                        saver = await _open_sqlite(opening, self.database_url)
                    else:
                        saver = await _open_postgres(opening, self.database_url, self.connections)
                    self._resources, self._saver = opening.pop_all(), saver
            return self._saver

    async def close(self) -> None:
        self._saver = None
        await self._resources.aclose()


async def _open_sqlite(resources: AsyncExitStack, url: str) -> BaseCheckpointSaver[Any]:
    import aiosqlite
    from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

    path = Path(url.removeprefix("sqlite:///"))
    path.parent.mkdir(parents=True, exist_ok=True)
    # Each statement is its own transaction: an attempt that is stopped between a write and its commit would leave one
    # open, and with it the database locked for all other workers.
    connection = await resources.enter_async_context(
        aiosqlite.connect(path, timeout=SQLITE_LOCK_SECONDS, isolation_level=None)
    )
    await connection.execute("PRAGMA synchronous=NORMAL")
    saver = AsyncSqliteSaver(connection)
    deadline = time.monotonic() + SQLITE_LOCK_SECONDS
    while True:
        try:
            await saver.setup()
            return saver
        except sqlite3.OperationalError as error:
            # Two workers that start together: turning a fresh file to WAL does not wait for the other's lock.
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            await connection.rollback()
            await asyncio.sleep(SETUP_RETRY_SECONDS)


async def _open_postgres(resources: AsyncExitStack, url: str, connections: int) -> BaseCheckpointSaver[Any]:
    from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
    from psycopg.rows import dict_row
    from psycopg_pool import AsyncConnectionPool

    pool: Any = AsyncConnectionPool(
        url,
        min_size=1,
        max_size=connections,
        open=False,
        timeout=10,
        kwargs={"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row},
    )
    await pool.open()
    resources.push_async_callback(pool.close)
    # Two workers that start together would otherwise create the same tables. They try for the lock: a statement that
    # waits for it would hold up the `CREATE INDEX CONCURRENTLY` of the one that has it.
    async with pool.connection() as connection:
        while not (await (await connection.execute(TRY_LOCK, (SETUP_LOCK,))).fetchone())["locked"]:  # noqa: ASYNC110
            await asyncio.sleep(SETUP_RETRY_SECONDS)
        try:
            await AsyncPostgresSaver(connection).setup()
        finally:
            await connection.execute("SELECT pg_advisory_unlock(%s)", (SETUP_LOCK,))
    return AsyncPostgresSaver(pool)
