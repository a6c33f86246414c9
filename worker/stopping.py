"""Work that ends when it is told to: also where a node does not heed its cancellation."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import structlog

logger = structlog.get_logger(__name__)
Result = TypeVar("Result")
STOP_SECONDS = 2.0


class TimeLimitReached(Exception):
    """The work has had all of its time."""


async def run_until_stopped(work: Coroutine[Any, Any, Result], limit: float | None) -> Result:
    """What `work` comes to, which has `limit` seconds, or any time.

    Raises `TimeLimitReached`, or `CancelledError` where the calling task is cancelled, once the work has stopped. Work
    that has not within `STOP_SECONDS` is left to itself: the fence refuses what it still writes.
    """
    task = asyncio.create_task(_without_exit(work))
    try:
        await asyncio.wait([task], timeout=limit)
    except asyncio.CancelledError:
        await _stop(task)
        raise
    if not task.done():
        await _stop(task)
        raise TimeLimitReached
    result = task.result()
    if isinstance(result, SystemExit):
        raise result
    return result


async def _without_exit(work: Coroutine[Any, Any, Result]) -> Result | SystemExit:
    """A task that raises SystemExit stops the whole loop; one that returns it does not."""
    try:
        return await work
    except SystemExit as error:
        return error


async def _stop(task: asyncio.Task[Any]) -> None:
    task.add_done_callback(lambda task: task.cancelled() or task.exception())  # nobody asks for it any more
    task.cancel()
    await asyncio.wait([task], timeout=STOP_SECONDS)
    if not task.done():
        logger.warning("a node does not stop, it is left to itself")
