"""Whether this Redis keeps what it is given: a server set up as a cache loses jobs that were accepted."""

from __future__ import annotations

from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from shared.store.errors import store_errors


async def unsafe_settings(redis: Redis) -> list[str]:
    """What this server is set up to lose, a phrase each; empty where nothing. Raises `StoreUnavailable`.

    A server that keeps its settings to itself (managed ones refuse CONFIG) is taken at what INFO says.
    """
    with store_errors():
        memory: dict[str, Any] = await redis.info("memory")
        persistence: dict[str, Any] = await redis.info("persistence")
        try:
            fsync = (await redis.config_get("appendfsync")).get("appendfsync", "")
        except ResponseError:
            fsync = ""
    found = []
    if memory.get("maxmemory_policy", "noeviction") != "noeviction":
        found.append(
            f"maxmemory-policy is {memory['maxmemory_policy']}, which drops jobs when memory is full (set noeviction)"
        )
    if not persistence.get("aof_enabled", 1):
        found.append("appendonly is off, so that a crash loses jobs (set appendonly yes)")
    elif fsync not in ("", "always"):
        found.append(f"appendfsync is {fsync}, so that a crash can lose the last second (set always)")
    if persistence.get("aof_last_write_status", "ok") != "ok":
        found.append("the last write to the append-only file failed")
    return found
