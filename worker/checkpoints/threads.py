"""The memory of threads: LangGraph's own SQLite or PostgreSQL saver, by `DATABASE_URL`, opened for the first thread."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress

import structlog
from langchain_core.runnables import RunnableConfig

from worker.checkpoints.database import Answer, DatabaseSaver
from worker.checkpoints.driver import Driver
from worker.checkpoints.outage import ThreadsAway, is_locked, is_outage

logger = structlog.get_logger(__name__)
OPEN_SECONDS = 35.0
PATIENCE_SECONDS = 10.0  # for a restart, so that what a node has done is not done again
TRIES = 3
REOPEN_SECONDS = 0.5
MOMENT_SECONDS = 1.0  # a restart is over by then, and a job need not be given back for it
WATCH_SECONDS = 5.0
ANSWER_SECONDS = 20.0
CLOSE_SECONDS = 5.0
NO_THREAD: RunnableConfig = {"configurable": {"thread_id": "", "checkpoint_ns": ""}}


class ThreadMemory:
    """The connection of one process: opened for the first thread, again whenever it is lost, and closed with it."""

    def __init__(self, database_url: str) -> None:
        self.database_url = database_url
        self._driver: Driver | None = None
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
        """The saver, its tables in place. Raises `ThreadsAway`: at once where the database is away for a moment."""
        if self._driver is None and self._away_since is not None:
            await self._wait(self._away_since + MOMENT_SECONDS - time.monotonic())
        if self._driver is None:
            self._open()
            with suppress(TimeoutError):
                async with asyncio.timeout(OPEN_SECONDS):
                    await self._tried.wait()
        if self._saver is None or self._driver is None:
            raise self._away()
        return self._saver

    async def ask(self, question: Callable[[Driver], Awaitable[Answer]]) -> Answer:
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
                    await self.ask(lambda driver: driver.aget_tuple(NO_THREAD))

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

    def _lost(self, driver: Driver, error: BaseException) -> None:
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

    async def _connect(self, resources: AsyncExitStack) -> Driver:
        if self._sqlite:  # neither is loaded before the first thread
            from worker.checkpoints.sqlite import open_sqlite

            return await open_sqlite(resources, self.database_url)
        from worker.checkpoints.postgres import open_postgres

        return await open_postgres(resources, self.database_url)

    async def _keep_opening(self) -> None:
        said = False
        while True:
            try:
                async with AsyncExitStack() as opening:
                    driver = await self._connect(opening)
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
