"""Threads in PostgreSQL: LangGraph's saver, with one statement, and so one transaction, for the changes of many jobs.

It reads through one connection and writes through another, for a commit waits for the disk. Both are given up together.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    get_serializable_checkpoint_metadata,
)
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.serde.types import _DeltaSnapshot
from psycopg import AsyncConnection
from psycopg.rows import DictRow, dict_row

from worker.checkpoints.driver import Change, Driver, StoredTogether

CONNECT_SECONDS = 5
UNANSWERED_SECONDS = 20
SETUP_LOCK = 0x6D61735F  # "mas_": one worker at a time creates the tables
SETUP_RETRY_SECONDS = 0.1
TRY_LOCK = "SELECT pg_try_advisory_lock(%s) AS locked"
_WRITES = """
    INSERT INTO checkpoint_writes
        (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob)
    SELECT * FROM unnest(%b::text[], %b::text[], %b::text[], %b::text[], %b::text[], %b::int[], %b::text[], %b::text[],
        %b::bytea[])
    ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id, task_id, idx)
"""
STORE = f"""
WITH blobs AS (
    INSERT INTO checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
    SELECT * FROM unnest(%b::text[], %b::text[], %b::text[], %b::text[], %b::text[], %b::bytea[])
    ON CONFLICT (thread_id, checkpoint_ns, channel, version) DO NOTHING
), writes AS ({_WRITES} DO NOTHING)
INSERT INTO checkpoints (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata)
SELECT thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint::jsonb, metadata::jsonb
FROM unnest(%b::text[], %b::text[], %b::text[], %b::text[], %b::text[], %b::text[])
    AS given (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata)
ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id)
DO UPDATE SET checkpoint = EXCLUDED.checkpoint, metadata = EXCLUDED.metadata
"""  # noqa: S608 - of constants
REWRITE = f"{_WRITES} DO UPDATE SET channel = EXCLUDED.channel, type = EXCLUDED.type, blob = EXCLUDED.blob"
COLUMNS = {"blob": 6, "write": 9, "checkpoint": 6, "rewrite": 9}  # in the order of the statements' parameters
KEYS = {"checkpoint": slice(0, 3), "rewrite": slice(0, 6)}  # a statement may not change a row twice


class PostgresDriver(Driver, AsyncPostgresSaver):
    """LangGraph's tables in PostgreSQL."""

    def __init__(self, reading: AsyncConnection[DictRow], writing: AsyncConnection[DictRow]) -> None:
        super().__init__(reading)
        self._writing = writing
        self.together = StoredTogether(self._write)

    def checkpoint_changes(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> list[Change]:
        asked = config["configurable"]
        place = (str(asked["thread_id"]), asked["checkpoint_ns"])
        changes: list[Change] = []
        inline: dict[str, Any] = {}
        for channel, value in checkpoint["channel_values"].items():
            if value is None or isinstance(value, str | int | float | bool):
                inline[channel] = value
                continue
            if isinstance(value, _DeltaSnapshot):
                inline[channel] = True
            if channel in new_versions:
                stored = (channel, str(new_versions[channel]), *self.serde.dumps_typed(value))
                changes.append(Change("blob", (*place, *stored)))
        noted = json.dumps(get_serializable_checkpoint_metadata(config, metadata))
        body = json.dumps({**checkpoint, "channel_values": inline})
        row = (*place, checkpoint["id"], asked.get("checkpoint_id"), body, noted)
        return [*changes, Change("checkpoint", row)]

    async def _write(self, changes: Sequence[Change]) -> None:
        rows: dict[str, list[tuple[Any, ...]]] = {kind: [] for kind in COLUMNS}
        for change in changes:
            rows[change.kind].append(change.row)
        for kind, key in KEYS.items():
            rows[kind] = list({row[key]: row for row in rows[kind]}.values())
        columns = {kind: _columns(found, COLUMNS[kind]) for kind, found in rows.items()}
        everything = (*columns["blob"], *columns["write"], *columns["checkpoint"])
        if not rows["rewrite"]:
            await self._writing.execute(STORE, everything)
            return
        async with self._writing.transaction():
            await self._writing.execute(STORE, everything)
            await self._writing.execute(REWRITE, columns["rewrite"])


def _columns(rows: list[tuple[Any, ...]], count: int) -> list[list[Any]]:
    """Rows as columns, by thread: workers that write the same rows must not do so in different orders."""
    if not rows:
        return [[] for _ in range(count)]
    return [list(column) for column in zip(*sorted(rows, key=lambda row: row[0]), strict=True)]


async def open_postgres(resources: AsyncExitStack, url: str) -> PostgresDriver:
    """The database, with its tables in place. Raises what psycopg does."""

    async def connect() -> Any:
        connection: Any = await AsyncConnection.connect(
            url, autocommit=True, prepare_threshold=0, row_factory=dict_row,
            connect_timeout=CONNECT_SECONDS, tcp_user_timeout=UNANSWERED_SECONDS * 1000,
        )  # fmt: skip
        resources.push_async_callback(connection.close)  # at once: what is under way is rolled back by the server
        return connection

    reading = await connect()
    # Two workers that start together would otherwise create the same tables. They try for the lock: a statement that
    # waits for it would hold up the `CREATE INDEX CONCURRENTLY` of the one that has it.
    while not (await (await reading.execute(TRY_LOCK, (SETUP_LOCK,))).fetchone())["locked"]:  # noqa: ASYNC110
        await asyncio.sleep(SETUP_RETRY_SECONDS)
    try:
        await AsyncPostgresSaver(reading).setup()
    finally:
        await reading.execute("SELECT pg_advisory_unlock(%s)", (SETUP_LOCK,))
    driver = PostgresDriver(reading, await connect())
    resources.push_async_callback(driver.together.stop)
    return driver
