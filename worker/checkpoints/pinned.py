"""The saver of threads: LangGraph's SQLite or PostgreSQL saver, with the head pinned in Redis under the job's fence.

A database cannot know that a lease was lost: a stale attempt may store a checkpoint after another worker has gone on.
So an attempt starts from the checkpoint, and takes over the tasks' writes, that a fenced script has named, never from
what is merely the newest.
"""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
    get_checkpoint_id,
)

from worker.checkpoints.answers import writes_to_store
from worker.checkpoints.coalescing import CoalescedWrite
from worker.checkpoints.namespaces import is_of_a_task

Pin = tuple[str, str, str]
"""Namespace, checkpoint id, and a task whose writes to it are stored, empty for the checkpoint itself."""


class Head:
    """Where a thread stands: by namespace the checkpoint to start from, and the tasks whose writes to it count.

    `fields` are as the store has them; none for a thread that was never pinned: its newest checkpoint counts then.
    """

    def __init__(self, fields: Mapping[bytes, bytes]) -> None:
        self.known = bool(fields)
        self.checkpoints: dict[str, str] = {}
        self.tasks: dict[str, tuple[str, set[str]]] = {}
        for name, value in fields.items():
            kind, _, namespace = name.decode().partition(":")
            if kind == "h":
                self.checkpoints[namespace] = value.decode()
            elif kind == "w":
                checkpoint, *tasks = value.decode().split(" ")
                self.tasks[namespace] = (checkpoint, set(tasks))

    def move(self, pin: Pin) -> None:
        """As the script moves it."""
        namespace, checkpoint, task = pin
        self.known = True
        counted, tasks = self.tasks.get(namespace, ("", set()))
        if not task:
            self.checkpoints[namespace] = checkpoint
            if counted != checkpoint:
                self.tasks.pop(namespace, None)
            for child in [one for one in {*self.checkpoints, *self.tasks} if is_of_a_task(one, namespace)]:
                self.checkpoints.pop(child, None)
                self.tasks.pop(child, None)
        elif counted == checkpoint:
            tasks.add(task)
        elif not counted or counted < checkpoint or checkpoint == self.checkpoints.get(namespace):
            self.tasks[namespace] = (checkpoint, {task})

    def counts(self, namespace: str, checkpoint: str, task: str) -> bool:
        """Whether the writes of this task to this checkpoint were made under a lease."""
        counted, tasks = self.tasks.get(namespace, ("", set()))
        return counted == checkpoint and task in tasks


class PinnedSaver(BaseCheckpointSaver[Any]):
    """One attempt's view of a thread. `pin` writes under the fence, and raises where the lease is gone."""

    starting: Collection[str] = ()

    def __init__(
        self, inner: BaseCheckpointSaver[Any], head: Head, pin: Callable[[Sequence[Pin]], Awaitable[None]]
    ) -> None:
        super().__init__(serde=inner.serde)
        self.inner = inner
        self.head = head
        self._shared = set(head.checkpoints.values())  # a stale attempt may write to these too
        self._pins: list[Pin] = []
        self.begun = False  # whether the graph has read where it stands: from then on a node may have been started

        async def write_pins() -> None:
            pins = self._pins.copy()
            self._pins.clear()
            if pins:
                await pin(pins)

        self.stored = CoalescedWrite(write_pins)

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        namespace = config["configurable"].get("checkpoint_ns", "")
        if get_checkpoint_id(config) is None and self.head.known:
            pinned = self.head.checkpoints.get(namespace)
            if pinned is None:
                self.begun = True
                return None
            config = {**config, "configurable": {**config["configurable"], "checkpoint_id": pinned}}
        found = await self.inner.aget_tuple(config)
        self.begun = True
        if found is None or found.checkpoint["id"] != self.head.checkpoints.get(namespace):
            return found
        checkpoint = found.checkpoint["id"]
        counted = [write for write in found.pending_writes or [] if self.head.counts(namespace, checkpoint, write[0])]
        return found._replace(pending_writes=counted)

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        saved = await self.inner.aput(config, checkpoint, metadata, new_versions)
        await self._pin((config["configurable"].get("checkpoint_ns", ""), checkpoint["id"], ""))
        return saved

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        own = writes_to_store(writes)
        await self.inner.aput_writes(config, own, task_id, task_path)
        place = config["configurable"]
        if place["checkpoint_id"] in self._shared and not await self._has(config, own, task_id):
            return  # the task runs again, should another attempt go on from here
        await self._pin((place.get("checkpoint_ns", ""), place["checkpoint_id"], task_id))

    async def settled(self, *, succeeded: bool) -> None:
        """Return once nothing is being written any more."""
        await self.stored.settled()

    def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        return self.inner.alist(config, filter=filter, before=before, limit=limit)

    async def adelete_thread(self, thread_id: str) -> None:
        await self.inner.adelete_thread(thread_id)

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        return await self.inner.aget_delta_channel_history(config=config, channels=channels)

    def get_next_version(self, current: Any, channel: None) -> Any:
        return self.inner.get_next_version(current, channel)

    def with_allowlist(self, extra_allowlist: Collection[tuple[str, ...]]) -> BaseCheckpointSaver[Any]:
        inner = self.inner.with_allowlist(extra_allowlist)
        if inner is self.inner:
            return self
        clone = copy.copy(self)
        clone.inner, clone.serde = inner, inner.serde
        return clone

    async def _has(self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str) -> bool:
        """Whether the database has these writes of a task: it keeps what came first, be it a stale attempt's."""
        found = await self.inner.aget_tuple(config)
        kept = [(channel, value) for task, channel, value in (found and found.pending_writes) or [] if task == task_id]
        packed = [(channel, self.serde.dumps_typed(value)) for channel, value in kept]
        # As read back, for what is read may not be packed as what was written.
        read_back = [(channel, self.serde.loads_typed(self.serde.dumps_typed(value))) for channel, value in writes]
        return all((channel, self.serde.dumps_typed(value)) in packed for channel, value in read_back)

    async def _pin(self, pin: Pin) -> None:
        self.head.move(pin)
        self._pins.append(pin)
        await self.stored()
