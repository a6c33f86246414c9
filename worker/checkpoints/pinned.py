"""The saver of threads: LangGraph's SQLite or PostgreSQL saver, with the head pinned in Redis under the job's fence.

A database cannot know that a lease was lost: a stale attempt may store a checkpoint after another worker has gone on.
So an attempt starts from the checkpoint, and takes over the tasks' writes, that a fenced script has named, never from
what is merely the newest.
"""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
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
from worker.checkpoints.database import DatabaseSaver
from worker.checkpoints.driver import saved_as
from worker.checkpoints.head import Head, Pin
from worker.checkpoints.namespaces import START_TASK
from worker.checkpoints.unstored import Unstored, Written


class PinnedSaver(BaseCheckpointSaver[Any]):
    """One attempt's view of a thread. `pin` writes under the fence, and raises where the lease is gone.

    What LangGraph hands over in one turn of the event loop is stored in one transaction, and then pinned. What no node
    has worked on yet, the input and where it leads to, waits for the first node's work, but not for long.
    """

    def __init__(self, inner: DatabaseSaver, head: Head, pin: Callable[[Sequence[Pin]], Awaitable[None]]) -> None:
        super().__init__(serde=inner.serde)
        self.inner = inner
        self.head = head
        self.unstored = Unstored(inner, head, pin)
        self.stored = self.unstored.stored

    @property
    def begun(self) -> bool:
        """Whether the graph has read where it stands: from then on a node may have been started."""
        return self.unstored.begun

    @begun.setter
    def begun(self, begun: bool) -> None:
        self.unstored.begun = begun

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        await self.unstored.flush()
        namespace = config["configurable"].get("checkpoint_ns", "")
        if get_checkpoint_id(config) is None and self.head.known:
            pinned = self.head.checkpoints.get(namespace)
            if pinned is None:
                self.begun = True
                return None
            config = {**config, "configurable": {**config["configurable"], "checkpoint_id": pinned}}
        found = await self.inner.aget_tuple(config)
        self.begun = True
        if found is not None and not self.head.known and not namespace:
            self.unstored.found = (namespace, found.checkpoint["id"], "")
        if found is None or found.checkpoint["id"] != self.head.checkpoints.get(namespace):
            return found
        checkpoint = found.checkpoint["id"]
        counted = [write for write in found.pending_writes or [] if self.head.counts(namespace, checkpoint, write[0])]
        self.unstored.has_read(namespace, checkpoint, counted)
        return found._replace(pending_writes=counted)

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        namespace = config["configurable"].get("checkpoint_ns", "")
        changes = self.inner.checkpoint_changes(config, checkpoint, metadata, new_versions)
        self.unstored.add(changes, (namespace, checkpoint["id"], ""))
        if self.unstored.worked:
            await self.stored()
        else:
            self.unstored.store_soon()
        return saved_as(config, checkpoint)

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        place = config["configurable"]
        own = writes_to_store(writes)
        written = Written(self.inner, config, own, task_id)
        changes = self.inner.writes_changes(config, own, task_id, task_path)
        self.unstored.add(changes, (place.get("checkpoint_ns", ""), place["checkpoint_id"], task_id), written)
        if task_path == START_TASK and not self.unstored.worked:
            self.unstored.store_soon()
        else:
            self.unstored.worked = True
            await self.stored()

    async def ended(self) -> None:
        """The graph has come to its end. Return once all is stored. Raises what storing it raises."""
        await self.store_all()

    async def store_all(self) -> None:
        """Return once all is stored. Raises what storing it raises."""
        await self.unstored.flush()

    async def settled(self) -> None:
        """Return once nothing is being written any more: the attempt has come to an end that matters more."""
        with suppress(Exception):
            await self.store_all()
        await self.stored.settled()

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        await self.unstored.flush()
        async for found in self.inner.alist(config, filter=filter, before=before, limit=limit):
            yield found

    async def adelete_thread(self, thread_id: str) -> None:
        await self.unstored.flush()
        await self.inner.adelete_thread(thread_id)

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        await self.unstored.flush()
        return await self.inner.aget_delta_channel_history(config=config, channels=channels)

    def get_next_version(self, current: Any, channel: None) -> Any:
        return self.inner.get_next_version(current, channel)

    def with_allowlist(self, extra_allowlist: Collection[tuple[str, ...]]) -> BaseCheckpointSaver[Any]:
        inner: Any = self.inner.with_allowlist(extra_allowlist)
        if inner is self.inner:
            return self
        clone = copy.copy(self)
        clone.inner, clone.serde = inner, inner.serde
        return clone
