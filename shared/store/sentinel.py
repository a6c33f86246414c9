"""Connections that follow the master: redis-py's Sentinel classes, with what this service needs besides.

A connection asks the sentinels for the master each time it is made. One whose server answers READONLY, for it is a
replica now, is closed by redis-py, and the next asks anew. Besides, a pool in use asks once a second: a master that was
replaced while it was well is told so only seconds later, and takes until then what is lost.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Any

import redis as redis_sync
from redis.asyncio import Redis
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.exceptions import RedisError
from redis.sentinel import Sentinel as SyncSentinel
from redis.sentinel import SentinelConnectionPool as SyncSentinelConnectionPool

from shared.redis_url import SentinelAddress, parse_sentinel_url
from shared.store.pool import OpenPool, SharedPool

# For each sentinel: one that hangs must leave time to ask the next, within what a request may take.
SENTINEL_SECONDS = 0.4
ASK_SECONDS = 1.0


class MasterSentinel(Sentinel):
    """Asks the sentinels once for all who want to know at the same time.

    After a fail-over every connection of a pool asks, and redis-py's reordering of its list loses sentinels when
    questions overlap.
    """

    _question: asyncio.Task[tuple[str, int]] | None = None

    async def discover_master(self, service_name: str) -> tuple[str, int]:
        if self._question is None:
            self._question = asyncio.create_task(super().discover_master(service_name))
            self._question.add_done_callback(self._answered)
        return await asyncio.shield(self._question)

    def _answered(self, question: asyncio.Task[tuple[str, int]]) -> None:
        self._question = None
        if not question.cancelled():
            question.exception()  # nobody may be left who wants to know

    async def aclose(self) -> None:
        """Close the connections to the sentinels."""
        if self._question is not None:
            self._question.cancel()
        for sentinel in self.sentinels:
            await sentinel.aclose()


class MasterPool(SentinelConnectionPool, OpenPool):
    """Connections to the master, which closes those to the sentinels with its own."""

    _asked_at = -ASK_SECONDS
    _asking: asyncio.Task[None] | None = None

    async def ensure_connection(self, connection: Any) -> None:
        now = time.monotonic()
        if now - self._asked_at >= ASK_SECONDS:
            self._asked_at = now
            self._asking = asyncio.create_task(self._ask())
        await super().ensure_connection(connection)

    async def release(self, connection: Any) -> None:
        if connection.is_connected and (connection.host, connection.port) != self.master_address:
            await connection.disconnect()
        await super().release(connection)

    async def disconnect(self, inuse_connections: bool = True) -> None:
        await super().disconnect(inuse_connections)
        if inuse_connections:
            if self._asking is not None:
                self._asking.cancel()
            await self.sentinel_manager.aclose()

    async def _ask(self) -> None:
        with suppress(RedisError, OSError):  # as long as the master answers, it is the one that is known
            await self.get_master_address()  # type: ignore[no-untyped-call]


class BlockingMasterPool(MasterPool, SharedPool):
    """Connections to the master, a limited number that is waited for."""


class SyncMasterPool(SyncSentinelConnectionPool):
    """`MasterPool` for a thread of its own."""

    _asked_at = -ASK_SECONDS

    def get_connection(self, command_name: Any = None, *keys: Any, **options: Any) -> Any:
        now = time.monotonic()
        if now - self._asked_at >= ASK_SECONDS:
            self._asked_at = now
            with suppress(RedisError, OSError):
                self.get_master_address()  # type: ignore[no-untyped-call]
        return super().get_connection()


def master(url: str, pool: type[MasterPool], **options: Any) -> Redis:
    """A client of the master that the sentinels of `url` name; `options` are those of its connections and pool."""
    known = parse_sentinel_url(url)
    sentinel = MasterSentinel(known.sentinels, sentinel_kwargs=_to_sentinels(known))  # type: ignore[no-untyped-call]
    client: Redis = sentinel.master_for(known.name, connection_pool_class=pool, **_to_master(known), **options)
    return client


def master_sync(url: str, **options: Any) -> redis_sync.Redis:
    """`master` for a thread of its own."""
    known = parse_sentinel_url(url)
    sentinel = SyncSentinel(known.sentinels, sentinel_kwargs=_to_sentinels(known))  # type: ignore[no-untyped-call]
    client: redis_sync.Redis = sentinel.master_for(  # type: ignore[no-untyped-call]
        known.name, connection_pool_class=SyncMasterPool, **_to_master(known), **options
    )
    return client


def _to_sentinels(known: SentinelAddress) -> dict[str, Any]:
    patience = {"socket_timeout": SENTINEL_SECONDS, "socket_connect_timeout": SENTINEL_SECONDS}
    return {**patience, "socket_keepalive": True, **known.sentinel_login, **_tls(known)}


def _to_master(known: SentinelAddress) -> dict[str, Any]:
    return {"db": known.db, **known.login, **_tls(known)}


def _tls(known: SentinelAddress) -> dict[str, Any]:
    return {} if known.tls is None else {"ssl": True, **known.tls}
