"""Whether the event loop answers, seen from another thread, and which job's node keeps it busy where it does not."""

from __future__ import annotations

import asyncio
import gc
import sys
import sysconfig
import threading
import time
from contextvars import Context
from dataclasses import dataclass
from types import FrameType
from typing import Any

import structlog
from langchain_core.runnables.config import var_child_runnable_config

from worker.gauges import LOOP_LAG_SECONDS
from worker.lease import CURRENT, Lease

logger = structlog.get_logger(__name__)
BLOCKED_SECONDS = 1.0
WARN_EACH_SECONDS = 5.0
SILENT_SECONDS = 0.3
MOMENT_SECONDS = 0.05
NOBODY = ("", "")
LIBRARIES = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib"))


@dataclass(frozen=True, slots=True)
class Blocker:
    """What the loop is busy with: an attempt and a node, where there is one, and the place in the code."""

    lease: Lease | None = None
    node: str = ""
    place: str = ""

    @property
    def fields(self) -> dict[str, str]:
        """For the log; empty where it is not known."""
        job = None if self.lease is None else self.lease.job
        return {"graph": job.graph if job else "", "node": self.node, "job": job.id if job else "", "place": self.place}


class LoopWatch:
    """Asks the loop for a sign of life, again and again, and shows its lag. Made in its thread, used in another."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._thread = threading.get_ident()
        self._asked_at = 0.0
        self._answered = threading.Event()
        self._answered.set()
        self._shown = NOBODY
        self._warned_at: float | None = None

    @property
    def blocked_seconds(self) -> float:
        """For how long the loop has not answered; 0 where it has."""
        return 0.0 if self._answered.is_set() else time.monotonic() - self._asked_at

    def look(self) -> None:
        """Ask, if nothing is asked; else show for how long there has been no answer, and what keeps the loop busy."""
        if self._answered.is_set():
            self._show(NOBODY)
            self._warned_at = None
            self._ask()
        elif self.blocked_seconds >= BLOCKED_SECONDS and self.silent(MOMENT_SECONDS):
            self._report()

    def silent(self, seconds: float = SILENT_SECONDS) -> bool:
        """Whether the loop does not answer now either: it may have been the whole process that was stopped."""
        if self._answered.is_set():
            self._ask()
        return not self._answered.wait(seconds)

    def blocker(self) -> Blocker:
        """What the loop is busy with now: each task has the context of the node that it was started in."""
        place = place_of(sys._current_frames().get(self._thread))
        context = context_of(asyncio.current_task(self._loop))
        if context is None:
            return Blocker(place=place)
        metadata: Any = (context.get(var_child_runnable_config) or {}).get("metadata") or {}
        return Blocker(context.get(CURRENT), str(metadata.get("langgraph_node", "")), place)

    def _ask(self) -> None:
        self._answered.clear()
        self._asked_at = time.monotonic()
        self._loop.call_soon_threadsafe(self._answer, self._asked_at)

    def _answer(self, asked_at: float) -> None:
        LOOP_LAG_SECONDS.labels(*NOBODY).set(time.monotonic() - asked_at)
        self._answered.set()

    def _report(self) -> None:
        blocker = self.blocker()
        seconds = self.blocked_seconds
        if not seconds:  # it has answered meanwhile
            return
        fields = blocker.fields
        labels = fields["graph"], fields["node"]
        self._show(labels)
        LOOP_LAG_SECONDS.labels(*labels).set(seconds)
        if self._warned_at is None or time.monotonic() - self._warned_at >= WARN_EACH_SECONDS:
            self._warned_at = time.monotonic()
            logger.warning("event loop blocked", **fields, seconds=round(seconds, 1))

    def _show(self, labels: tuple[str, str]) -> None:
        """Take the series of an earlier blocker away, and note whose is shown now."""
        if self._shown not in (NOBODY, labels):
            LOOP_LAG_SECONDS.remove(*self._shown)
        self._shown = labels


def place_of(frame: FrameType | None) -> str:
    """Where a stack is in someone's own code; in a library's, where there is none of it."""
    own = frame
    while own is not None and own.f_code.co_filename.startswith(LIBRARIES):
        own = own.f_back
    if own is None or own.f_globals.get("__name__") == "__main__":  # all that is left is the worker's main program
        own = frame
    return "" if own is None else f"{own.f_code.co_filename}:{own.f_lineno} {own.f_code.co_name}"


def context_of(task: asyncio.Task[Any] | None) -> Context | None:
    """What the task was started in, of a task of any thread. Before Python 3.12 only the collector knows."""
    if task is None:
        return None
    if sys.version_info >= (3, 12):
        return task.get_context()
    return next((one for one in gc.get_referents(task) if isinstance(one, Context)), None)
