"""Whether this Redis keeps what it is given: a server set up as a cache loses jobs that were accepted."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from shared.store.errors import store_errors

logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)
LOOK_AGAIN_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Safety:
    """What a server is set up to lose or refuse, a phrase each, and the settings that it does not tell.

    Memory in bytes: `max_memory` is 0 where there is no limit; both are None where the server keeps them to itself.
    `last_write_failed`: of the append-only file, or of a snapshot.
    """

    unsafe: tuple[str, ...]
    unknown: tuple[str, ...]
    used_memory: int | None = None
    max_memory: int | None = None
    last_write_failed: bool = False
    replicas: int | None = None


async def look_at_server(redis: Redis, *, wait_replicas: int = 0) -> Safety:
    """How safe the server is, in one round trip. Raises `StoreUnavailable`.

    What a server keeps to itself (managed ones refuse CONFIG) is unknown, not unsafe.
    """
    with store_errors():
        pipeline = redis.pipeline(transaction=False)
        for section in ("memory", "persistence", "replication"):
            pipeline.info(section)
        for setting in ("appendfsync", "save"):
            pipeline.config_get(setting)
        memory, persistence, replication, *settings = await pipeline.execute(raise_on_error=False)
        for answer in (memory, persistence, replication, *settings):
            if isinstance(answer, Exception) and not isinstance(answer, ResponseError):
                raise answer
    told = {name: value for answer in settings for name, value in _fields(answer).items()}
    return _judge(_fields(memory), _fields(persistence), _fields(replication), told, wait_replicas)


class SafetyWatch:
    """Logs a warning when a server turns out to be unsafe: at the start, and when that changes, as by a fail-over."""

    def __init__(self, redis: Redis, *, wait_replicas: int = 0) -> None:
        self.redis = redis
        self.wait_replicas = wait_replicas
        self._looked_at: float | None = None
        self._known = Safety((), ())

    async def look(self) -> None:
        """Look at the server, once a minute at most. Raises `StoreUnavailable`."""
        now = time.monotonic()
        if self._looked_at is not None and now - self._looked_at < LOOK_AGAIN_SECONDS:
            return
        found = await look_at_server(self.redis, wait_replicas=self.wait_replicas)
        if found.unsafe and found.unsafe != self._known.unsafe:
            logger.warning("Redis may lose or refuse jobs", unsafe=list(found.unsafe))
        if found.unknown and found.unknown != self._known.unknown:
            logger.info("Redis does not tell whether it is safe", unknown=list(found.unknown))
        if self._known.unsafe and not found.unsafe:
            logger.info("Redis is set up safely now")
        self._looked_at, self._known = now, found


def _judge(
    memory: Mapping[str, Any], persistence: Mapping[str, Any], replication: Mapping[str, Any],
    told: Mapping[str, Any], wait_replicas: int,
) -> Safety:  # fmt: skip
    unsafe, unknown = [], []
    policy, appends, fsync = memory.get("maxmemory_policy"), persistence.get("aof_enabled"), told.get("appendfsync")
    if policy is None:
        unknown.append("maxmemory-policy")
    elif policy != "noeviction":
        unsafe.append(f"maxmemory-policy is {policy}, which drops jobs when memory is full (set noeviction)")
    if memory.get("maxmemory") and memory.get("used_memory", 0) >= memory["maxmemory"]:
        unsafe.append("its memory is full, so that jobs are refused (maxmemory)")
    if appends is None:
        unknown.append("appendonly")
    elif not appends:
        kept = "keeps no more than its last snapshot" if told.get("save") else "loses jobs"
        unsafe.append(f"appendonly is off, so that a crash {kept} (set appendonly yes)")
    if appends != 0:
        if fsync is None:
            unknown.append("appendfsync")
        elif fsync != "always":
            lost = "the last second" if fsync == "everysec" else "what the system has not written yet"
            unsafe.append(f"appendfsync is {fsync}, so that a crash can lose {lost} (set always)")
    if persistence.get("aof_last_write_status", "ok") != "ok":
        unsafe.append("the last write to the append-only file failed")
    connected = replication.get("connected_slaves", wait_replicas)
    if connected < wait_replicas:
        unsafe.append(f"WAIT_REPLICAS is {wait_replicas}, but {connected} are connected, so that nothing is confirmed")
    writes = ("aof_last_write_status", "aof_last_bgrewrite_status", "rdb_last_bgsave_status")
    return Safety(
        tuple(unsafe),
        tuple(unknown),
        used_memory=memory.get("used_memory"),
        max_memory=memory.get("maxmemory"),
        last_write_failed=any(persistence.get(write, "ok") != "ok" for write in writes),
        replicas=replication.get("connected_slaves"),
    )


def _fields(answer: Any) -> Mapping[str, Any]:
    return answer if isinstance(answer, dict) else {}
