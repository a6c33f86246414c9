"""What each process keeps a copy of, so that a request asks Redis for none of it.

It is looked at twice a second whether it has changed.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from shared.store import StoreError

logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)
LOOK_SECONDS = 0.5
RELOAD_SECONDS = 30.0  # without a change: after a fail-over the count of changes may say nothing


class KeptCopy(ABC):
    """A copy as it was half a second ago at most, or when Redis was last there."""

    loaded = False
    _known: bytes | None = None  # of `changes`, when the copy was made
    _loaded_at = float("-inf")

    @abstractmethod
    async def changes(self) -> bytes | None:
        """A value that is another one after each change. Raises `StoreError`s."""

    @abstractmethod
    async def read(self) -> bytes | None:
        """Make the copy. Gives `changes` as it was then. Raises `StoreError`s."""

    async def load(self) -> None:
        """Take over what is there now. Raises `StoreError`s."""
        self._known = await self.read()
        self._loaded_at, self.loaded = time.monotonic(), True

    @asynccontextmanager
    async def kept_up(self) -> AsyncIterator[None]:
        """Follow the changes for as long as the block lasts; the copy is there from the start, where Redis is."""
        await self._look()
        task = asyncio.create_task(self._follow())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await self._look()

    async def _look(self) -> None:
        try:
            if time.monotonic() - self._loaded_at > RELOAD_SECONDS or await self.changes() != self._known:
                await self.load()
        except StoreError:
            pass  # its absence is told elsewhere
        except Exception:
            logger.exception("cannot look at what has changed", copy=type(self).__name__)
