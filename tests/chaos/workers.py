"""The workers of a chaos test: a fork server keeps them alive, and the test kills those that it names."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import psutil

from tests.servers import PROJECT, SECRET_KEY, wait_until

GRAPHS = PROJECT / "tests" / "projects" / "chaos" / "langgraph.json"
START_SECONDS = 30.0
STOP_SECONDS = 30.0


class WorkerPool:
    """`count` live workers in `folder`, with these settings. Use it as `with WorkerPool(…) as workers:`."""

    def __init__(self, folder: Path, redis_url: str, count: int, **environment: str) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.count = count
        self.live: dict[int, int] = {}  # slot to pid
        self.statuses: dict[int, int] = {}  # pid to exit status of those that ended, negative for a signal
        settings = {
            "REDIS_URL": redis_url,
            "GRAPHS_CONFIG": str(GRAPHS),
            "SECRET_KEY": SECRET_KEY,
            "WEBHOOK_ALLOW_NETWORKS": "127.0.0.0/8",
            **environment,
        }
        means = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
        with (folder / "fork-server.log").open("wb") as log:
            self._server = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.fork_server", str(count)],
                cwd=folder,
                env={**means, "PYTHONPATH": str(PROJECT), **settings},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, name="fork-server", daemon=True)
        self._reader.start()

    def started(self) -> Self:
        """Wait until each slot has a process."""
        wait_until(lambda: self._alive() and len(self.live) == self.count, START_SECONDS, what="the workers are forked")
        return self

    def kill(self, slot: int) -> tuple[int, float]:
        """`kill -9` the worker in this slot, and wait for its end. Gives its pid and when (monotonic) it was killed."""
        self._alive()
        with self._changed:
            assert self._changed.wait_for(lambda: slot in self.live, START_SECONDS), "the slot is empty"
            pid = self.live[slot]
        killed_at = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        with self._changed:
            assert self._changed.wait_for(lambda: pid in self.statuses, START_SECONDS), "a killed worker lives"
        return pid, killed_at

    def suspend(self, slot: int) -> int:
        """SIGSTOP to the worker in this slot, and wait until it stands still. Gives its pid; `resume` wakes it."""
        pid = self.live[slot]
        os.kill(pid, signal.SIGSTOP)
        stopped = psutil.STATUS_STOPPED
        wait_until(lambda: psutil.Process(pid).status() == stopped, START_SECONDS, what="the worker stands still")
        return pid

    def resume(self, pid: int) -> None:
        os.kill(pid, signal.SIGCONT)

    def stop(self) -> list[int]:
        """SIGTERM to all: their exit statuses, once they have ended."""
        pids = list(self.live.values())
        assert self._server.stdin is not None
        self._server.stdin.write(b"stop\n")
        self._server.stdin.flush()
        with self._changed:
            ended = self._changed.wait_for(lambda: all(pid in self.statuses for pid in pids), STOP_SECONDS)
        assert ended, "a worker does not obey SIGTERM"
        return [self.statuses[pid] for pid in pids]

    def log_lines(self, *levels: str) -> Iterator[dict[str, Any]]:
        """What workers logged at these levels; what is no log line, such as a traceback, has the level `raw`."""
        return (line for _, line in self._lines() if line["level"] in levels)

    def runners(self) -> dict[tuple[str, int], list[int]]:
        """The pids of the workers that say that they started an attempt, by job and attempt."""
        found: dict[tuple[str, int], list[int]] = {}
        for pid, line in self._lines():
            if line["event"] == "attempt started":
                found.setdefault((line["job"], line["attempt"]), []).append(pid)
        return found

    def said(self, pid: int, event: str) -> set[tuple[str, int]]:
        """The attempts (job, attempt) of which this worker logged this event."""
        return {
            (line["job"], line["attempt"])
            for one, line in self._lines()
            if one == pid and line["event"] == event and "attempt" in line
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server.stdin is not None
        self._server.stdin.close()  # kills what still runs
        try:
            self._server.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            for pid in self.live.values():
                os.kill(pid, signal.SIGKILL)
            self._server.kill()
            self._server.wait()
        self._reader.join(STOP_SECONDS)
        assert self._server.stdout is not None
        self._server.stdout.close()

    def _alive(self) -> bool:
        log = self.folder / "fork-server.log"
        assert self._server.poll() is None, f"the fork server ended:\n{log.read_text(errors='replace')[-4000:]}"
        return True

    def _lines(self) -> Iterator[tuple[int, dict[str, Any]]]:
        for path in sorted(self.folder.glob("worker-*.log")):
            pid = int(path.stem.partition("-")[2])
            yield from ((pid, line) for line in parsed(path.read_text(errors="replace")))

    def _read(self) -> None:
        assert self._server.stdout is not None
        for text in self._server.stdout:
            news = json.loads(text)
            with self._changed:
                if news["event"] == "started":
                    self.live[news["slot"]] = news["pid"]
                else:
                    self.statuses[news["pid"]] = news["status"]
                    if self.live.get(news["slot"]) == news["pid"]:
                        del self.live[news["slot"]]
                self._changed.notify_all()


def parsed(log: str) -> Iterator[dict[str, Any]]:
    """The lines of a log; what is no log line, such as a traceback, has the level `raw`."""
    for text in log.splitlines():
        try:
            yield json.loads(text)
        except json.JSONDecodeError:  # the last one of a process that was killed may be cut
            yield {"level": "raw", "event": text}
