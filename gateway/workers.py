"""`python -m gateway workers`: the workers that live now, for scripts and operators on a machine of the service."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from shared.settings import Settings, SettingsError
from shared.store import Registry, StoreError, connect

COLUMNS = ("HOST", "PID", "SINCE", "RUNNING", "QUEUES")


def run(settings: Settings) -> int:
    """Print a line for each, below the columns' names. Gives the exit status: 1 where there is none.

    Raises `SettingsError` where Redis cannot be reached.
    """
    rows = [COLUMNS, *(_row(worker) for worker in _ask(settings))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    if len(rows) == 1:
        print("No worker is running: jobs are accepted and wait.", file=sys.stderr)
        return 1
    return 0


def _row(worker: dict[str, Any]) -> tuple[str, ...]:
    running, queues = str(len(worker["running"])), ",".join(worker["queues"])
    return str(worker["host"]), str(worker["pid"]), str(worker["started_at"]), running, queues


def _ask(settings: Settings) -> list[dict[str, Any]]:
    async def ask() -> list[dict[str, Any]]:
        async with connect(settings.require_redis_url()) as redis:
            return await Registry(redis).workers()

    try:
        return asyncio.run(ask())
    except StoreError as error:
        raise SettingsError(f"REDIS_URL is wrong, or its server is down: {error}") from None
