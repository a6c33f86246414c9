"""The threads that sync nodes run in.

A thread cannot be stopped: a sync node whose job was cancelled, timed out or handed back is abandoned, and runs on for
as long as it likes. It must not take the place of the nodes of other jobs meanwhile.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

Result = TypeVar("Result")


class NodeThreads(ThreadPoolExecutor):
    """A pool that may have one thread more for each call that was abandoned and has not returned."""

    def __init__(self, size: int) -> None:
        super().__init__(size, thread_name_prefix="node")
        self._resizing = threading.Lock()

    def submit(self, fn: Callable[..., Result], /, *args: Any, **kwargs: Any) -> NodeCall[Result]:
        """Run a call in a thread. Cancelled before its start it does not run; cancelled later, it is abandoned."""
        call: Any = super().submit(fn, *args, **kwargs)
        call.pool, call.abandoned = self, False
        call.__class__ = NodeCall  # the pool makes plain futures
        return call  # type: ignore[no-any-return]

    def resize(self, threads: int) -> None:
        """Allow this many threads more."""
        with self._resizing:
            self._max_workers += threads


class NodeCall(Future[Result]):
    """A call's future. asyncio cancels it when the task that awaits it is cancelled."""

    pool: NodeThreads
    abandoned: bool

    def cancel(self) -> bool:
        cancelled = super().cancel()
        if not cancelled and not self.abandoned:
            self.abandoned = True
            self.pool.resize(1)
            self.add_done_callback(lambda call: self.pool.resize(-1))
        return cancelled
