"""The stream of a job's events, written in small batches: each 20 ms, or 64 events, whichever comes first."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import orjson
import structlog

from worker.encoding import to_json
from worker.lease import FencedWriter, LeaseLost

logger = structlog.get_logger(__name__)
FLUSH_SECONDS = 0.02
FLUSH_EVENTS = 64
MAX_EVENT_BYTES = 256 * 1024
MAX_EVENTS = 10_000


class EventStream:
    """Collects an attempt's events. What is not flushed yet goes out with the attempt's last write."""

    def __init__(self, writer: FencedWriter, round_: int) -> None:
        self._writer = writer
        self._round = round_
        self._pending: list[bytes] = []
        self._count = 0
        self._timer: asyncio.TimerHandle | None = None
        self._flushing: asyncio.Task[None] | None = None

    def add(self, type_: str, data: Any) -> None:
        """Add an event; data beyond 256 KB is left out and marked so, as are events beyond 10,000 an attempt."""
        self._count += 1
        if self._count > MAX_EVENTS:
            return
        if self._count == MAX_EVENTS:
            type_, data = "truncated", {"reason": f"more than {MAX_EVENTS} events in one attempt"}
        encoded = to_json(data)
        truncated = len(encoded) > MAX_EVENT_BYTES
        event: dict[str, Any] = {
            "type": type_,
            "at": int(time.time() * 1000),
            "round": self._round,
            "attempt": self._writer.job.attempt,
            "data": None if truncated else orjson.Fragment(encoded),
        }
        if truncated:
            event["truncated"] = True
        self._pending.append(orjson.dumps(event))
        if self._flushing is None and (self._timer is None or len(self._pending) == FLUSH_EVENTS):
            self._flush_in(0 if len(self._pending) >= FLUSH_EVENTS else FLUSH_SECONDS)

    async def close(self) -> list[bytes]:
        """Let a flush under way end, and give what is not written yet: it goes out with the attempt's last write."""
        if self._timer is not None:
            self._timer.cancel()
        if self._flushing is not None:
            await asyncio.wait([self._flushing])
        left, self._pending = self._pending, []
        return left

    def _flush_in(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, self._start_to_flush)

    def _start_to_flush(self) -> None:
        self._timer = None
        self._flushing = asyncio.create_task(self._flush())

    async def _flush(self) -> None:
        while self._pending:
            batch, self._pending = self._pending[:FLUSH_EVENTS], self._pending[FLUSH_EVENTS:]
            try:
                await self._writer.append(batch)
            except LeaseLost:
                return
            except Exception:
                logger.exception("events could not be written", count=len(batch))
        self._flushing = None
