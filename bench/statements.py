"""Counting the SQL statements that a saver of LangGraph's sends. It costs time: not for runs that are timed."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from unittest.mock import patch

import psycopg


@asynccontextmanager
async def counted_statements(sqlite: Any = None) -> AsyncIterator[Counter[str]]:
    """`statements` of a SQLite connection (of the driver's, or aiosqlite's), BEGIN and COMMIT too, or of psycopg's."""
    counts: Counter[str] = Counter()
    if sqlite is not None:
        await _traced(sqlite, lambda _: counts.update(["statements"]))
        yield counts
        await _traced(sqlite, None)
        return
    one, many = psycopg.AsyncCursor.execute, psycopg.AsyncCursor.executemany

    async def counted_one(self: Any, *args: Any, **options: Any) -> Any:
        counts["statements"] += 1
        return await one(self, *args, **options)

    async def counted_many(self: Any, query: Any, rows: Any, **options: Any) -> None:
        rows = list(rows)
        counts["statements"] += len(rows)
        await many(self, query, rows, **options)

    with patch.multiple(psycopg.AsyncCursor, execute=counted_one, executemany=counted_many):
        yield counts


async def _traced(sqlite: Any, heard: Callable[[str], None] | None) -> None:
    set_ = sqlite.set_trace_callback(heard)
    if set_ is not None:
        await set_
