"""LangGraph's SQLite or PostgreSQL saver, through whatever connection there is: one that is lost is not its end."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
)

Answer = TypeVar("Answer")
Saver = BaseCheckpointSaver[Any]


class Ask(Protocol):
    """Puts a question to the saver there is, again where the connection is lost. Raises `ThreadsAway`."""

    async def __call__(self, question: Callable[[Saver], Awaitable[Answer]]) -> Answer: ...


class DatabaseSaver(BaseCheckpointSaver[Any]):
    """Stores checkpoints by `ask`. All that it writes may be written twice. `like` says how versions are counted."""

    def __init__(self, ask: Ask, like: Saver) -> None:
        super().__init__(serde=like.serde)
        self._ask = ask
        self._like = like

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        return await self._ask(lambda saver: self._mine(saver).aget_tuple(config))

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        return await self._ask(lambda saver: self._mine(saver).aput(config, checkpoint, metadata, new_versions))

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        await self._ask(lambda saver: self._mine(saver).aput_writes(config, writes, task_id, task_path))

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        async def all_of(saver: Saver) -> list[CheckpointTuple]:
            found = self._mine(saver).alist(config, filter=filter, before=before, limit=limit)
            return [checkpoint async for checkpoint in found]

        for checkpoint in await self._ask(all_of):
            yield checkpoint

    async def adelete_thread(self, thread_id: str) -> None:
        await self._ask(lambda saver: saver.adelete_thread(thread_id))

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        return await self._ask(
            lambda saver: self._mine(saver).aget_delta_channel_history(config=config, channels=channels)
        )

    def get_next_version(self, current: Any, channel: None) -> Any:
        return self._like.get_next_version(current, channel)

    def _mine(self, saver: Saver) -> Saver:
        """This saver with our own serializer, which a graph may have narrowed."""
        if saver.serde is self.serde:
            return saver
        mine = copy.copy(saver)
        mine.serde = self.serde
        return mine
