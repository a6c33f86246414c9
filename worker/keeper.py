"""The keeper: a thread with a Redis connection of its own, so that a node that blocks the event loop keeps its lease.

It renews all leases each third of a lease, says each second that the worker lives, hears of cancels at once over the
worker's control list, and measures how late the event loop is.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import structlog

from shared.metrics import LOOP_LAG_SECONDS
from shared.store import Claimed, KeeperStore, StoreError, StoreFull
from shared.store.workers import HEARTBEAT_SECONDS
from worker.lease import EndReason, Lease

logger = structlog.get_logger(__name__)
RECONNECT_SECONDS = 0.2


class Keeper:
    """Keeps the leases of one worker process. `state` gives what its heartbeat says."""

    def __init__(
        self,
        store: KeeperStore,
        lease_seconds: float,
        loop: asyncio.AbstractEventLoop,
        state: Callable[[], dict[str, Any]],
    ) -> None:
        self.store = store
        self.lease_seconds = lease_seconds
        self.loop = loop
        self.state = state
        self.connected_since: float | None = None
        self._leases: dict[str, Lease] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._lag_measured = True
        self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout: float = 2.0) -> None:
        """End the thread and take the worker off the list."""
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
        beat_at = renew_at = time.monotonic()
        while not self._stopping.is_set():
            try:
                now = time.monotonic()
                if now >= renew_at:
                    self._renew(now)
                    renew_at = now + self.lease_seconds / 3
                if now >= beat_at:
                    self._beat(now)
                    beat_at = now + HEARTBEAT_SECONDS
                if self.connected_since is None:
                    self.connected_since = now
                self._hear(min(beat_at, renew_at) - time.monotonic())
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

    def _beat(self, now: float) -> None:
        self._measure_lag(now)
        try:
            self.store.heartbeat(self.state())
        except StoreFull as error:  # scripts may write then, so that it drains: leases are renewed
            logger.warning("Redis is full, heartbeat refused", error=str(error))

    def _renew(self, now: float) -> None:
        with self._lock:
            leases = list(self._leases.values())
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

    def _measure_lag(self, now: float) -> None:
        if self._lag_measured:
            self._lag_measured = False
            self._tell(self._loop_answered, now)

    def _loop_answered(self, asked_at: float) -> None:
        LOOP_LAG_SECONDS.set(time.monotonic() - asked_at)
        self._lag_measured = True

    def _tell(self, report: Callable[..., None], *args: Any) -> None:
        try:
            self.loop.call_soon_threadsafe(report, *args)
        except RuntimeError:  # the loop is closed: the process is on its way out
            self._stopping.set()
