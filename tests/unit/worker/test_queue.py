"""When the worker claims, waits, drains and leaves: its own decisions; store, keeper and runner are played."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import fakeredis
import pytest
import redis.exceptions
import structlog

from shared.settings import Settings, load_settings
from shared.store import Claim, Claimed, StoreUnavailable
from shared.store.job_values import Ended
from tests.conditions import until
from tests.servers import SECRET_KEY
from worker import queue as queue_module
from worker.gauges import JOBS_RUNNING
from worker.lease import EndReason, Lease
from worker.queue import JobWorker


def job(number: int, *, attempt: int = 1, alone: bool = False) -> Claimed:
    return Claimed(f"acme:j{number}", attempt, alone, b"{}", {b"graph": b"echo", b"created_at": b"1"})


class Store:
    """Gives what `ready` holds, up to the limit; a number in it is a pause, an exception is raised."""

    def __init__(self) -> None:
        self.ready: list[Any] = []
        self.limits: list[int] = []
        self.hold = False
        self.disowned: list[tuple[int, list[tuple[str, int]]]] = []
        self.woken = asyncio.Event()

    def put(self, *jobs: Any) -> None:
        self.ready += jobs
        self.woken.set()

    async def claim(self, worker: str, *, limit: int, **_: Any) -> Claim:
        self.limits.append(limit)
        await asyncio.sleep(0)
        jobs: list[Claimed] = []
        while self.ready and len(jobs) < limit:
            item = self.ready.pop(0)
            if isinstance(item, Exception):
                raise item
            if isinstance(item, float):
                await asyncio.sleep(item)
            else:
                jobs.append(item)
                if item.alone:
                    break
        return Claim(2, None, self.hold, jobs, [])

    async def disown(self, worker: str, number: int, known: list[tuple[str, int]]) -> list[Ended]:
        self.disowned.append((number, known))
        return []

    async def wait_for_work(self, blocking: Any, queues: Any, graphs: Any, seconds: float) -> None:
        self.woken.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.woken.wait()

    async def queue_state(self) -> tuple[dict[str, int], dict[str, float]]:
        return {"default": 3}, {"default": 0.0}


class Keeper:
    """Gives leases, and notes which are kept."""

    def __init__(self) -> None:
        self.store = type("KeeperStore", (), {"worker": "w1"})()
        self.may_recover = False
        self.kept: list[Lease] = []
        self.stopped = False

    def start(self) -> None: ...

    def stop(self) -> None:
        self.stopped = True

    def hold(self, job: Claimed, claimed_at: float) -> Lease:
        self.kept.append(Lease(job, claimed_at + 60))
        return self.kept[-1]

    def drop(self, lease: Lease) -> None:
        self.kept.remove(lease)


class Runner:
    """Runs an attempt until `finish` names it, or its end is asked for; `ended` says how it went."""

    def __init__(self) -> None:
        self.catalogue = type("Catalogue", (), {"graphs": {"echo": None}})()
        self.started: list[str] = []
        self.ended: dict[str, str] = {}
        self.finished: set[str] = set()
        self.stubborn = False

    async def run(self, lease: Lease) -> None:
        name = lease.fence.removeprefix("acme:")
        try:
            with lease.stoppable():
                self.started.append(name)
                await until(lambda: name in self.finished, 60)
            self.ended[name] = "succeeded"
        except asyncio.CancelledError:
            await until(lambda: not self.stubborn or name in self.finished, 60)
            self.ended[name] = lease.reason.name if lease.reason else "cancelled itself"

    def finish(self, *names: str) -> None:
        """Let these attempts (`<job> <attempt>`) end."""
        self.finished.update(names)


class Parts:
    """A worker and the parts it decides about."""

    def __init__(self, **settings: Any) -> None:
        self.settings: Settings = load_settings(worker_concurrency=2, drain_seconds=0, **settings)
        self.store, self.keeper, self.runner = Store(), Keeper(), Runner()
        self.redis = fakeredis.FakeAsyncRedis(server_type="valkey")
        self.housekeeping = 0

        async def keep_house() -> None:
            self.housekeeping += 1

        parts: Any = {"redis": self.redis, "blocking": fakeredis.FakeAsyncRedis(), "store": self.store}
        self.worker = JobWorker(
            self.settings, **parts, keeper=self.keeper, runner=self.runner, housekeeping=keep_house  # type: ignore[arg-type]
        )  # fmt: skip
        self.main: asyncio.Task[None] | None = None

    def start(self) -> None:
        self.main = asyncio.create_task(self.worker.main())

    async def gone(self) -> None:
        """Wait until the worker has left by itself."""
        assert self.main is not None
        await asyncio.wait_for(self.main, 5)
        await asyncio.wait_for(self.worker.close(), 5)
        self.main = None

    async def end(self) -> None:
        if self.main is not None:
            self.worker.handle_sig(signal.SIGTERM)
            self.worker.handle_sig(signal.SIGTERM)
            await self.gone()


@pytest.fixture
async def make() -> AsyncIterator[Callable[..., Parts]]:
    made: list[Parts] = []

    def make_parts(**settings: Any) -> Parts:
        made.append(Parts(**settings))
        return made[-1]

    yield make_parts
    for parts in made:
        await parts.end()


# Claiming


async def test_it_claims_for_its_free_slots_only(make: Callable[..., Parts]) -> None:
    parts = make()
    parts.store.put(*map(job, range(5)))
    parts.start()
    await until(lambda: len(parts.runner.started) == 2)
    await asyncio.sleep(0.02)
    assert parts.store.limits == [2]
    parts.runner.finish("j0 1")
    await until(lambda: len(parts.runner.started) == 3)
    assert parts.store.limits == [2, 1]
    assert len(parts.keeper.kept) == 2
    assert JOBS_RUNNING._value.get() == 2


async def test_a_freed_slot_is_filled_at_once(make: Callable[..., Parts], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_module, "FALL_BACK_SECONDS", 60)
    parts = make()
    parts.store.put(*map(job, range(60)))
    parts.runner.finish(*(f"j{number} 1" for number in range(60)))
    parts.start()
    await until(lambda: len(parts.runner.ended) == 60)


async def test_it_wakes_at_once_when_there_is_work(make: Callable[..., Parts], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_module, "FALL_BACK_SECONDS", 60)
    parts = make()
    parts.start()
    await until(lambda: parts.store.limits)
    await asyncio.sleep(0.01)
    parts.store.put(job(1))
    await until(lambda: parts.runner.started)


async def test_a_job_that_must_run_alone_keeps_the_worker_from_claiming(make: Callable[..., Parts]) -> None:
    parts = make()
    parts.store.put(job(1, alone=True), job(2))
    parts.start()
    await until(lambda: parts.runner.started == ["j1 1"])
    parts.store.woken.set()
    await asyncio.sleep(0.02)
    assert parts.runner.started == ["j1 1"]
    parts.runner.finish("j1 1")
    await until(lambda: parts.runner.started == ["j1 1", "j2 1"])


async def test_a_worker_that_must_become_free_asks_again_when_a_slot_is(
    make: Callable[..., Parts], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_module, "FALL_BACK_SECONDS", 60)
    parts = make()
    parts.store.put(job(1))
    parts.start()
    await until(lambda: parts.runner.started)
    parts.store.hold = True
    parts.store.woken.set()
    await until(lambda: len(parts.store.limits) == 2)
    asked = len(parts.store.limits)
    await asyncio.sleep(0.02)
    assert len(parts.store.limits) == asked
    parts.runner.finish("j1 1")
    await until(lambda: len(parts.store.limits) > asked)


async def test_it_goes_on_claiming_after_redis_was_away(make: Callable[..., Parts]) -> None:
    parts = make()
    parts.store.put(StoreUnavailable("away"), StoreUnavailable("away"), job(1))
    parts.start()
    await until(lambda: parts.runner.started == ["j1 1"])


async def test_a_job_that_comes_back_while_its_lost_attempt_is_on_its_way_out_is_kept_apart(
    make: Callable[..., Parts],
) -> None:
    parts = make()
    parts.runner.stubborn = True
    parts.store.put(job(1, attempt=1))
    parts.start()
    await until(lambda: parts.runner.started)
    parts.keeper.kept[0].end(EndReason.GONE)
    parts.store.put(job(1, attempt=2))
    await until(lambda: parts.runner.started == ["j1 1", "j1 2"])
    parts.runner.finish("j1 1")
    await until(lambda: parts.runner.ended)
    assert [lease.job.attempt for lease in parts.keeper.kept] == [2]
    assert [lease.job.attempt for lease in parts.worker.running.values()] == [2]
    parts.runner.finish("j1 2")


async def test_an_attempt_that_a_fail_over_gives_again_while_it_runs_is_not_started_twice(
    make: Callable[..., Parts],
) -> None:
    parts = make()
    parts.store.put(job(1))
    parts.start()
    await until(lambda: parts.runner.started)
    parts.store.put(job(1), job(2))
    await until(lambda: "j2 1" in parts.runner.started)
    assert parts.runner.started == ["j1 1", "j2 1"]
    assert len(parts.worker.running) == 2
    parts.runner.finish("j1 1", "j2 1")
    await until(lambda: not parts.worker.running)


async def test_a_worker_without_graphs_claims_nothing_and_stops_at_once(make: Callable[..., Parts]) -> None:
    parts = make(worker_roles=["webhooks"], secret_key=SECRET_KEY)
    parts.store.put(job(1))
    parts.start()
    await asyncio.sleep(0.02)
    started = time.monotonic()
    await parts.end()
    assert time.monotonic() - started < 0.5
    assert parts.store.limits == []


# Leaving


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_hands_back_what_runs_and_claims_nothing_more(
    make: Callable[..., Parts], signal_number: signal.Signals
) -> None:
    parts = make()
    parts.store.put(*map(job, range(3)))
    parts.start()
    await until(lambda: len(parts.runner.started) == 2)
    parts.worker.handle_sig(signal_number)
    await parts.gone()
    assert parts.runner.ended == {"j0 1": "STOPPING", "j1 1": "STOPPING"}
    assert [item.id for item in parts.store.ready] == ["j2"]
    assert parts.keeper.kept == []
    assert parts.keeper.stopped


async def test_an_idle_worker_leaves_at_once(make: Callable[..., Parts]) -> None:
    parts = make()
    parts.start()
    await until(lambda: parts.store.limits)
    started = time.monotonic()
    parts.worker.handle_sig(signal.SIGTERM)
    await parts.gone()
    assert time.monotonic() - started < 0.5


async def test_jobs_whose_claim_was_under_way_are_handed_back(make: Callable[..., Parts]) -> None:
    parts = make()
    parts.store.put(0.05, job(1), job(2))
    parts.start()
    await until(lambda: parts.store.limits)
    parts.worker.handle_sig(signal.SIGTERM)
    await parts.gone()
    assert parts.store.ready == []
    assert parts.runner.ended == {"j1 1": "STOPPING", "j2 1": "STOPPING"}
    assert parts.runner.started == []
    assert parts.keeper.kept == []


async def test_jobs_have_drain_seconds_to_finish(make: Callable[..., Parts]) -> None:
    parts = make()
    parts.settings.drain_seconds = 0.3
    parts.store.put(job(1), job(2))
    parts.start()
    await until(lambda: len(parts.runner.started) == 2)
    parts.worker.handle_sig(signal.SIGTERM)
    await asyncio.sleep(0.02)
    parts.runner.finish("j1 1")
    started = time.monotonic()
    await parts.gone()
    assert parts.runner.ended == {"j1 1": "succeeded", "j2 1": "STOPPING"}
    assert 0.2 < time.monotonic() - started < 2


async def test_a_second_signal_hands_back_at_once(make: Callable[..., Parts]) -> None:
    parts = make()
    parts.settings.drain_seconds = 60
    parts.store.put(job(1))
    parts.start()
    await until(lambda: parts.runner.started)
    parts.worker.handle_sig(signal.SIGTERM)
    await asyncio.sleep(0.02)
    assert parts.runner.ended == {}
    parts.worker.handle_sig(signal.SIGTERM)
    await parts.gone()
    assert parts.runner.ended == {"j1 1": "STOPPING"}


@pytest.mark.parametrize("waited", [1.8, 60])
async def test_a_signal_that_a_blocked_loop_heard_late_has_used_up_some_of_the_drain(
    make: Callable[..., Parts], waited: float
) -> None:
    parts = make()
    parts.settings.drain_seconds = 2
    parts.store.put(job(1))
    parts.start()
    await until(lambda: parts.runner.started)
    heard_at = time.monotonic()
    parts.worker.handle_sig(signal.SIGTERM, heard_at - waited)
    await until(lambda: parts.runner.ended)
    assert 2 - waited <= time.monotonic() - heard_at < 2
    await parts.gone()


async def test_the_job_of_an_attempt_that_does_not_stop_is_handed_back_without_it(
    make: Callable[..., Parts], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_module, "HAND_BACK_SECONDS", 0.05)
    parts = make()
    parts.runner.stubborn = True
    parts.store.put(job(1))
    parts.start()
    await until(lambda: parts.runner.started)
    (lease,) = parts.keeper.kept
    parts.worker.handle_sig(signal.SIGTERM)
    with structlog.testing.capture_logs() as logs:
        await parts.gone()
    assert parts.store.disowned == [(len(parts.store.limits), [])]  # all that the worker holds, and all it has claimed
    assert lease.gone  # it writes nothing more
    assert [(line["job"], line["graph"]) for line in logs if "does not stop" in line["event"]] == [("j1", "echo")]
    assert parts.keeper.stopped
    parts.runner.finish("j1 1")
    await until(lambda: parts.runner.ended)


@pytest.mark.parametrize("answer", [StoreUnavailable("away"), None], ids=["away", "silent"])
async def test_a_redis_that_is_away_does_not_keep_a_worker_with_such_an_attempt_from_leaving(
    make: Callable[..., Parts], monkeypatch: pytest.MonkeyPatch, answer: Exception | None
) -> None:
    monkeypatch.setattr(queue_module, "HAND_BACK_SECONDS", 0.05)
    monkeypatch.setattr(queue_module, "ABANDON_SECONDS", 0.05)
    parts = make()

    async def disown(*_: Any) -> list[Ended]:
        if answer is not None:
            raise answer
        await asyncio.sleep(60)
        return []

    monkeypatch.setattr(parts.store, "disown", disown)
    parts.runner.stubborn = True
    parts.store.put(job(1))
    parts.start()
    await until(lambda: parts.runner.started)
    parts.worker.handle_sig(signal.SIGTERM)
    with structlog.testing.capture_logs():
        await parts.gone()
    assert parts.keeper.stopped
    parts.runner.finish("j1 1")
    await until(lambda: parts.runner.ended)


# Recycling


async def test_after_its_number_of_jobs_it_claims_no_more_and_leaves_once_what_runs_has_ended(
    make: Callable[..., Parts],
) -> None:
    parts = make(worker_recycle_jobs=1)
    parts.store.put(*map(job, range(5)))
    parts.start()
    await until(lambda: len(parts.runner.started) == 2)
    parts.runner.finish("j0 1")
    await asyncio.sleep(0.05)
    assert parts.runner.started == ["j0 1", "j1 1"]
    assert parts.main is not None
    assert not parts.main.done()
    parts.runner.finish("j1 1")
    await parts.gone()
    assert parts.runner.ended == {"j0 1": "succeeded", "j1 1": "succeeded"}


async def test_a_signal_while_it_is_being_recycled_hands_back_what_runs(make: Callable[..., Parts]) -> None:
    parts = make(worker_recycle_jobs=1)
    parts.store.put(job(0), job(1))
    parts.start()
    await until(lambda: len(parts.runner.started) == 2)
    parts.runner.finish("j0 1")
    await until(lambda: not parts.worker.allow_pick_jobs)
    parts.worker.handle_sig(signal.SIGTERM)
    await parts.gone()
    assert parts.runner.ended == {"j0 1": "succeeded", "j1 1": "STOPPING"}


async def test_above_its_memory_size_it_leaves_but_not_before_it_has_done_a_job(
    make: Callable[..., Parts], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_module, "FALL_BACK_SECONDS", 0.01)
    parts = make(worker_recycle_mb=1)
    parts.start()
    await until(lambda: parts.store.limits)
    await asyncio.sleep(0.02)
    parts.store.put(job(1))
    await until(lambda: parts.runner.started)
    parts.runner.finish("j1 1")
    await parts.gone()
    assert parts.runner.ended == {"j1 1": "succeeded"}


# Between jobs


async def test_it_keeps_arqs_health_record_fresh_and_leaves_it_to_others(make: Callable[..., Parts]) -> None:
    parts = make()
    parts.start()
    record = await until(lambda: parts.redis.get("mas:health-check"))
    assert b"j_ongoing=0 queued=3" in record
    assert 5_000 < await parts.redis.pttl("mas:health-check") <= 8_000
    parts.worker.handle_sig(signal.SIGTERM)
    await parts.gone()
    assert await fakeredis.FakeAsyncRedis(connection_pool=parts.redis.connection_pool).get("mas:health-check")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (redis.exceptions.OutOfMemoryError("full"), "housekeeping waits for Redis"),
        (redis.exceptions.ConnectionError("away"), "housekeeping waits for Redis"),
        (RuntimeError("a bug"), "housekeeping failed"),
    ],
    ids=repr,
)
async def test_what_goes_wrong_between_jobs_stops_no_job(
    make: Callable[..., Parts], monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    monkeypatch.setattr(queue_module, "FALL_BACK_SECONDS", 0.01)
    parts = make()

    async def refuse(*_: Any) -> None:
        raise error

    monkeypatch.setattr(parts.redis, "psetex", refuse)
    with structlog.testing.capture_logs() as logs:
        parts.start()
        await until(lambda: parts.housekeeping >= 2)
        parts.store.put(job(1))
        await until(lambda: parts.runner.started == ["j1 1"])
    assert logs[0]["event"] == said
