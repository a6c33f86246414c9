"""uvicorn, as this project runs it: one process, or several on one socket, that stop without cutting anyone off."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import tempfile
import time

from uvicorn import Config, Server
from uvicorn.supervisors import multiprocess

from shared.settings import Settings

KEEP_ALIVE_SECONDS = 75  # longer than a proxy keeps its connections, so that it is the proxy that closes them
LISTEN_SECONDS = 0.5
STOP_SECONDS = 10  # for uploads under way; long polls are let go at once


class PatientServer(Server):
    """Stops taking connections first, and closes those it has when they have said what they came for.

    uvicorn does both at once, which breaks the connections that it has taken but not yet heard.
    """

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
    windows = sys.platform == "win32"
    return Config(
        "gateway.main:app",
        host=settings.host,
        port=settings.port,
        loop="auto" if windows else "uvloop",
        http="auto" if windows else "httptools",
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
