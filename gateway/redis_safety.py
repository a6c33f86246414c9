"""Whether this Redis keeps what it is given: a server set up as a cache loses jobs that were accepted."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from shared.store.errors import store_errors


async def unsafe_settings(redis: Redis) -> list[str]:
    """What this server is set up to lose, a phrase each; empty where nothing. Raises `StoreUnavailable`.

    What a server keeps to itself (managed ones refuse CONFIG) is taken to be safe.
    """
    with store_errors():
        memory = await _answer(redis.info("memory"))
        persistence = await _answer(redis.info("persistence"))
        policy = memory.get("maxmemory_policy", "noeviction")
        fsync = (await _answer(redis.config_get("appendfsync"))).get("appendfsync", "always")
    found = []
    if policy != "noeviction":
        found.append(f"maxmemory-policy is {policy}, which drops jobs when memory is full (set noeviction)")
    if not persistence.get("aof_enabled", 1):
        found.append("appendonly is off, so that a crash loses jobs (set appendonly yes)")
    elif fsync != "always":
        found.append(f"appendfsync is {fsync}, so that a crash can lose the last second (set always)")
    if persistence.get("aof_last_write_status", "ok") != "ok":
        found.append("the last write to the append-only file failed")
    return found


async def _answer(question: Awaitable[dict[str, Any]]) -> dict[str, Any]:
    try:
        return await question
    except ResponseError:
        return {}
