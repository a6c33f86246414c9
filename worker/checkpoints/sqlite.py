"""Threads in SQLite: LangGraph's saver, on a thread of its own, and one trip there for a question or a transaction."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
    get_checkpoint_metadata,
)
from langgraph.checkpoint.sqlite import SqliteSaver

from worker.checkpoints.driver import Change, Driver, StoredTogether

Answer = TypeVar("Answer")
LOCK_SECONDS = 30
SETUP_RETRY_SECONDS = 0.1
_WRITE = (
    "INTO writes (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, value)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
STATEMENTS = {
    "checkpoint": "INSERT OR REPLACE INTO checkpoints (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id,"
    " type, checkpoint, metadata) VALUES (?, ?, ?, ?, ?, ?, ?)",
    "write": f"INSERT OR IGNORE {_WRITE}",
    "rewrite": f"INSERT OR REPLACE {_WRITE}",
}


class SqliteDriver(Driver, SqliteSaver):
    """LangGraph's tables in SQLite. A call that is broken off is done all the same."""

    def __init__(self, connection: sqlite3.Connection, thread: ThreadPoolExecutor) -> None:
        super().__init__(connection)
        self._thread = thread
        self.together = StoredTogether(self._write)

    async def run(self, call: Callable[[], Answer]) -> Answer:
        """Call in the connection's thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        return await self.run(lambda: self.get_tuple(config))

    def checkpoint_changes(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> list[Change]:
        asked = config["configurable"]
        noted = json.dumps(get_checkpoint_metadata(config, metadata), ensure_ascii=False).encode("utf-8", "ignore")
        place = (str(asked["thread_id"]), asked["checkpoint_ns"], checkpoint["id"], asked.get("checkpoint_id"))
        return [Change("checkpoint", (*place, *self.serde.dumps_typed(checkpoint), noted))]

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        for found in await self.run(lambda: [*self.list(config, filter=filter, before=before, limit=limit)]):
            yield found

    async def adelete_thread(self, thread_id: str) -> None:
        await self.run(lambda: self.delete_thread(thread_id))

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        return await self.run(lambda: self.get_delta_channel_history(config=config, channels=channels))

    async def _write(self, changes: Sequence[Change]) -> None:
        await self.run(lambda: self._write_here(changes))

    def _write_here(self, changes: Sequence[Change]) -> None:
        with self.lock:
            self.conn.execute("BEGIN IMMEDIATE")
            try:
                for kind, alike in groupby(changes, lambda change: change.kind):
                    self.conn.executemany(STATEMENTS[kind], [change.row for change in alike])
                self.conn.execute("COMMIT")
            except BaseException:
                self.conn.rollback()
                raise


async def open_sqlite(resources: AsyncExitStack, url: str) -> SqliteDriver:
    """The file, with its tables in place. Raises what SQLite does."""
    path = Path(url.removeprefix("sqlite:///"))
    path.parent.mkdir(parents=True, exist_ok=True)
    thread = ThreadPoolExecutor(1, thread_name_prefix="threads-sqlite")
    resources.callback(thread.shutdown, wait=False)
    # No transactions but those begun here: they end in the thread, whatever becomes of who asked for them.
    connection = await asyncio.get_running_loop().run_in_executor(
        thread, lambda: sqlite3.connect(path, timeout=LOCK_SECONDS, isolation_level=None, check_same_thread=False)
    )
    driver = SqliteDriver(connection, thread)
    resources.push_async_callback(driver.run, connection.close)
    resources.push_async_callback(driver.together.stop)
    await driver.run(lambda: connection.execute("PRAGMA synchronous=NORMAL"))
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            await driver.run(driver.setup)
            return driver
        except sqlite3.OperationalError as error:
            # Two workers that start together: turning a fresh file to WAL does not wait for the other's lock.
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            await driver.run(connection.rollback)
            await asyncio.sleep(SETUP_RETRY_SECONDS)
