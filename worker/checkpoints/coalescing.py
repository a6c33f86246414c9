"""Writing what has changed: one write at a time, in order, and the changes of one turn of the event loop together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable


class CoalescedWrite:
    """Calls `write`, which takes all that has changed by then, for as many callers as there are.

    A caller that is cancelled does not break off a write that others share.
    """

    def __init__(self, write: Callable[[], Awaitable[None]]) -> None:
        self._write = write
        self._next: asyncio.Task[None] | None = None
        self._current: asyncio.Task[None] | None = None

    async def __call__(self) -> None:
        """Return once all that has changed before this call is written. Raises what `write` raised."""
        await asyncio.shield(self.begin())

    def begin(self) -> asyncio.Task[None]:
        """Have it written, for nobody in particular."""
        if self._next is None:
            self._next = asyncio.create_task(self._run())
        return self._next

    async def settled(self) -> None:
        """Return once nothing is being written any more, however it went."""
        while tasks := [task for task in (self._current, self._next) if task is not None and not task.done()]:
            await asyncio.wait(tasks)
        for task in (self._current, self._next):
            if task is not None and not task.cancelled():
                task.exception()  # its callers have heard of it, or are gone

    async def _run(self) -> None:
        await asyncio.sleep(0)
        while self._current is not None and not self._current.done():
            await asyncio.wait([self._current])
        self._current, self._next = self._next, None
        await self._write()
