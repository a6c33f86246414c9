"""Long polls: one reader per process hears of ended jobs and wakes all who wait for them.

A waiter is a future in a dict, and costs Redis neither a connection nor a question. Register it *before* reading the
record: what ends in between is then told, not missed. What is not told while the subscription is broken is asked for
once it is back.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from typing import Literal

import structlog

from gateway.limits import answered_in_time
from shared.jobs import JobStatus
from shared.store import JobStore, Notices
from shared.store.workers import CATALOGUE_CHANGED

logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

Word = Literal["ended", "unavailable", "closing"]
# Where a round is over.
ENDED = frozenset(status for status in JobStatus if status.ended) | {JobStatus.INTERRUPTED}
RECONNECT_SECONDS = 0.25
PULSE_SECONDS = 0.2
PATIENCE_SECONDS = 1.0
RECHECK_SECONDS = 10.0
CHUNK = 500


class Waiters:
    """Who waits for which job. `on_catalogue` is called when the graphs may have changed."""

    def __init__(self, jobs: JobStore, notices: Notices, on_catalogue: Callable[[], None]) -> None:
        self.jobs = jobs
        self.notices = notices
        self.on_catalogue = on_catalogue
        self.closing = False
        self._waiting: dict[str, set[asyncio.Future[Word]]] = {}

    def __len__(self) -> int:
        return sum(len(futures) for futures in self._waiting.values())

    @contextmanager
    def waiting(self, ref: str) -> Iterator[asyncio.Future[Word]]:
        """A future with a result once the job ends or is interrupted, Redis goes away, or the process stops."""
        future: asyncio.Future[Word] = asyncio.get_running_loop().create_future()
        if self.closing:
            future.set_result("closing")
        self._waiting.setdefault(ref, set()).add(future)
        try:
            yield future
        finally:
            self._waiting[ref].discard(future)
            if not self._waiting[ref]:
                del self._waiting[ref]

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[None]:
        """Hear of jobs for as long as the block lasts."""
        tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._pulse())]
        try:
            yield
        finally:
            self.release()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def release(self) -> None:
        """The process stops: nobody is held any longer."""
        self.closing = True
        self._wake_all("closing")

    async def _listen(self) -> None:
        away = False
        while True:
            try:
                async with aclosing(self.notices.listen()) as heard:
                    async for notice in heard:
                        if notice is None:
                            if away:
                                logger.info("Redis is back")
                            away = False
                            self.on_catalogue()
                            await self._recheck()
                        elif notice[0] == CATALOGUE_CHANGED:
                            self.on_catalogue()
                        elif notice[1] in ENDED:
                            self._wake(notice[0], "ended")
            except Exception as error:  # whatever it is: without this task nobody is ever woken
                if not away:
                    logger.warning("Redis is away: no word of ended jobs until it is back", error=str(error))
                away = True
            await asyncio.sleep(RECONNECT_SECONDS)

    async def _pulse(self) -> None:
        """While anybody waits: notice a Redis that hangs, and a subscription that died without a word.

        Each pulse asks for a part of the jobs, so that each has been asked for after `RECHECK_SECONDS`.
        """
        answered = time.monotonic()
        unasked: list[str] = []
        part = 1
        while True:
            await asyncio.sleep(PULSE_SECONDS)
            if not self._waiting:
                answered = time.monotonic()
                continue
            if not unasked:  # those who come now are in the next turn: a turn takes half the time
                unasked = list(self._waiting)
                part = math.ceil(len(unasked) * PULSE_SECONDS * 2 / RECHECK_SECONDS)
            asked, unasked = unasked[:part], unasked[part:]
            try:
                async with answered_in_time():
                    await self._ask([ref for ref in asked if ref in self._waiting] or [next(iter(self._waiting))])
                answered = time.monotonic()
            except Exception:
                if time.monotonic() - answered > PATIENCE_SECONDS:
                    self._wake_all("unavailable")

    async def _recheck(self) -> None:
        refs = list(self._waiting)
        for start in range(0, len(refs), CHUNK):
            await self._ask(refs[start : start + CHUNK])

    async def _ask(self, refs: Sequence[str]) -> None:
        for ref, status in (await self.jobs.statuses(refs)).items():
            if status is None or status in ENDED:
                self._wake(ref, "ended")

    def _wake(self, ref: str, word: Word) -> None:
        for future in self._waiting.get(ref, ()):
            if not future.done():
                future.set_result(word)

    def _wake_all(self, word: Word) -> None:
        for ref in self._waiting:
            self._wake(ref, word)
