"""A proxy between one process and Redis, which breaks the wire where a test wants it broken.

It knows the call of a script by its SHA-1, and needs no more of the protocol: a connection has one command under way.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Self
from urllib.parse import urlsplit

from shared.store.scripts import Script

CHUNK = 1 << 20


class Fault:
    """What is to happen to one call of a script: the next, or the next whose reply contains `containing`."""

    def __init__(self, script: Script, containing: bytes, loop: asyncio.AbstractEventLoop) -> None:
        self.sha = script.sha.encode()
        self.containing = containing
        self.reached = threading.Event()  # the call, or the reply that is meant, has come
        self.answered = threading.Event()  # a call that was late has been carried out
        self.dropped = False
        self._loop = loop
        self._released = asyncio.Event()

    def release(self, *, drop: bool = False) -> None:
        """Pass on what is held, or close its connection instead."""
        self.dropped = drop
        self._loop.call_soon_threadsafe(self._released.set)

    async def held(self) -> None:
        """Wait for the release."""
        self.reached.set()
        await self._released.wait()


class Proxy:
    """Passes all on to the Redis at `url`, but for what it was told. Use it as `with Proxy(url) as proxy:`."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.server = (parts.hostname, parts.port)
        self.url = ""
        self.flowing = asyncio.Event()
        self.flowing.set()
        self.late_calls: list[Fault] = []
        self.late_replies: list[Fault] = []
        self.lost_replies: list[Fault] = []
        self.frozen: list[bytes] = []  # calls that wait for the thaw
        self._path = parts.path
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._connections: set[asyncio.Task[None]] = set()
        self._open: set[_Connection] = set()

    def freeze(self) -> None:
        """Pass nothing on, in either direction; nothing is lost."""
        self._loop.call_soon_threadsafe(self.flowing.clear)

    def thaw(self) -> None:
        """Pass on what was held, and all that comes."""
        self.frozen.clear()
        self._loop.call_soon_threadsafe(self.flowing.set)

    def swallow(self) -> None:
        """From now on nothing comes through on the connections that are open, and none is closed; new ones work."""

        def silence() -> None:
            for connection in self._open:
                connection.silent = True

        self._loop.call_soon_threadsafe(silence)

    def has_frozen(self, *scripts: Script) -> bool:
        """Whether a call of one of these is on its way, and frozen."""
        return any(script.sha.encode() in call for script in scripts for call in self.frozen)

    def lose_reply(self, script: Script, containing: bytes = b"") -> Fault:
        """Have the call carried out, and close its connection where its reply should come."""
        return self._plan(self.lost_replies, Fault(script, containing, self._loop))

    def hold_reply(self, script: Script, containing: bytes = b"") -> Fault:
        """Have the call carried out, and keep its reply back until the release."""
        return self._plan(self.late_replies, Fault(script, containing, self._loop))

    def delay_call(self, script: Script) -> Fault:
        """Close the caller's connection, and have the call carried out at the release."""
        return self._plan(self.late_calls, Fault(script, b"", self._loop))

    @staticmethod
    def _plan(faults: list[Fault], fault: Fault) -> Fault:
        faults.append(fault)
        return fault

    def __enter__(self) -> Self:
        self._thread.start()
        self._listener: asyncio.Server = self._run(asyncio.start_server(self._accept, "127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.sockets[0].getsockname()[1]}{self._path}"
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def _run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(5)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        connection = _Connection(self, reader, writer)
        self._open.add(connection)
        try:
            await connection.run()
        except asyncio.CancelledError:  # the proxy closes
            return
        finally:
            self._connections.discard(task)
            self._open.discard(connection)

    async def _close(self) -> None:
        self._listener.close()
        connections = list(self._connections)
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)


class _Connection:
    """One connection of the worker, and the one to Redis that stands behind it."""

    def __init__(self, proxy: Proxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.proxy = proxy
        self.client_reader, self.client_writer = reader, writer
        self.call = b""
        self.late: Fault | None = None
        self.silent = False

    async def run(self) -> None:
        self.server_reader, self.server_writer = await asyncio.open_connection(*self.proxy.server)
        tasks = [asyncio.create_task(one) for one in (self._pass_calls(), self._pass_replies())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            for writer in (self.client_writer, self.server_writer):
                writer.close()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _pass_calls(self) -> None:
        while self.late is None and (chunk := await self.client_reader.read(CHUNK)):
            if not self.proxy.flowing.is_set():
                self.proxy.frozen.append(chunk)
                await self.proxy.flowing.wait()
            if self.silent:
                continue
            self.call = chunk
            self.late = self._fault(self.proxy.late_calls)
            if self.late is not None:
                self.client_writer.close()
                await self.late.held()
            self.server_writer.write(chunk)
            await self.server_writer.drain()
        if self.late is not None:
            await asyncio.to_thread(self.late.answered.wait, 5)

    async def _pass_replies(self) -> None:
        while chunk := await self.server_reader.read(CHUNK):
            await self.proxy.flowing.wait()
            if self.silent:
                continue
            if self.late is not None:
                self.late.answered.set()
                return
            if lost := self._fault(self.proxy.lost_replies, chunk):
                lost.reached.set()
                return
            if held := self._fault(self.proxy.late_replies, chunk):
                await held.held()
                if held.dropped:
                    return
            with suppress(ConnectionError):
                self.client_writer.write(chunk)
                await self.client_writer.drain()

    def _fault(self, faults: list[Fault], reply: bytes = b"") -> Fault | None:
        """The fault that is planned for this call and reply, once."""
        fault = next((one for one in faults if one.sha in self.call and one.containing in reply), None)
        if fault is not None:
            faults.remove(fault)
        return fault
