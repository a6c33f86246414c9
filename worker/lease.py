"""A lease as its attempt sees it, and the writes that it fences.

Each write first asks the local clock: past the deadline it waits, and only when a renewal answers that the lease is
gone does the attempt end, with nothing written. What a node follows asks it afterwards too: the process may have stood
still in between. While Redis is away a write waits too and is sent again: the scripts
bear the repetition. So does a write that too few replicas have: a step, or an outcome, counts once they have it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from enum import Enum
from typing import Literal, TypeVar

import structlog

from shared.store import Claimed, JobStore, NotReplicated, StoreError

logger = structlog.get_logger(__name__)
Answer = TypeVar("Answer")
RETRY_SECONDS = 0.25


class LeaseLost(Exception):
    """Another worker may run this job now: the attempt must end and write nothing."""


class EndReason(Enum):
    """Why an attempt was stopped from outside."""

    CANCEL = "a cancel was asked for"
    STOPPING = "the worker is stopping"
    GONE = "the lease is gone"


CURRENT: ContextVar[Lease] = ContextVar("lease")  # of the attempt that a task, or one that it has started, works for


class Lease:
    """This worker's right to one job. Lives on the event loop; the keeper reports to it with `call_soon_threadsafe`."""

    def __init__(self, job: Claimed, deadline: float) -> None:
        self.job = job
        self.deadline = deadline
        self.reason: EndReason | None = None
        self.limit: float | None = None
        self.overdue_at: float | None = None  # of the local monotonic clock; the keeper reads it from its thread
        self._stoppable: asyncio.Task[None] | None = None
        self._news = asyncio.Event()

    @contextmanager
    def stoppable(self) -> Iterator[None]:
        """Within this block `end` cancels the task, and nowhere else: what an attempt came to is written undisturbed.

        What the task does from here on is known to be this attempt's. Raises `CancelledError` where the end has come.
        """
        if self.reason is not None:
            raise asyncio.CancelledError
        CURRENT.set(self)
        self._stoppable = asyncio.current_task()
        try:
            yield
        finally:
            self._stoppable = self.overdue_at = None

    def limit_to(self, seconds: float | None) -> None:
        """What runs in the stoppable block has this much time from now on; the keeper sees to it on a blocked loop."""
        self.limit = seconds
        self.overdue_at = None if seconds is None else time.monotonic() + seconds

    def renewed(self, deadline: float) -> None:
        """The keeper lengthened the lease, to this point of the local monotonic clock."""
        self.deadline = deadline
        self._news.set()

    def end(self, reason: EndReason) -> None:
        """Stop the attempt, once: the first reason stands, but that a lease is gone outweighs all."""
        if self.reason is None or (reason is EndReason.GONE and self.reason is not EndReason.GONE):
            self.reason = reason
            self._news.set()
            if self._stoppable is not None:
                self._stoppable.cancel()

    @property
    def fence(self) -> str:
        """The job and the attempt: what the lease is for."""
        return f"{self.job.ref} {self.job.attempt}"

    @property
    def gone(self) -> bool:
        return self.reason is EndReason.GONE

    async def confirmed(self) -> None:
        """Return once the lease is known to hold. Raises `LeaseLost` once it is known to be gone."""
        while not self.gone and time.monotonic() >= self.deadline:
            self._news.clear()
            await self._news.wait()
        if self.gone:
            raise LeaseLost(self.job.ref)


class FencedWriter:
    """All that an attempt writes to the store, under its lease."""

    def __init__(self, store: JobStore, worker: str, lease: Lease) -> None:
        self.store = store
        self.worker = worker
        self.lease = lease
        self.job = lease.job
        self._saved = int(lease.job.record.get(b"saved", 0))

    async def append(self, events: Sequence[bytes]) -> None:
        """Add events to the job's stream. Raises `LeaseLost`."""
        if not await self._when_held(lambda: self.store.append(self.worker, self.job, events)):
            self._lost()

    async def checkpoint(
        self, changed: Mapping[bytes, bytes], dropped: Sequence[bytes], *, whole: bool = False
    ) -> None:
        """Change what the job's saver keeps, or replace the `whole` of it. One call at a time.

        Raises `LeaseLost`, and `EarlierWriteLost` where the whole is needed.
        """
        number = self._saved + 1
        if not await self._when_held(
            lambda: self.store.checkpoint(self.worker, self.job, changed, dropped, number=number, whole=whole)
        ):
            self._lost()
        self._saved = number
        await self.lease.confirmed()  # a node follows: not where the process stood still before it read the answer

    async def checkpoints(self) -> dict[bytes, bytes]:
        """What earlier attempts of the job kept. Raises `LeaseLost`."""
        found = await self._when_held(lambda: self.store.checkpoints(self.job))
        await self.lease.confirmed()
        return found

    async def head(self) -> dict[bytes, bytes]:
        """Where the job's thread stands. Raises `LeaseLost`."""
        found = await self._when_held(lambda: self.store.head(self.job))
        await self.lease.confirmed()
        return found

    async def pin(self, pins: Sequence[tuple[str, str, str]]) -> None:
        """Move the head of the job's thread. Raises `LeaseLost`."""
        if not await self._when_held(lambda: self.store.pin(self.worker, self.job, pins)):
            self._lost()
        await self.lease.confirmed()

    async def finish(
        self, status: Literal["succeeded", "failed", "cancelled", "interrupted"], *,
        output: bytes = b"", fields: Mapping[str, bytes] | None = None, events: Sequence[bytes] = (),
    ) -> None:  # fmt: skip
        """End the round. Raises `LeaseLost`."""
        answer = await self._when_held(
            lambda: self.store.finish(self.worker, self.job, status, output=output, fields=fields, events=events)
        )
        if answer == "gone":
            self._lost()

    async def release(
        self, kind: Literal["hand_back", "backoff"], *,
        delay_seconds: float = 0, error: bytes = b"", events: Sequence[bytes] = (),
    ) -> str:  # fmt: skip
        """Give the job back; gives its status now. Raises `LeaseLost`."""
        answer = await self._when_held(
            lambda: self.store.release(
                self.worker, self.job, kind, delay_seconds=delay_seconds, error=error, events=events
            )
        )
        if answer == "gone":
            self._lost()
        return answer

    async def _when_held(self, call: Callable[[], Awaitable[Answer]]) -> Answer:
        written = False
        while True:
            if not written:
                await self.lease.confirmed()
            try:
                return await call()
            except NotReplicated as error:
                # Whether it stands, the script says when it is sent again; a lease that it ended tells nothing.
                written = True
                logger.warning("attempt waits for replicas", error=str(error))
                await asyncio.sleep(RETRY_SECONDS)
            except StoreError as error:
                logger.warning("attempt waits for Redis", error=str(error))
                await asyncio.sleep(RETRY_SECONDS)

    def _lost(self) -> None:
        self.lease.end(EndReason.GONE)
        raise LeaseLost(self.job.ref)
