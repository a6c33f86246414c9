"""Waiting on the event loop for something to become true."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

Answer = TypeVar("Answer")


async def until(condition: Callable[[], Answer | Awaitable[Answer]], within: float = 5.0) -> Answer:
    """Ask `condition` until it gives something true, and give that. Raises `AssertionError` after `within` seconds."""
    deadline = time.monotonic() + within
    while True:
        given = condition()
        answer: Answer = await given if inspect.isawaitable(given) else given  # type: ignore[assignment]
        if answer:
            return answer
        assert time.monotonic() < deadline, f"not within {within:g} s: {condition}"
        await asyncio.sleep(0.002)
