"""uvicorn, as this project runs it: one process, or several on one socket, that stop without cutting anyone off."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import sys
import tempfile
import time
from typing import TYPE_CHECKING

from uvicorn import Config, Server
from uvicorn.supervisors import multiprocess

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

    uvicorn does both at once, which breaks the connections that it has taken but not yet heard. This one also bounds
    what its connections cost (see `gateway/connections.py`).
    """

    bounds: Connections | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        if not WINDOWS:
            from gateway.connections import Connections

            settings = load_settings()
            self.bounds = Connections(settings.max_connections, settings.request_seconds)
            self.lifespan.state["connections"] = self.bounds
        await super().startup(sockets)
        gc.freeze()  # what is here now stays: no collection looks through it again

    async def on_tick(self, counter: int) -> bool:
        if self.bounds is not None and counter % TICKS_PER_SECOND == 0:
            self.bounds.sweep()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        deadline = time.monotonic() + LISTEN_SECONDS
        while self._unheard() and time.monotonic() < deadline:  # noqa: ASYNC110 - uvicorn tells nobody
            await asyncio.sleep(0.01)
        await super().shutdown(sockets)

    def _unheard(self) -> bool:
        return any(getattr(connection, "cycle", True) is None for connection in self.server_state.connections)


class _PatientProcess(multiprocess.Process):
    @property
    def server(self) -> Server:
        if self._server is None:
            self._server = PatientServer(self.config)
        return self._server


def run_one(settings: Settings, listener: socket.socket) -> None:
    """Serve from this process."""
    PatientServer(_config(settings)).run(sockets=[listener])


def run_several(settings: Settings, listener: socket.socket) -> None:
    """Serve from `GATEWAY_WORKERS` processes. This one keeps the socket, and starts another for each that ends."""
    multiprocess.Process = _PatientProcess  # type: ignore[misc]  # the supervisor takes it from there
    # Each process writes its metrics there, and any of them answers for all.
    with tempfile.TemporaryDirectory(prefix="gateway-metrics-", ignore_cleanup_errors=True) as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        multiprocess.Multiprocess(_config(settings), sockets=[listener]).run()


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
        workers=settings.gateway_workers,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=STOP_SECONDS,
    )
