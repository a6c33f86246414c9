"""`python -m worker --processes N`: this process only keeps N workers running, each a full `python -m worker`.

A signal to stop is passed on to all, a second one too. A worker that dies is started again; one that has left by
itself, to be recycled, at once. On Linux they hear SIGTERM, and so drain, when this process is killed.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import structlog

from shared.child import Child, FirstRunError
from shared.settings import Settings, SettingsError

logger = structlog.get_logger("worker")


def keep_workers(settings: Settings) -> int:
    """Run `WORKER_PROCESSES` workers until a signal asks for the end, and all have drained.

    Gives the exit status: 1 where a worker ended otherwise than it was asked to, 2 where a setting is wrong. Raises
    `SettingsError`.
    """
    if sys.platform == "win32":
        raise SettingsError("WORKER_PROCESSES is wrong: on Windows a worker is one process; start several, or use WSL")
    return asyncio.run(_Workers(settings).run())


class _Workers:
    """The worker processes, from the first start to the last end."""

    def __init__(self, settings: Settings) -> None:
        self._asked = asyncio.Event()
        self._children = [
            Child(
                f"worker {number}",
                [sys.executable, "-m", "worker", "--processes", "1"],
                environment=os.environ | _own(settings, number),
                say=logger.warning,
                stop_within=None,  # it leaves by itself, whatever its jobs do
                orphan_signal=signal.SIGTERM,
            )
            for number in range(settings.worker_processes)
        ]

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        asked = asyncio.create_task(self._asked.wait())
        keepers = [asyncio.create_task(child.keep()) for child in self._children]
        await asyncio.wait([asked, *keepers], return_when=asyncio.FIRST_COMPLETED)
        asked.cancel()
        if not self._asked.is_set():
            self._send(signal.SIGTERM)
        await asyncio.wait(keepers)
        try:
            for keeper in keepers:
                keeper.result()
        except FirstRunError:
            return 2
        return int(any(child.status not in STOPPED for child in self._children))

    def _on_signal(self, number: int) -> None:
        logger.info("stopping", signal=signal.Signals(number).name, workers=len(self._children))
        self._asked.set()
        self._send(number)

    def _send(self, number: int) -> None:
        for child in self._children:
            child.send(number)


# A worker that was not ready yet knows no better than to die of the signal; None: it had not even been started.
STOPPED = (0, -signal.SIGTERM, 128 + signal.SIGINT, -signal.SIGINT, None)


def _own(settings: Settings, number: int) -> dict[str, str]:
    """What this worker has for itself: the first one has the port that is set, each other one the next."""
    port = settings.worker_metrics_port
    return {"WORKER_METRICS_PORT": str(port + number)} if port else {}
