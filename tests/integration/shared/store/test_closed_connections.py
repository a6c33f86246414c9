"""Connections that the server closes or leaves hanging, on the event loop that processes run on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest
import uvloop
from redis.exceptions import ConnectionError

from shared.store import JobStore, StoreUnavailable, connect, connect_blocking
from tests.job_queue import TENANT
from tests.proxies import Proxy
from tests.servers import Valkey


def on_uvloop(test: Callable[[], Awaitable[None]]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(test())  # type: ignore[arg-type]


def test_a_write_to_a_connection_that_is_closed_is_a_lost_connection(valkey_server: Valkey) -> None:
    """uvloop raises a RuntimeError there, which would be taken for a bug: of a job, or of the worker."""

    async def test() -> None:
        for redis in (connect(valkey_server.url), connect_blocking(valkey_server.url)):
            async with redis:
                await redis.ping()
                (connection,) = redis.connection_pool._available_connections
                await connection.connect()
                connection._writer.transport.abort()  # what a reset does between the check and the write
                await asyncio.sleep(0)
                with pytest.raises(ConnectionError, match="closed"):
                    await connection.send_command("PING")
                await redis.ping()

    on_uvloop(test)


def test_a_connection_that_is_closed_while_it_is_made_is_made_again(valkey_server: Valkey) -> None:
    async def test() -> None:
        async with connect(valkey_server.url, tries=2) as redis:
            made = redis.connection_pool.connection_class
            handshakes = 0

            class Closed(made):  # type: ignore[misc, valid-type]
                async def on_connect(self) -> None:
                    nonlocal handshakes
                    handshakes += 1
                    if handshakes == 1:
                        self._writer.transport.abort()
                        await asyncio.sleep(0)
                    await super().on_connect()

            redis.connection_pool.connection_class = Closed
            assert await redis.ping()
            assert handshakes == 2

    on_uvloop(test)


def test_one_connection_that_hangs_is_the_last_that_does(valkey_server: Valkey) -> None:
    async def test() -> None:
        with Proxy(valkey_server.url) as proxy:
            async with connect(proxy.url, answer_within=0.5, tries=2) as redis:
                store = JobStore(redis, result_ttl_seconds=60)
                await asyncio.gather(*(store.get(TENANT, "a") for _ in range(30)))
                assert len(redis.connection_pool._available_connections) > 10
                proxy.swallow()
                await asyncio.sleep(0.1)
                with pytest.raises(StoreUnavailable):
                    await store.get(TENANT, "a")
                started = time.monotonic()
                await asyncio.gather(*(store.get(TENANT, "a") for _ in range(30)))
                assert time.monotonic() - started < 5

    on_uvloop(test)
