"""Several gateway processes on one socket, as `GATEWAY_WORKERS` asks: this one keeps the socket, and them running.

    supervisor ── this process, which serves nothing ─┬─ python -m gateway --socket 5    accepts and answers
                                                      └─ python -m gateway --socket 5

SIGHUP brings in new code and settings without a closed door: the new code checks itself, then this process becomes it
(exec keeps its id, its socket and its children), starts new children, and tells the old ones to leave once all of the
new ones serve. Where the new code does not start, the old children serve on.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence

import structlog
from prometheus_client import multiprocess

from gateway.handover import Handover
from shared.child import LONGEST_BACKOFF_SECONDS, Child, FirstRunError
from shared.settings import Settings

logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)
CHECK_SECONDS = 60.0
METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
SERVING, LEAVING = b"serving", b"leaving"


def keep_gateways(settings: Settings, listener: socket.socket, handover: Handover | None) -> int:
    """Serve from `GATEWAY_WORKERS` processes until a signal asks for the end.

    Gives the exit status: 2 where the processes find a setting wrong. `handover` is what this process was left by
    itself, before it became this code.
    """
    # Each process writes its metrics there, and any of them answers for all.
    metrics = handover.metrics if handover else tempfile.mkdtemp(prefix="gateway-metrics-")
    os.environ[METRICS_FOLDER] = metrics
    try:
        return asyncio.run(_Gateways(settings, listener, metrics, handover.processes if handover else []).run())
    finally:
        shutil.rmtree(metrics, ignore_errors=True)


class _Gateways:
    """The processes that serve, from the first start to the last end."""

    def __init__(self, settings: Settings, listener: socket.socket, metrics: str, old: list[int]) -> None:
        self._settings = settings
        self._socket = listener.fileno()
        self._metrics = metrics
        self._old = set(old)  # those of the code before the last reload
        self._old_told = False
        self._serves = bool(old)  # this process and what it became before, whether they ever did
        self._asked = asyncio.Event()
        self._status = 0
        self._reloading: asyncio.Task[None] | None = None
        self._keepers: set[asyncio.Task[None]] = set()
        self._children: dict[int, Child] = {}  # by process id
        self._serving: set[int] = set()
        self._reports, self._report_to = os.pipe()
        self._heard = b""

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._asked.set)
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
        loop.add_reader(self._reports, self._hear)
        for _ in range(self._settings.gateway_workers):
            self._add()
        old_gone = asyncio.create_task(self._until_old_are_gone())
        await self._asked.wait()
        for child in self._children.values():
            child.send(signal.SIGTERM)
        self._dismiss_old()
        await asyncio.gather(old_gone, *self._keepers)
        return self._status

    def _add(self) -> None:
        """Keep one more process running."""
        fds = [self._socket, self._report_to]
        child = Child(
            "a gateway process",
            [sys.executable, "-m", "gateway", "--socket", str(self._socket), "--report", str(self._report_to)],
            say=logger.warning,
            started=lambda process_id: self._note(process_id, child),
            stop_within=None,  # its requests have a time of their own
            orphan_signal=signal.SIGTERM,
            inherited_fds=fds,
        )
        keeper = asyncio.create_task(self._keep(child))
        self._keepers.add(keeper)
        keeper.add_done_callback(self._keepers.discard)

    async def _keep(self, child: Child) -> None:
        try:
            await child.keep()
        except FirstRunError:
            if not self._serves:
                self._status = 2
                self._asked.set()
                return
            logger.error("a gateway process does not start with the settings as they are now: the others serve on")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._asked.wait(), LONGEST_BACKOFF_SECONDS)
            if not self._asked.is_set():
                self._add()
        finally:
            self._forget(child)

    def _note(self, process_id: int, child: Child) -> None:
        self._forget(child)
        self._children[process_id] = child

    def _forget(self, child: Child) -> None:
        """What this one was before it ended."""
        for process_id in [number for number, its in self._children.items() if its is child]:
            del self._children[process_id]
            self._serving.discard(process_id)
            self._uncount(process_id)

    def _uncount(self, process_id: int) -> None:
        """Let the metrics no longer show the state of this one; what it has counted stays."""
        multiprocess.mark_process_dead(process_id, self._metrics)  # type: ignore[no-untyped-call]

    def _hear(self) -> None:
        """Take in what the processes report of themselves: `serving 4711`, `leaving 4711`."""
        *lines, self._heard = (self._heard + os.read(self._reports, 65_536)).split(b"\n")
        for line in lines:
            word, _, number = line.partition(b" ")
            child = self._children.get(int(number))
            if child is None or child.stopping:
                continue
            if word == SERVING:
                self._serves = True
                self._serving.add(int(number))
            else:  # to be recycled: another one takes its place while this one answers what it has
                child.let_go()
                self._serving.discard(int(number))
                self._add()
        if len(self._serving) >= self._settings.gateway_workers:
            self._dismiss_old()

    def _dismiss_old(self) -> None:
        if self._old and not self._old_told:
            logger.info("the old processes leave", processes=len(self._old))
            self._old_told = True
            for process_id in self._old:
                os.kill(process_id, signal.SIGTERM)

    async def _until_old_are_gone(self) -> None:
        while self._old:
            for process_id in [number for number in self._old if _has_ended(number)]:
                self._old.discard(process_id)
                self._uncount(process_id)
            await asyncio.sleep(0.1)

    def _on_hangup(self) -> None:
        if self._reloading is None or self._reloading.done():
            self._reloading = asyncio.create_task(self._reload())

    async def _reload(self) -> None:
        """Become the code that `GATEWAY_RELOAD_COMMAND` starts, where that finds itself in order."""
        command = shlex.split(self._settings.gateway_reload_command) or [sys.executable, *sys.orig_argv[1:]]
        logger.info("reloading: the new code checks itself", command=command)
        try:
            if wrong := await _what_is_wrong_with(command):
                logger.error("not reloaded: the new code does not start; all goes on as it was", detail=wrong)
                return
            logger.info("reloading")
            Handover(self._socket, [*self._children, *self._old], self._metrics).become(command)
        except OSError as error:
            logger.error("not reloaded: the command cannot be run; all goes on as it was", detail=str(error))


async def _what_is_wrong_with(command: Sequence[str]) -> str:
    """Its last words, where the command does not pass its own `--check`. Raises `OSError` where it cannot be run."""
    environment = {name: value for name, value in os.environ.items() if name != METRICS_FOLDER}
    process = await asyncio.create_subprocess_exec(
        *command, "--check", env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            words, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        return f"it has not checked itself within {CHECK_SECONDS:g} s"
    last = words.decode(errors="replace").strip().splitlines()[-1:] or [f"exit status {process.returncode}"]
    return last[0] if process.returncode else ""


def _has_ended(process_id: int) -> bool:
    """Whether this child of ours has; the system forgets it then."""
    try:
        return os.waitpid(process_id, os.WNOHANG) != (0, 0)
    except ChildProcessError:
        return True
