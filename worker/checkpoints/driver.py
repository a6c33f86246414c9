"""What the threads' savers have in common: LangGraph's savers, which can also store changes of several jobs at once.

A change is a row of one of LangGraph's tables, made when LangGraph hands it over, for a node may change a value later.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from typing import Any, Literal, NamedTuple

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
)

from worker.checkpoints.outage import is_outage

TOGETHER_BYTES = 4_000_000
STOP_SECONDS = 1.0


class Change(NamedTuple):
    """A row to store: a `checkpoint`, a `blob` (a channel's value), or a `write` of a task.

    What is there already is kept, but for a checkpoint, and a `rewrite`: a write that takes the place of an earlier
    one. The row begins with the thread, and its size is about that of its bytes.
    """

    kind: Literal["checkpoint", "blob", "write", "rewrite"]
    row: tuple[Any, ...]


Wish = tuple[Sequence[Change], asyncio.Future[None]]


class StoredTogether:
    """Has changes written in one transaction with those that came while the one before was under way.

    A caller that is cancelled breaks off nothing. Where the database refuses what several wanted, each is asked for
    alone: a row that is wrong is only its own job's.
    """

    def __init__(self, write: Callable[[Sequence[Change]], Awaitable[None]]) -> None:
        self._write = write
        self._waiting: list[Wish] = []
        self._writing: asyncio.Task[None] | None = None

    async def __call__(self, changes: Sequence[Change]) -> None:
        """Return once they are stored. Raises what `write` raises."""
        loop = asyncio.get_running_loop()
        stored = loop.create_future()
        self._waiting.append((changes, stored))
        if self._writing is None:
            self._writing = loop.create_task(self._run(), context=Context())  # it is nobody's, but everybody's
        await stored

    async def stop(self) -> None:
        """Break off what is under way: its callers hear that the connection is lost."""
        writing = self._writing
        while writing is not None and not writing.done():
            writing.cancel()  # psycopg takes the first for a wish to ask the server
            await asyncio.wait([writing], timeout=STOP_SECONDS)

    async def _run(self) -> None:
        try:
            await asyncio.sleep(0)  # with those of this turn of the loop
            while self._waiting:
                await self._write_for(self._next())
        finally:
            self._writing = None
            _tell(self._waiting, ConnectionError("the connection was given up"))

    def _next(self) -> list[Wish]:
        size = taken = 0
        for changes, _ in self._waiting:
            size += sum(len(part) for change in changes for part in change.row if isinstance(part, bytes | str))
            if taken and size > TOGETHER_BYTES:
                break
            taken += 1
        together, self._waiting = self._waiting[:taken], self._waiting[taken:]
        return together

    async def _write_for(self, together: list[Wish]) -> None:
        try:
            await self._write([change for changes, _ in together for change in changes])
        except Exception as error:
            if len(together) == 1 or is_outage(error):
                _tell(together, error)
                return
            for one in together:
                await self._write_for([one])
        else:
            _tell(together, None)
        finally:
            _tell(together, ConnectionError("the connection was given up"))


def _tell(wishes: Sequence[Wish], error: Exception | None) -> None:
    """Tell those that wait still and have not been told."""
    for _, stored in wishes:
        if stored.done():
            continue
        if error is None:
            stored.set_result(None)
        else:
            stored.set_exception(error)


class ChangesSaver(BaseCheckpointSaver[Any]):
    """A saver of LangGraph's whose changes are first made, and then stored, all or none."""

    @abstractmethod
    def checkpoint_changes(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> list[Change]:
        """What `aput` stores."""

    @abstractmethod
    def writes_changes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> list[Change]:
        """What `aput_writes` stores."""

    @abstractmethod
    async def store(self, changes: Sequence[Change]) -> None:
        """Store all of them, or raise and store none. Those of several callers may go together."""

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        await self.store(self.checkpoint_changes(config, checkpoint, metadata, new_versions))
        return saved_as(config, checkpoint)

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        await self.store(self.writes_changes(config, writes, task_id, task_path))


class Driver(ChangesSaver):
    """The changes of one of LangGraph's databases, stored over one connection."""

    together: StoredTogether

    def writes_changes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> list[Change]:
        asked = config["configurable"]
        place = (str(asked["thread_id"]), str(asked["checkpoint_ns"]), str(asked["checkpoint_id"]), task_id, task_path)
        kind: Literal["write", "rewrite"] = "rewrite" if all(name in WRITES_IDX_MAP for name, _ in writes) else "write"
        return [
            Change(kind, (*place, WRITES_IDX_MAP.get(channel, index), channel, *self.serde.dumps_typed(value)))
            for index, (channel, value) in enumerate(writes)
        ]

    async def store(self, changes: Sequence[Change]) -> None:
        await self.together(changes)


def saved_as(config: RunnableConfig, checkpoint: Checkpoint) -> RunnableConfig:
    """What `aput` answers."""
    asked = config["configurable"]
    names = {
        "thread_id": asked["thread_id"],
        "checkpoint_ns": asked["checkpoint_ns"],
        "checkpoint_id": checkpoint["id"],
    }
    return {"configurable": names}
