"""The keeper: a thread with a Redis connection of its own, so that a node that blocks the event loop keeps its lease.

It renews all leases each third of a lease, those of deliveries too, says each second or more often that the worker
lives, hears of cancels at once over the worker's control list, and watches the event loop. What the loop cannot do
while a node blocks it, the keeper does: it ends that node's job once its time limit is over, or hands all jobs back
after SIGTERM, and leaves the process.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

import orjson
import structlog

from shared.jobs import JobError
from shared.store import Claimed, KeeperStore, StoreError, StoreFull
from shared.store.workers import heartbeat_seconds
from worker.blockage import BLOCKED_SECONDS, Blocker, LoopWatch
from worker.lease import EndReason, Lease

logger = structlog.get_logger(__name__)
RECONNECT_SECONDS = 0.2
LOOK_SECONDS = 0.25
LOOK_AGAIN_SECONDS = 0.1  # while the loop owes an answer, or the worker is to leave
OVERDUE_SECONDS = 1.0  # beyond a job's time limit: a loop that is free ends the job by itself
EXIT_STOPPED = 0
EXIT_OVERDUE = 3


class Keeper:
    """Keeps the leases of one worker process. `state` gives what its heartbeat says, `sending` its deliveries.

    `leave_at` gives the local monotonic time at which all jobs are to be handed back, None while the worker is not
    stopping; `exit_process` ends the process with a status: 0 after a signal, 3 after a time limit was enforced.
    """

    def __init__(
        self,
        store: KeeperStore,
        lease_seconds: float,
        loop: asyncio.AbstractEventLoop,
        state: Callable[[], dict[str, Any]],
        *,
        sending: Callable[[], Sequence[tuple[str, int]]] = lambda: (),
        leave_at: Callable[[], float | None] = lambda: None,
        exit_process: Callable[[int], object] = os._exit,
    ) -> None:
        self.store = store
        self.lease_seconds = lease_seconds
        self.loop = loop
        self.state = state
        self.sending = sending
        self.leave_at = leave_at
        self.exit_process = exit_process
        self.connected_since: float | None = None
        self._leases: dict[str, Lease] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._watch = LoopWatch(loop)
        self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout: float = 2.0) -> None:
        """End the thread and take the worker off the list. Blocks."""
        self._stopping.set()
        self._thread.join(timeout)

    def hold(self, job: Claimed, claimed_at: float) -> Lease:
        """Keep this job's lease from now on; `claimed_at` is the local monotonic time just before it was claimed."""
        lease = Lease(job, claimed_at + self.lease_seconds)
        with self._lock:
            self._leases[job.ref] = lease
        return lease

    def drop(self, lease: Lease) -> None:
        """The attempt is over: its lease is kept no more."""
        with self._lock:
            if self._leases.get(lease.job.ref) is lease:
                del self._leases[lease.job.ref]

    @property
    def may_recover(self) -> bool:
        """Whether expired leases may be put back: not just after (re)connecting, for it may be Redis that was away."""
        since = self.connected_since
        return since is not None and time.monotonic() - since > self.lease_seconds / 3 + 0.5

    def _run(self) -> None:
        structlog.contextvars.bind_contextvars(worker=self.store.worker)
        beat_at = renew_at = time.monotonic()
        while not self._stopping.is_set():
            try:
                self._watch_loop()
                if self._stopping.is_set():
                    break
                now = time.monotonic()
                if now >= renew_at:
                    self._renew(now)
                    renew_at = now + self.lease_seconds / 3
                if now >= beat_at:
                    self._beat()
                    beat_at = now + heartbeat_seconds(self.lease_seconds)
                if self.connected_since is None:
                    self.connected_since = now
                self._hear(min(min(beat_at, renew_at) - time.monotonic(), self._patience()))
            except Exception as error:  # whatever it is, the leases need this thread
                if not isinstance(error, StoreError):
                    logger.exception("keeper failed")
                elif self.connected_since is not None:
                    logger.warning("keeper lost Redis", error=str(error))
                self.connected_since, renew_at = None, 0.0
                self._stopping.wait(RECONNECT_SECONDS)
        try:
            self.store.farewell()
        except StoreError as error:
            logger.warning("keeper could not say farewell", error=str(error))

    def _beat(self) -> None:
        try:
            self.store.heartbeat(self.state(), self.lease_seconds)
        except StoreFull as error:  # scripts may write then, so that it drains: leases are renewed
            logger.warning("Redis is full, heartbeat refused", error=str(error))

    def _renew(self, now: float) -> None:
        if sending := self.sending():
            self.store.renew_deliveries(self.lease_seconds, sending)  # a sender learns when it records that one is gone
        leases = self._held()
        if not leases:
            return
        answers = self.store.renew(self.lease_seconds, [(lease.job.ref, lease.job.attempt) for lease in leases])
        for lease, answer in zip(leases, answers, strict=True):
            if answer == "gone":
                self._tell(lease.end, EndReason.GONE)
                continue
            self._tell(lease.renewed, now + self.lease_seconds)
            if answer == "cancel":
                self._tell(lease.end, EndReason.CANCEL)

    def _hear(self, seconds: float) -> None:
        asked = self.store.wait_for_control(max(seconds, 0.01))
        if asked is None:
            return
        ref, attempt = asked
        with self._lock:
            lease = self._leases.get(ref)
        if lease is not None and lease.job.attempt == attempt:
            self._tell(lease.end, EndReason.CANCEL)

    # A loop that is blocked

    def _watch_loop(self) -> None:
        """Look after the loop; nothing that goes wrong with that may cost the leases."""
        if self.loop.is_closed():  # the process is on its way out
            self._stopping.set()
            return
        try:
            self._watch.look()
            self._leave_if_due()
        except Exception:
            logger.exception("keeper cannot watch the event loop")

    def _leave_if_due(self) -> None:
        """Leave the process where that is due, and the loop cannot see to it."""
        leave_at = self.leave_at()
        if leave_at is not None and time.monotonic() >= leave_at:
            if self._watch.silent() and not self._stopping.is_set():  # the loop may be waiting for this very thread
                self._leave(EXIT_STOPPED)
            return
        overdue = self._overdue()
        if overdue is not None:
            self._leave(EXIT_OVERDUE if leave_at is None else EXIT_STOPPED, overdue)

    def _overdue(self) -> list[Lease] | None:
        """None as long as the loop is not to be left; the jobs to fail, where it is, for their time is over.

        Only the job that blocks the loop is to blame, where one is seen: none at all, if it has ended and left a task.
        """
        if self._watch.blocked_seconds < BLOCKED_SECONDS:
            return None
        latest = time.monotonic() - OVERDUE_SECONDS
        held = self._held()
        overdue = [lease for lease in held if lease.overdue_at is not None and lease.overdue_at <= latest]
        if not overdue or not self._watch.silent():
            return None
        blocker = self._watch.blocker().lease
        if blocker is None:
            return overdue
        if blocker in held and blocker not in overdue:
            return None
        return [lease for lease in overdue if lease is blocker]

    def _leave(self, status: int, overdue: Collection[Lease] = ()) -> None:
        """Fail the overdue jobs, hand all others back, and end the process."""
        blocker = self._watch.blocker()
        logger.error("leaving, for the event loop is blocked", **blocker.fields, status=status)
        for lease in self._held():
            self._tell(lease.end, EndReason.GONE)  # should the loop wake up now, the attempt writes nothing more
        until = time.monotonic() + self.lease_seconds
        said = False
        while not self._gave_up(overdue, blocker, said) and time.monotonic() < until:
            said = True
            time.sleep(RECONNECT_SECONDS)
        self._stopping.set()
        self.exit_process(status)

    def _gave_up(self, overdue: Collection[Lease], blocker: Blocker, said: bool) -> bool:
        try:
            for lease in overdue:
                self._fail(lease, blocker)
            for ended in self.store.hand_back_all():
                logger.info("job handed back", job=ended.id, graph=ended.graph, status=ended.status)
            self.store.farewell()
        except Exception as error:  # whatever it is, the process must go; leases run out by themselves
            if not said:
                logger.warning("keeper cannot hand jobs back", error=str(error))
            return False
        return True

    def _fail(self, lease: Lease, blocker: Blocker) -> None:
        job = lease.job
        error = JobError(
            type="JobFailed",
            code="timeout",
            message=f"the attempt ran longer than {lease.limit:g} seconds",
            node=blocker.node or None if blocker.lease is lease else None,
        )
        answer = self.store.fail(job.ref, job.attempt, orjson.dumps(error.model_dump()))
        logger.info("job ended", job=job.id, graph=job.graph, status="failed" if answer == "done" else answer)

    def _patience(self) -> float:
        """How long to wait for a cancel before the loop is looked after again."""
        return LOOK_AGAIN_SECONDS if self._watch.blocked_seconds or self.leave_at() is not None else LOOK_SECONDS

    def _held(self) -> list[Lease]:
        with self._lock:
            return list(self._leases.values())

    def _tell(self, report: Callable[..., None], *args: Any) -> None:
        try:
            self.loop.call_soon_threadsafe(report, *args)
        except RuntimeError:  # the loop is closed: the process is on its way out
            self._stopping.set()
