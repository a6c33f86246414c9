"""SIGTERM and SIGINT, heard also while the event loop is blocked.

The loop's own handlers wait for the loop, and Python's for the main thread to come out of a call into C. But the C
handler writes each signal to the wake-up fd at once, and here a thread reads it. The wake-up fd may be another's for a
moment, when a loop starts or stops; then Python's handlers do. What counts is what the one that heard more has heard.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

Heard = tuple[signal.Signals, float]
"""A signal, and when it came, by the local monotonic clock."""

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """Notes when this process was told to stop: it may drain for `drain_seconds`, after a second signal no longer."""

    def __init__(self, drain_seconds: float) -> None:
        self._drain_seconds = drain_seconds
        self._by_thread: list[Heard] = []
        self._by_handler: list[Heard] = []
        self._delivered = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: Callable[[signal.Signals, float], None] | None = None
        self._forking = threading.local()
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)

    @property
    def leave_at(self) -> float | None:
        """When all jobs are to be handed back, by the local monotonic clock; None as long as no signal has come."""
        heard = self._heard
        if not heard:
            return None
        return heard[0][1] + self._drain_seconds if len(heard) == 1 else heard[1][1]

    def listen(self, loop: asyncio.AbstractEventLoop, stop: Callable[[signal.Signals, float], None]) -> None:
        """From now on call `stop` on the loop for each signal, with its time. Called in the main thread."""
        self._loop, self._stop = loop, stop
        threading.Thread(target=self._read, name="signals", daemon=True).start()
        for number in STOP_SIGNALS:
            signal.signal(number, self._handle)
        self.take_wakeup_fd()
        if hasattr(os, "register_at_fork"):  # not on Windows
            os.register_at_fork(before=self._hold, after_in_parent=self._let_go, after_in_child=self._forget)

    def take_wakeup_fd(self) -> None:
        """Have signals written to the thread: a loop that starts takes the wake-up fd for itself."""
        if self._loop is not None:
            signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)

    @property
    def _heard(self) -> list[Heard]:
        return max(self._by_thread, self._by_handler, key=len)

    def _read(self) -> None:
        while numbers := self._reader.recv(64):
            now = time.monotonic()
            self._by_thread += [(signal.Signals(number), now) for number in numbers if number in STOP_SIGNALS]
            self._wake_loop()  # for any signal: Python runs its handler once the main thread runs

    def _handle(self, number: int, _: FrameType | None) -> None:
        self._by_handler.append((signal.Signals(number), time.monotonic()))
        self._wake_loop()

    def _wake_loop(self) -> None:
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed: the process is on its way out
                self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        heard = self._heard
        while self._stop is not None and self._delivered < len(heard):
            number, at = heard[self._delivered]
            self._delivered += 1
            self._stop(number, at)

    # A process that a node forks has signals of its own, that end it as they end others; this one must not hear them.

    def _hold(self) -> None:
        self._forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)

    def _let_go(self) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._forking.mask)

    def _forget(self) -> None:
        signal.set_wakeup_fd(-1)
        for number in STOP_SIGNALS:
            if signal.getsignal(number) == self._handle:
                signal.signal(number, signal.SIG_DFL)
        self._let_go()
