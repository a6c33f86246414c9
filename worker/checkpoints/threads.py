"""The memory of threads: LangGraph's own SQLite or PostgreSQL saver, by `DATABASE_URL`, opened for the first thread."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import structlog
from langchain_core.runnables import RunnableConfig

from worker.checkpoints.database import Answer, DatabaseSaver, Saver
from worker.checkpoints.outage import ThreadsAway, is_locked, is_outage

logger = structlog.get_logger(__name__)
SQLITE_LOCK_SECONDS = 30
OPEN_SECONDS = SQLITE_LOCK_SECONDS + 5.0
PATIENCE_SECONDS = 10.0  # for a restart, so that what a node has done is not done again
TRIES = 3
REOPEN_SECONDS = 0.5
WATCH_SECONDS = 5.0
CONNECT_SECONDS = 5
ANSWER_SECONDS = 20
CLOSE_SECONDS = 5.0
SETUP_LOCK = 0x6D61735F  # "mas_": one worker at a time creates the tables
SETUP_RETRY_SECONDS = 0.1
NO_THREAD: RunnableConfig = {"configurable": {"thread_id": "", "checkpoint_ns": ""}}
TRY_LOCK = "SELECT pg_try_advisory_lock(%s) AS locked"


class ThreadMemory:
    """The connection of one process: opened for the first thread, again whenever it is lost, and closed with it."""

    def __init__(self, database_url: str, *, connections: int) -> None:
        self.database_url = database_url
        self.connections = connections
        self._driver: Saver | None = None
        self._saver: DatabaseSaver | None = None
        self._resources = AsyncExitStack()
        self._reason = ""
        self._away_since: float | None = None
        self._back = asyncio.Event()
        self._tried = asyncio.Event()
        self._opening: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def state(self) -> dict[str, str] | None:
        """For the worker's heartbeat: `{status: ok}` or `{status: down, error}`; None as long as nobody asked."""
        if self._away_since is not None:
            return {"status": "down", "error": self._reason}
        return None if self._driver is None else {"status": "ok"}

    async def saver(self) -> DatabaseSaver:
        """The saver, its tables in place. Raises `ThreadsAway`: at once where the database is known to be away."""
        if self._driver is None:
            if self._away_since is not None:
                raise self._away()
            self._open()
            with suppress(TimeoutError):
                async with asyncio.timeout(OPEN_SECONDS):
                    await self._tried.wait()
        if self._saver is None or self._driver is None:
            raise self._away()
        return self._saver

    async def ask(self, question: Callable[[Saver], Awaitable[Answer]]) -> Answer:
        """Put a question to the database; where it goes away, again, for as long as it may be a restart.

        Raises `ThreadsAway`, and what the driver raises for a question that is wrong.
        """
        until = time.monotonic() + PATIENCE_SECONDS
        for _ in range(TRIES):
            await self._wait(max(until - time.monotonic(), 0))
            driver = self._driver
            if driver is None:
                continue
            try:
                async with asyncio.timeout(None if self._sqlite else ANSWER_SECONDS):
                    return await question(driver)
            except Exception as error:
                if driver is self._driver and not is_outage(error):
                    raise
                if not is_locked(error):
                    self._lost(driver, error)
                self._reason = type(error).__name__
        raise self._away()

    async def watch(self) -> None:
        """Look after the connection while no job does, so that the heartbeat tells the truth. Never returns."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            if self._driver is not None and not self._sqlite:
                with suppress(ThreadsAway):
                    await self.ask(lambda saver: saver.aget_tuple(NO_THREAD))

    async def close(self) -> None:
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait([self._opening])
        if self._closing:
            await asyncio.wait(self._closing)
        self._driver = None
        await self._resources.aclose()

    @property
    def _sqlite(self) -> bool:
        return self.database_url.startswith("sqlite")

    def _away(self) -> ThreadsAway:
        since = self._away_since
        return ThreadsAway(self._reason, 0 if since is None else time.monotonic() - since)

    async def _wait(self, seconds: float) -> None:
        """Return once the database is there. Raises `ThreadsAway` after so many seconds."""
        if self._driver is not None:
            return
        try:
            async with asyncio.timeout(seconds):
                await self._back.wait()
        except TimeoutError:
            raise self._away() from None

    def _lost(self, driver: Saver, error: BaseException) -> None:
        """Give this connection up, unless another job has, and open the next."""
        if driver is not self._driver:
            return
        logger.warning("the threads' database was lost", error=type(error).__name__, message=str(error))
        old, self._resources, self._driver = self._resources, AsyncExitStack(), None
        self._back.clear()
        self._away_since = time.monotonic()
        closing = asyncio.create_task(_close(old))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
        self._open()

    def _open(self) -> None:
        if self._opening is None or self._opening.done():
            self._opening = asyncio.create_task(self._keep_opening())

    async def _keep_opening(self) -> None:
        said = False
        while True:
            try:
                async with AsyncExitStack() as opening:
                    if self._sqlite:
                        driver = await _open_sqlite(opening, self.database_url)
                    else:
                        driver = await _open_postgres(opening, self.database_url, self.connections)
                    self._resources, self._driver = opening.pop_all(), driver
                break
            except Exception as error:  # whatever it is, the jobs of threads need this task
                self._reason = type(error).__name__
                self._away_since = self._away_since or time.monotonic()
                if not said:
                    said = True
                    logger.warning("the threads' database is away", error=self._reason, message=str(error))
                self._tried.set()
            await asyncio.sleep(REOPEN_SECONDS)
        if self._away_since is not None:
            logger.info("the threads' database is back", seconds=round(time.monotonic() - self._away_since, 1))
        self._away_since = None
        self._saver = self._saver or DatabaseSaver(self.ask, driver)
        self._back.set()
        self._tried.set()


async def _close(resources: AsyncExitStack) -> None:
    try:
        async with asyncio.timeout(CLOSE_SECONDS):
            await resources.aclose()
    except Exception as error:  # it was broken anyway
        logger.info("a lost connection could not be closed", error=str(error))


async def _open_sqlite(resources: AsyncExitStack, url: str) -> Saver:
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


async def _open_postgres(resources: AsyncExitStack, url: str, connections: int) -> Saver:
    from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
    from psycopg import AsyncConnection
    from psycopg.rows import dict_row
    from psycopg_pool import AsyncConnectionPool

    options: Any = {
        "autocommit": True, "prepare_threshold": 0, "row_factory": dict_row,
        "connect_timeout": CONNECT_SECONDS, "tcp_user_timeout": ANSWER_SECONDS * 1000,
    }  # fmt: skip
    # Two workers that start together would otherwise create the same tables. They try for the lock: a statement that
    # waits for it would hold up the `CREATE INDEX CONCURRENTLY` of the one that has it.
    # Not by the pool: it would not say that there is nothing to connect to.
    connection: Any
    async with await AsyncConnection.connect(url, **options) as connection:
        while not (await (await connection.execute(TRY_LOCK, (SETUP_LOCK,))).fetchone())["locked"]:  # noqa: ASYNC110
            await asyncio.sleep(SETUP_RETRY_SECONDS)
        try:
            await AsyncPostgresSaver(connection).setup()
        finally:
            await connection.execute("SELECT pg_advisory_unlock(%s)", (SETUP_LOCK,))
    pool: Any = AsyncConnectionPool(url, min_size=1, max_size=connections, open=False, timeout=10, kwargs=options)
    await pool.open()
    resources.push_async_callback(pool.close)
    return AsyncPostgresSaver(pool)
