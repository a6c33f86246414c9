"""uvicorn, as this project runs it: it stops without cutting anyone off. `gateway/processes.py` runs several."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from uvicorn import Config, Server

from gateway.gauges import OwnState
from shared.settings import Settings, load_settings

if TYPE_CHECKING:
    from gateway.connections import Connections

KEEP_ALIVE_SECONDS = 75  # longer than a proxy keeps its connections, so that it is the proxy that closes them
LISTEN_SECONDS = 0.5
TICKS_PER_SECOND = 10
WINDOWS = sys.platform == "win32"
STOP_SECONDS = 10  # for uploads under way; long polls are let go at once


class PatientServer(Server):
    """Stops taking connections first, and closes those it has when they have said what they came for.

    uvicorn does both at once, which breaks the connections that it has taken but not yet heard, and those on which a
    proxy sends a request just then. For `drain_seconds` this one leaves it to the others to close what is idle, and
    asks them to with each answer (`Connection: close`). It also bounds what its connections cost (see
    `gateway/connections.py`).
    """

    bounds: Connections | None = None

    def __init__(self, config: Config, drain_seconds: float = 0, report_to: int | None = None) -> None:
        super().__init__(config)
        self.drain_seconds = drain_seconds
        self.report_to = report_to
        self.state = OwnState(1 / TICKS_PER_SECOND)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        if not WINDOWS:
            from gateway.connections import Connections

            settings = load_settings()
            self.bounds = Connections(settings.max_connections, settings.request_seconds)
            self.lifespan.state["connections"] = self.bounds
        await super().startup(sockets)
        gc.freeze()  # what is here now stays: no collection looks through it again
        self._report("serving")

    async def on_tick(self, counter: int) -> bool:
        self.state.tick()
        if counter % TICKS_PER_SECOND == 0:
            if self.bounds is not None:
                self.bounds.sweep()
            self.state.show(self.bounds)
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._report("leaving")
        for server in self.servers:
            server.close()
        for listener in sockets or ():
            listener.close()
        deadline = time.monotonic() + LISTEN_SECONDS
        while self._unheard() and time.monotonic() < deadline:  # noqa: ASYNC110 - uvicorn tells nobody
            await asyncio.sleep(0.01)
        if self.bounds is not None:
            self.bounds.leave()
            deadline = time.monotonic() + self.drain_seconds
            while self.bounds.idle and time.monotonic() < deadline:  # noqa: ASYNC110 - nor do we
                await asyncio.sleep(0.05)
        await super().shutdown(sockets)

    def _unheard(self) -> bool:
        return any(getattr(connection, "cycle", True) is None for connection in self.server_state.connections)

    def _report(self, word: str) -> None:
        if self.report_to is not None:
            with suppress(OSError):  # the parent is gone, or has become other code
                os.write(self.report_to, f"{word} {os.getpid()}\n".encode())


def run(settings: Settings, listener: socket.socket, report_to: int | None = None) -> None:
    """Serve from this process, and write to the pipe `report_to` when it begins to serve and to leave."""
    PatientServer(_config(settings), settings.gateway_drain_seconds, report_to).run(sockets=[listener])


def _config(settings: Settings) -> Config:
    http: type[asyncio.Protocol] | str = "auto"
    if not WINDOWS:
        from gateway.connections import BoundedProtocol

        http = BoundedProtocol
    return Config(
        "gateway.main:app",
        host=settings.host,
        port=settings.port,
        loop="auto" if WINDOWS else "uvloop",
        http=http,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=STOP_SECONDS,
    )
