"""A program that its parent keeps running, with small programs in the place of gateway and worker."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from gateway.lockfile import LockFile
from shared import child as child_module
from shared.child import Child, FirstRunError
from tests.servers import is_alive

FOREVER = "import time; time.sleep(600)"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
)


class Watched:
    """A child with what it said and the process ids it had."""

    def __init__(
        self, code: str, *, stop_within: float = 5.0, log_file: Path | None = None, inherited_fds: Sequence[int] = ()
    ) -> None:
        self.said: list[str] = []
        self.pids: list[int] = []
        self.child = Child(
            "program",
            [sys.executable, "-S", "-c", code],
            say=self.said.append,
            started=self.pids.append,
            stop_within=stop_within,
            log_file=log_file,
            inherited_fds=inherited_fds,
        )


@asynccontextmanager
async def kept(watched: Watched) -> AsyncIterator[asyncio.Task[None]]:
    keeper = asyncio.create_task(watched.child.keep())
    try:
        yield keeper
    finally:
        watched.child.kill()
        await watched.child.stop()
        await asyncio.gather(keeper, return_exceptions=True)


async def until(condition: Callable[[], object], within: float = 5.0) -> None:
    async with asyncio.timeout(within):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_program_that_dies_is_started_again_and_a_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_module, "FIRST_BACKOFF_SECONDS", 0.05)
    watched = Watched("raise SystemExit(3)")
    async with kept(watched):
        await until(lambda: len(watched.pids) >= 3)
    assert watched.said[:2] == [
        "program ended with exit status 3; it is started again in 0.05 s",
        "program ended with exit status 3; it is started again in 0.1 s",
    ]


async def test_a_program_that_leaves_by_itself_is_started_again_at_once_and_without_a_word() -> None:
    watched = Watched("raise SystemExit(0)")
    async with kept(watched):
        await until(lambda: len(watched.pids) >= 4)
    assert watched.said == []


async def test_the_end_of_each_of_many_programs_is_seen_at_once() -> None:
    many = [Watched(FOREVER) for _ in range(40)]  # more than the event loop's own pool has threads on most machines
    async with AsyncExitStack() as stack:
        for watched in many:
            await stack.enter_async_context(kept(watched))
        await until(lambda: all(watched.pids for watched in many))
        many[-1].child.kill()
        await until(lambda: many[-1].said, within=2)


async def test_a_killed_program_is_started_again_after_the_shortest_wait() -> None:
    watched = Watched(FOREVER)
    async with kept(watched):
        await until(lambda: watched.pids)
        watched.child.kill()
        await until(lambda: len(watched.pids) == 2)
    assert watched.said[0] == "program was ended by SIGKILL; it is started again in 0.5 s"


async def test_a_program_that_refuses_its_settings_on_its_first_run_is_not_started_again() -> None:
    watched = Watched("raise SystemExit(2)")
    async with kept(watched) as keeper:
        with pytest.raises(FirstRunError):
            await asyncio.wait_for(keeper, 5)
    assert len(watched.pids) == 1


async def test_a_change_restarts_a_running_program_at_once_and_gracefully(tmp_path: Path) -> None:
    goodbye = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(print('bye')));"
    log_file = tmp_path / "log"
    watched = Watched(f"{goodbye} print('hello', flush=True); time.sleep(600)", log_file=log_file)
    async with kept(watched):
        await until(lambda: log_file.exists() and log_file.read_text() == "hello\n")
        await watched.child.restart()
        await until(lambda: log_file.read_text() == "hello\nbye\nhello\n")
    assert watched.said == []


async def test_a_change_ends_the_wait_of_a_program_that_keeps_dying(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_module, "FIRST_BACKOFF_SECONDS", 60)
    monkeypatch.setattr(child_module, "LONGEST_BACKOFF_SECONDS", 60)
    watched = Watched("raise SystemExit(1)")
    async with kept(watched):
        await until(lambda: watched.said)
        await watched.child.restart()
        await until(lambda: len(watched.pids) == 2)


async def test_stop_ends_the_program_and_its_keeper() -> None:
    watched = Watched(FOREVER)
    async with kept(watched) as keeper:
        await until(lambda: watched.pids)
        await watched.child.stop()
        await keeper
    assert not is_alive(watched.pids[0])
    assert len(watched.pids) == 1


async def test_a_program_that_does_not_stop_is_killed_and_a_line_says_so(tmp_path: Path) -> None:
    log_file = tmp_path / "log"
    watched = Watched(STUBBORN, stop_within=0.2, log_file=log_file)
    async with kept(watched):
        await until(lambda: log_file.exists() and "deaf" in log_file.read_text())
        await watched.child.stop()
    assert watched.said == ["program did not stop within 0.2 s and is killed"]
    assert not is_alive(watched.pids[0])


async def test_a_program_does_not_hear_a_signal_to_the_group_of_its_parent() -> None:
    watched = Watched(FOREVER)
    async with kept(watched):
        await until(lambda: watched.pids)
        assert os.getpgid(watched.pids[0]) != os.getpgid(0)


async def test_a_program_holds_the_lock_that_it_was_given_through_every_restart(tmp_path: Path) -> None:
    lock, other = LockFile(tmp_path / "lock"), LockFile(tmp_path / "lock")
    assert lock.take()
    watched = Watched(FOREVER, inherited_fds=lock.held())
    async with kept(watched):
        await until(lambda: watched.pids)
        await watched.child.restart()
        await until(lambda: len(watched.pids) == 2)
        lock.drop()
        assert not other.take()
    assert other.take()
    other.drop()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such signal")
def test_a_program_dies_with_a_killed_parent(tmp_path: Path) -> None:
    parent = """
import asyncio, sys
from shared.child import Child
child = Child("program", ["sleep", "600"], say=print, started=lambda pid: print(pid, flush=True), stop_within=1)
asyncio.run(child.keep())
"""
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout:
        pid = int(process.stdout.readline())
    assert is_alive(pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 5
    while is_alive(pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)
