"""LangGraph's SQLite or PostgreSQL saver, through whatever connection there is: one that is lost is not its end."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
)

from worker.checkpoints.driver import Change, ChangesSaver, Driver

Answer = TypeVar("Answer")


class Ask(Protocol):
    """Puts a question to the saver there is, again where the connection is lost. Raises `ThreadsAway`."""

    async def __call__(self, question: Callable[[Driver], Awaitable[Answer]]) -> Answer: ...


class DatabaseSaver(ChangesSaver):
    """Stores checkpoints by `ask`. All that it writes may be written twice. `like` says how versions are counted."""

    def __init__(self, ask: Ask, like: Driver) -> None:
        super().__init__(serde=like.serde)
        self._ask = ask
        self._like = like

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        return await self._ask(lambda driver: self._mine(driver).aget_tuple(config))

    def checkpoint_changes(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> list[Change]:
        return self._mine(self._like).checkpoint_changes(config, checkpoint, metadata, new_versions)

    def writes_changes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> list[Change]:
        return self._mine(self._like).writes_changes(config, writes, task_id, task_path)

    async def store(self, changes: Sequence[Change]) -> None:
        """Store all of them, or none. Raises `ThreadsAway`, and what the driver raises for a row that is wrong."""
        await self._ask(lambda driver: driver.store(changes))

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        async def all_of(driver: Driver) -> list[CheckpointTuple]:
            found = self._mine(driver).alist(config, filter=filter, before=before, limit=limit)
            return [checkpoint async for checkpoint in found]

        for checkpoint in await self._ask(all_of):
            yield checkpoint

    async def adelete_thread(self, thread_id: str) -> None:
        await self._ask(lambda driver: driver.adelete_thread(thread_id))

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        return await self._ask(
            lambda driver: self._mine(driver).aget_delta_channel_history(config=config, channels=channels)
        )

    def get_next_version(self, current: Any, channel: None) -> Any:
        return self._like.get_next_version(current, channel)

    def _mine(self, driver: Driver) -> Driver:
        """This driver with our own serializer, which a graph may have narrowed."""
        if driver.serde is self.serde:
            return driver
        mine = copy.copy(driver)
        mine.serde = self.serde
        return mine
