"""A program that its parent keeps running: started again when it dies or is asked to, and gone when the parent is."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

FIRST_BACKOFF_SECONDS = 0.5
LONGEST_BACKOFF_SECONDS = 5.0
HEALTHY_SECONDS = 10.0
PR_SET_PDEATHSIG = 1  # prctl(2)


class FirstRunError(Exception):
    """A program ended with status 2 on its first run: a setting is wrong, and the program has said which."""


class Child:
    """One program, in a session of its own, so that a terminal's Ctrl-C reaches its parent alone.

    `orphan_signal` is what Linux sends it when the parent dies without stopping it; `started` is told each new process
    id. `stop_within` is for how many seconds it is waited for before it is killed; None is as long as it takes.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        say: Callable[[str], None],
        started: Callable[[int], None] = lambda pid: None,
        stop_within: float | None,
        orphan_signal: int = signal.SIGKILL,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
        log_file: Path | None = None,
        inherited_fds: Sequence[int] = (),
    ) -> None:
        self.name = name
        self.command = command
        self.failures = 0
        self._say = say
        self._started = started
        self._stop_within = stop_within
        self._orphan_signal = orphan_signal
        self._environment = environment
        self._folder = folder
        self._log_file = log_file
        self._inherited_fds = inherited_fds
        self._stopping = False
        self._wanted_anew = asyncio.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._end: asyncio.Future[int] | None = None
        self._waiting = ThreadPoolExecutor(1, thread_name_prefix=name)  # the loop's own has few threads, on few cores

    @property
    def status(self) -> int | None:
        """The exit status of the last run, negative for a signal; None while it runs."""
        return None if self._process is None else self._process.returncode

    @property
    def stopping(self) -> bool:
        """Whether it is to end for good."""
        return self._stopping

    async def keep(self) -> None:
        """Run the program until `stop`. Raises `FirstRunError` where it turns its settings down."""
        first = True
        while not self._stopping:
            self._wanted_anew.clear()
            since = time.monotonic()
            status = await self._run()
            if self._stopping or self._wanted_anew.is_set():
                first = False
                continue
            if first and status == 2:
                raise FirstRunError(self.name)
            first = False
            if status == 0:  # it has left by itself, as a worker does that has run enough jobs
                self.failures = 0
                continue
            self.failures = 1 if time.monotonic() - since > HEALTHY_SECONDS else self.failures + 1
            delay = min(FIRST_BACKOFF_SECONDS * 2 ** (self.failures - 1), LONGEST_BACKOFF_SECONDS)
            self._say(f"{self.name} {_in_words(status)}; it is started again in {delay:g} s")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wanted_anew.wait(), delay)

    async def restart(self) -> None:
        """Stop the program gracefully; `keep` starts it again, at once also where it was waiting to."""
        self._wanted_anew.set()
        if self._process is not None:
            self._process.terminate()
        await self._ended()

    async def stop(self) -> None:
        """Stop the program gracefully, for good."""
        self.send(signal.SIGTERM)
        await self._ended()

    def send(self, number: int) -> None:
        """Send the program this signal, to stop for good."""
        self._stopping = True
        self._wanted_anew.set()
        if self._process is not None:
            self._process.send_signal(number)

    def let_go(self) -> None:
        """It leaves by itself: `keep` ends when it has, and starts it no more."""
        self._stopping = True

    def kill(self) -> None:
        """End the program at once."""
        if self._process is not None:
            self._process.kill()

    async def _run(self) -> int:
        process = self._process = self._start()
        self._started(process.pid)
        self._end = asyncio.get_running_loop().run_in_executor(self._waiting, process.wait)
        return await asyncio.shield(self._end)

    def _start(self) -> subprocess.Popen[bytes]:
        # Not asyncio's way: this one starts from the main thread, whose end is what the orphan signal goes by.
        with contextlib.ExitStack() as stack:
            output = None if self._log_file is None else stack.enter_context(self._log_file.open("ab"))
            return subprocess.Popen(  # noqa: S603 - our own modules
                self.command,
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=self._inherited_fds,
                start_new_session=True,
                preexec_fn=_signal_when_parent_dies(self._orphan_signal),
            )

    async def _ended(self) -> None:
        if self._process is None or self._end is None or self._end.done():
            return
        try:
            await asyncio.wait_for(asyncio.shield(self._end), self._stop_within)
        except TimeoutError:
            self._say(f"{self.name} did not stop within {self._stop_within:g} s and is killed")
            self._process.kill()
            await asyncio.shield(self._end)


def _in_words(status: int) -> str:
    return f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with exit status {status}"


def _signal_when_parent_dies(number: int) -> Callable[[], None] | None:
    """What a new process has to call for it, where the system can do it."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    parent = os.getpid()

    def ask() -> None:
        libc.prctl(PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:  # it died before we asked
            os.kill(os.getpid(), signal.SIGKILL)

    return ask
