"""The leased worker: arq's life cycle, function registry and health record, with our own claiming and finishing.

arq polls, lets every worker race for the head of the queue, and runs a killed worker's job again only after the
longest timeout. So `_poll_iteration` claims by lease instead, `main` starts the keeper, the signal handlers drain, and
`close` leaves the shared health key to the workers that live on. arq's `run_job`, `start_jobs`, `finish_job`, cron and
command line are not used.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

import structlog
from arq.connections import ArqRedis
from arq.worker import Worker as ArqWorker
from arq.worker import func
from redis.asyncio import Redis

from shared.metrics import JOB_WAIT_SECONDS, JOBS_ENDED
from shared.settings import Settings
from shared.store import Claim, Claimed, JobStore, StoreError
from shared.store.errors import store_errors
from shared.store.keys import key
from worker.gauges import JOBS_RUNNING
from worker.keeper import Keeper
from worker.lease import EndReason, Lease
from worker.runner import Runner

logger = structlog.get_logger(__name__)
FALL_BACK_SECONDS = 1.0
HEALTH_SECONDS = 5
CLAIM_BYTES = 32 * 1024 * 1024
HAND_BACK_SECONDS = 3.0  # for attempts to stop; those that do not are abandoned
ABANDON_SECONDS = 1.5
Housekeeping = Callable[[], Awaitable[None]]


class JobWorker(ArqWorker):
    """Takes jobs by lease and runs up to `WORKER_CONCURRENCY` of them at once."""

    def __init__(
        self, settings: Settings, *, redis: ArqRedis, blocking: Redis, store: JobStore, keeper: Keeper, runner: Runner,
        housekeeping: Housekeeping,
    ) -> None:  # fmt: skip
        super().__init__(
            functions=[func(self._attempt, name="attempt")],  # type: ignore[arg-type]  # arq wants one; it is never called
            queue_name=key("leases"),
            redis_pool=redis,
            max_jobs=settings.worker_concurrency,
            poll_delay=0,
            handle_signals=False,  # the loop's handlers wait for the loop: see worker/signals.py
            health_check_interval=HEALTH_SECONDS,
            health_check_key=key("health"),
        )
        self.settings = settings
        self.blocking = blocking
        self.store = store
        self.keeper = keeper
        self.runner = runner
        self.housekeeping = housekeeping
        self.graphs = list(runner.catalogue.graphs) if "jobs" in settings.worker_roles else []
        self.running: dict[str, Lease] = {}  # by job and attempt: one that lost its lease may still be on its way out
        self._slot_freed = asyncio.Event()
        self._stopping = asyncio.Event()
        self._handing_back = asyncio.Event()
        self._alone = False
        self._ended = 0
        self._signals = 0
        self._claims = 0
        self._claim_lost = False  # whether the last claim's reply has not come

    # The life cycle

    async def main(self) -> None:
        self.keeper.start()
        housekeeping = self.loop.create_task(self._keep_house())
        try:
            while self.allow_pick_jobs:
                await self._poll_iteration()
            if self._claim_lost:
                await self._disowned()
            await self._drain()
        finally:
            housekeeping.cancel()

    async def close(self) -> None:
        """Hand back what still runs, and go. The shared health key stays: it speaks for all workers."""
        self._hand_back()
        if self.tasks:
            await asyncio.wait(self.tasks.values(), timeout=HAND_BACK_SECONDS)
        if self.running:
            await self._abandon()
        await self.blocking.aclose()
        await self.pool.aclose(close_connection_pool=True)
        self._pool = None
        self.keeper.stop()  # last, for it sees to it that nothing that blocks the loop holds this up

    async def _abandon(self) -> None:
        """Hand back the jobs of attempts that do not stop, without them: the fence refuses what they still write."""
        for lease in self.running.values():
            lease.end(EndReason.GONE)
            logger.warning("attempt does not stop, its job is handed back", job=lease.job.id, graph=lease.job.graph)
        try:
            async with asyncio.timeout(ABANDON_SECONDS):
                await self.store.disown(self.keeper.store.worker, self._claims, [])
        except (StoreError, TimeoutError) as error:
            logger.warning("could not be handed back; the leases will run out", error=str(error))

    def handle_sig(self, signum: signal.Signals, at: float | None = None) -> None:
        """Claim no more, let jobs finish for `DRAIN_SECONDS`, hand the rest back; at a second signal, at once.

        The seconds count from `at`, by the local monotonic clock: a blocked loop hears of its signal late.
        """
        self._signals += 1
        logger.info("stopping", signal=signal.Signals(signum).name, running=len(self.running))
        self.stop_claiming()
        if self._signals > 1:
            self._hand_back()
        else:
            waited = 0.0 if at is None else time.monotonic() - at
            self.loop.call_later(max(0.0, self.settings.drain_seconds - waited), self._hand_back)

    def stop_claiming(self) -> None:
        """Claim nothing more; `main` ends once what runs has ended or is handed back."""
        self.allow_pick_jobs = False
        self._stopping.set()
        self._slot_freed.set()

    async def _drain(self) -> None:
        """Wait for what runs, until a signal has it handed back: recycling waits as long as its jobs take."""
        ended: asyncio.Future[Any] = asyncio.gather(*self.tasks.values(), return_exceptions=True)
        handing_back: asyncio.Future[Any] = self.loop.create_task(self._handing_back.wait())
        await asyncio.wait([ended, handing_back], return_when=asyncio.FIRST_COMPLETED)
        handing_back.cancel()

    def _hand_back(self) -> None:
        self._handing_back.set()
        for lease in list(self.running.values()):
            lease.end(EndReason.STOPPING)

    # Claiming

    async def _poll_iteration(self) -> None:
        """Claim what is ready for the free slots and start it; then wait for a wake-up or a free slot."""
        self._slot_freed.clear()
        self._reap()
        if self._claim_lost and not await self._disowned():
            return
        free = self.max_jobs - len(self.tasks)
        if not self.allow_pick_jobs:
            return
        if free <= 0 or self._alone or not self.graphs:
            await self._wait_for_slot()
            return
        try:
            claim = await self._claim(free)
            if claim.hold:
                await self._wait_for_slot()
            elif len(claim.jobs) < free and not self._alone:
                await self._wait_for_work(claim.next_seconds)
        except StoreError as error:
            logger.warning("claim waits for Redis", error=str(error))
            await asyncio.sleep(random.uniform(0.1, 0.5))  # noqa: S311 - spreads load, guards nothing

    async def _claim(self, free: int) -> Claim:
        asked_at = time.monotonic()
        self._claims += 1
        self._claim_lost = True
        claim = await self.store.claim(
            self.keeper.store.worker,
            lease_seconds=self.settings.lease_seconds,
            limit=free,
            max_bytes=CLAIM_BYTES,
            recover=self.keeper.may_recover,
            queues=self.settings.worker_queues,
            graphs=self.graphs,
            number=self._claims,
        )
        self._claim_lost = False
        for ended in claim.ended:
            JOBS_ENDED.labels(ended.graph, ended.status).inc()
            logger.warning("job ended without its worker", job=ended.id, graph=ended.graph, status=ended.status)
        for job in claim.jobs:
            self._start(job, asked_at, claim.now_ms)
        if self._handing_back.is_set():  # the claim was under way
            self._hand_back()
        return claim

    async def _disowned(self) -> bool:
        """Hand back what the last claim took, if it took anything: its reply was lost. Whether that is done."""
        known = [(lease.job.ref, lease.job.attempt) for lease in self.running.values()]
        try:
            disowned = await self.store.disown(self.keeper.store.worker, self._claims, known)
        except StoreError as error:
            logger.warning("a lost claim waits for Redis", error=str(error))
            await asyncio.sleep(random.uniform(0.1, 0.5))  # noqa: S311 - spreads load, guards nothing
            return False
        self._claim_lost = False
        for job in disowned:
            logger.warning("job of a lost claim handed back", job=job.id, graph=job.graph, status=job.status)
            if job.status == "cancelled":
                JOBS_ENDED.labels(job.graph, job.status).inc()
        return True

    def _start(self, job: Claimed, asked_at: float, now_ms: int) -> None:
        if f"{job.ref} {job.attempt}" in self.running:
            # A fail-over took the claim of this very attempt back, and now it is given again: it runs already.
            logger.warning("attempt claimed again after a fail-over", job=job.id, attempt=job.attempt)
            return
        self._alone = self._alone or job.alone
        if job.attempt == 1:
            ready_at = int(job.record.get(b"run_at") or job.record[b"created_at"])
            JOB_WAIT_SECONDS.observe(max(0, now_ms - ready_at) / 1000)
        JOBS_RUNNING.inc()
        lease = self.keeper.hold(job, asked_at)
        self.running[lease.fence] = lease
        self.tasks[lease.fence] = self.loop.create_task(self._attempt(lease))

    async def _attempt(self, lease: Lease) -> None:
        """One attempt, with its ids on each log line. Its outcome is written when this returns."""
        job = lease.job
        structlog.contextvars.bind_contextvars(job=job.id, attempt=job.attempt, graph=job.graph, tenant=job.tenant)
        logger.info("attempt started")
        try:
            await self.runner.run(lease)
        except Exception:
            logger.exception("attempt could not be written; its lease will run out")
        finally:
            self.keeper.drop(lease)
            del self.running[lease.fence]
            self._alone = self._alone and not job.alone
            self._ended += 1
            JOBS_RUNNING.dec()
            self._slot_freed.set()

    async def _wait_for_work(self, next_seconds: float | None) -> None:
        patience = FALL_BACK_SECONDS if next_seconds is None else min(max(next_seconds, 0.01), FALL_BACK_SECONDS)
        waiting = self.loop.create_task(
            self.store.wait_for_work(self.blocking, self.settings.worker_queues, self.graphs, patience)
        )
        stopping = self.loop.create_task(self._stopping.wait())
        try:
            await asyncio.wait([waiting, stopping], return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                waiting.result()
        finally:
            waiting.cancel()
            stopping.cancel()

    async def _wait_for_slot(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FALL_BACK_SECONDS):
                await self._slot_freed.wait()

    def _reap(self) -> None:
        """Forget tasks that are done, and stop to be recycled once enough is done."""
        self.tasks = {name: task for name, task in self.tasks.items() if not task.done()}
        jobs, megabytes = self.settings.worker_recycle_jobs, self.settings.worker_recycle_mb
        if not self._ended:  # at least one job, or a limit below the worker's own size would leave it none
            return
        if (jobs and self._ended >= jobs) or (megabytes and peak_memory_mb() > megabytes):
            logger.info("recycling", jobs=self._ended, peak_memory_mb=peak_memory_mb())
            self.stop_claiming()

    # Between jobs

    async def record_health(self) -> None:
        """arq's health record: `arq --check` succeeds as long as any worker writes it."""
        now = time.time()
        if now - self._last_health_check < HEALTH_SECONDS:
            return
        self._last_health_check = now
        depths, _ = await self.store.queue_state()
        text = (
            f"{datetime.now(self.timezone):%b-%d %H:%M:%S} j_complete={self._ended} j_ongoing={len(self.running)} "
            f"queued={sum(depths.values())}"
        )
        with store_errors():
            await self.pool.psetex(self.health_check_key, (HEALTH_SECONDS + 3) * 1000, text)

    async def _keep_house(self) -> None:
        while True:
            for duty in (self.record_health, self.housekeeping):
                try:
                    await duty()
                except StoreError as error:
                    logger.warning("housekeeping waits for Redis", error=str(error))
                except Exception:
                    logger.exception("housekeeping failed")
            await asyncio.sleep(FALL_BACK_SECONDS)


def peak_memory_mb() -> float:
    """The most memory this process has held, in MB. The kernel counts in KB, macOS in bytes."""
    import resource  # not there on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3
