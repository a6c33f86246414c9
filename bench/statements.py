"""Counting the SQL statements that a saver of LangGraph's sends. It costs time: not for runs that are timed."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from unittest.mock import patch

import psycopg


@asynccontextmanager
async def counted_statements(saver: Any) -> AsyncIterator[Counter[str]]:
    """`statements` of a SQLite saver, with what its connection adds (BEGIN, COMMIT), or of a PostgreSQL saver."""
    counts: Counter[str] = Counter()
    if not hasattr(saver, "pipe"):
        await saver.conn.set_trace_callback(lambda _: counts.update(["statements"]))
        yield counts
        await saver.conn.set_trace_callback(None)
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
