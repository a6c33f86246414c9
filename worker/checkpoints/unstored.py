"""What an attempt of a job in a thread has not stored yet: the database gets it, and then it is pinned."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import PendingWrite

from worker.checkpoints.coalescing import CoalescedWrite
from worker.checkpoints.database import DatabaseSaver
from worker.checkpoints.driver import Change
from worker.checkpoints.head import Head, Pin

SOON_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Written:
    """What a task wrote, to be looked up again."""

    saver: DatabaseSaver
    config: RunnableConfig
    writes: Sequence[tuple[str, Any]]
    task_id: str

    async def is_all(self, known: Sequence[tuple[str, Any]]) -> bool:
        """Whether the database has these writes of the task, and none but these and those that are `known`.

        It keeps what came first, be it a stale attempt's.
        """
        found = await self.saver.aget_tuple(self.config)
        stored = [(name, value) for task, name, value in (found and found.pending_writes) or [] if task == self.task_id]
        kept, own, known_before = (self._packed(writes) for writes in (stored, self.writes, known))
        return all(one in kept for one in own) and all(one in own or one in known_before for one in kept)

    def _packed(self, writes: Sequence[tuple[str, Any]]) -> list[Any]:
        """As they would be packed once they had been read back, which may not be as they were packed at first."""
        serde = self.saver.serde
        read_back = [(channel, serde.loads_typed(serde.dumps_typed(value))) for channel, value in writes]
        return [(channel, serde.dumps_typed(value)) for channel, value in read_back]


class Unstored:
    """The changes of one attempt, in their order; `stored` has them stored in one transaction, and then pinned.

    Where that fails once, it has failed for good: what comes later may build on it.
    """

    def __init__(self, saver: DatabaseSaver, head: Head, pin: Callable[[Sequence[Pin]], Awaitable[None]]) -> None:
        self.begun = False
        self.found: Pin | None = None  # where a thread without a head stands, as the database has it
        self.worked = False  # whether there is a node's work: from then on each step is waited for
        self.stored = CoalescedWrite(self._store)
        self._saver = saver
        self._head = head
        self._pin = pin
        self._shared = set(head.checkpoints.values())  # a stale attempt may write to these too
        self._known: defaultdict[Pin, list[tuple[str, Any]]] = defaultdict(list)  # by task, what it wrote to these
        self._changes: list[Change] = []
        self._pins: list[tuple[Pin, Written | None]] = []
        self._storing = False
        self._failure: Exception | None = None
        self._timer: asyncio.TimerHandle | None = None

    def has_read(self, namespace: str, checkpoint: str, counted: Sequence[PendingWrite]) -> None:
        """Take note of the tasks' writes that this attempt started with."""
        for task, channel, value in counted:
            self._known[namespace, checkpoint, task].append((channel, value))

    def add(self, changes: Sequence[Change], pin: Pin, written: Written | None = None) -> None:
        self._changes += changes
        self._pins.append((pin, written))

    def store_soon(self) -> None:
        """Have it stored with what somebody waits for next, or by itself, within a moment."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(SOON_SECONDS, self._store_unasked)

    def _store_unasked(self) -> None:
        self.stored.begin().add_done_callback(lambda task: task.cancelled() or task.exception())

    @property
    def pending(self) -> bool:
        return bool(self._pins) or self._storing

    async def flush(self) -> None:
        """Return once nothing is unstored. Raises what storing raised."""
        if self.pending or self._failure is not None:
            await self.stored()

    async def _store(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        changes, self._changes = self._changes, []
        pins, self._pins = self._pins, []
        if self._failure is not None:
            raise self._failure
        if not pins:
            return
        self._storing = True
        try:
            if not self._head.known:
                await self._make_known()
            await self._saver.store(changes)
            if counted := await self._counted(pins):
                await self._pin(counted)
        except Exception as error:
            self._failure = error
            raise
        finally:
            self._storing = False

    async def _make_known(self) -> None:
        """Say where the thread stands, before there is anything of this attempt's that could be taken for it."""
        found = [self.found] if self.found else []
        await self._pin(found)
        self._head.known = True
        for pin in found:
            self._head.move(pin)
            self._shared.add(pin[1])

    async def _counted(self, pins: Sequence[tuple[Pin, Written | None]]) -> list[Pin]:
        """Those that still count after all of them, in their order."""
        newest = {pin[0]: pin for pin, written in pins if written is None}
        counted: list[Pin] = []
        for pin, written in pins:
            namespace, checkpoint, _ = pin
            if written is None:
                counts = newest[namespace] is pin
            elif namespace in newest and newest[namespace][1] != checkpoint:
                counts = False  # the step is over, and its checkpoint has it all
            elif checkpoint in self._shared:  # where it does not count, it runs again in the next attempt
                counts = await written.is_all(self._known[pin])
                self._known[pin] += written.writes
            else:
                counts = True
            if counts:
                self._head.move(pin)
                counted.append(pin)
        return counted
