"""The keeper's thread, on a store that answers what the test says."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import orjson
import pytest
import structlog

from shared.store import Claimed, Ended, StoreFull, StoreUnavailable
from tests.conditions import until
from worker import blockage as blockage_module
from worker import keeper as keeper_module
from worker.keeper import Keeper
from worker.lease import EndReason, Lease

LEASE_SECONDS = 0.06


def job(number: int, attempt: int = 1) -> Claimed:
    return Claimed(f"acme:j{number}", attempt, False, b"", {b"graph": b"echo"})


class Store:
    """Answers from `errors` while they last, and then that all is well. Used from the keeper's thread."""

    worker = "w1"

    def __init__(self) -> None:
        self.renewed: list[list[tuple[str, int]]] = []
        self.failed: list[tuple[str, int, Any]] = []
        self.handed_back = 0
        self.beats: list[Any] = []
        self.asked: list[tuple[str, int]] = []
        self.answers: dict[str, str] = {}
        self.errors: dict[str, Callable[[], Exception | None]] = {}
        self.said_farewell = threading.Event()

    def renew(self, lease_seconds: float, held: list[tuple[str, int]]) -> list[str]:
        self._fail("renew")
        self.renewed.append(held)
        return [self.answers.get(ref, "held") for ref, _ in held]

    def fail(self, ref: str, attempt: int, error: bytes) -> str:
        self._fail("fail")
        self.failed.append((ref, attempt, orjson.loads(error)))
        return "done"

    def hand_back_all(self) -> list[Ended]:
        self._fail("hand_back_all")
        self.handed_back += 1
        return [Ended("acme:j9", "echo", "queued")]

    def heartbeat(self, state: Any, lease_seconds: float) -> None:
        self._fail("heartbeat")
        self.beats.append(state)

    def wait_for_control(self, timeout: float) -> tuple[str, int] | None:
        self._fail("wait_for_control")
        if self.asked:
            return self.asked.pop(0)
        time.sleep(min(timeout, 0.01))
        return None

    def farewell(self) -> None:
        self._fail("farewell")
        self.said_farewell.set()

    def _fail(self, name: str) -> None:
        error = self.errors.get(name, lambda: None)()
        if error is not None:
            raise error


@pytest.fixture
def store() -> Store:
    return Store()


class Process:
    """What the keeper knows of its process: when it is to leave; and what the keeper does with it."""

    def __init__(self) -> None:
        self.leave_at: float | None = None
        self.statuses: list[int] = []


@pytest.fixture
def process() -> Process:
    return Process()


@pytest.fixture
async def keeper(store: Store, process: Process, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Keeper]:
    monkeypatch.setattr(keeper_module, "RECONNECT_SECONDS", 0.005)
    keeper = Keeper(
        store,  # type: ignore[arg-type]
        LEASE_SECONDS,
        asyncio.get_running_loop(),
        lambda: {"id": "w1"},
        leave_at=lambda: process.leave_at,
        exit_process=process.statuses.append,
    )
    yield keeper
    keeper.stop()


def hold(keeper: Keeper, number: int = 1, attempt: int = 1) -> Lease:
    return keeper.hold(job(number, attempt), time.monotonic())


async def test_held_leases_are_renewed_again_and_again_and_dropped_ones_are_not(keeper: Keeper, store: Store) -> None:
    kept, dropped = hold(keeper, 1), hold(keeper, 2)
    first_deadline = kept.deadline
    keeper.start()
    await until(lambda: len(store.renewed) >= 3)
    assert store.renewed[0] == [("acme:j1", 1), ("acme:j2", 1)]
    keeper.drop(dropped)
    seen = len(store.renewed)
    await until(lambda: len(store.renewed) >= seen + 3)
    assert store.renewed[-1] == [("acme:j1", 1)]
    assert kept.deadline > first_deadline
    assert kept.reason is None


async def test_an_older_attempts_drop_leaves_the_newer_ones_lease(keeper: Keeper, store: Store) -> None:
    old = hold(keeper, 1, attempt=1)
    new = hold(keeper, 1, attempt=2)
    keeper.drop(old)
    keeper.start()
    await until(lambda: store.renewed)
    assert store.renewed[0] == [("acme:j1", 2)]
    assert new.reason is None


@pytest.mark.parametrize(("answer", "reason"), [("gone", EndReason.GONE), ("cancel", EndReason.CANCEL)])
async def test_what_a_renewal_answers_ends_that_lease_only(
    keeper: Keeper, store: Store, answer: str, reason: EndReason
) -> None:
    store.answers["acme:j1"] = answer
    told, other = hold(keeper, 1), hold(keeper, 2)
    keeper.start()
    await until(lambda: told.reason)
    assert told.reason is reason
    assert other.reason is None


async def test_a_lease_that_is_to_be_cancelled_is_kept_meanwhile(keeper: Keeper, store: Store) -> None:
    store.answers["acme:j1"] = "cancel"
    lease = hold(keeper)
    first_deadline = lease.deadline
    keeper.start()
    await until(lambda: lease.deadline > first_deadline)


async def test_a_cancel_is_heard_at_once_and_only_by_the_attempt_it_names(keeper: Keeper, store: Store) -> None:
    one, two = hold(keeper, 1), hold(keeper, 2, attempt=5)
    store.asked = [("acme:j2", 4), ("acme:j3", 1), ("acme:j1", 1)]
    keeper.start()
    await until(lambda: one.reason)
    assert one.reason is EndReason.CANCEL
    assert two.reason is None


@pytest.mark.parametrize("call", ["renew", "heartbeat", "wait_for_control"])
@pytest.mark.parametrize(
    "error", [StoreUnavailable("away"), RuntimeError("a bug")], ids=lambda error: type(error).__name__
)
async def test_whatever_goes_wrong_the_keeper_goes_on_once_redis_is_back(
    keeper: Keeper, store: Store, call: str, error: Exception
) -> None:
    failures = [error] * 5
    store.errors[call] = lambda: failures.pop() if failures else None
    hold(keeper)
    with structlog.testing.capture_logs():
        keeper.start()
        await until(lambda: not failures)
        renewed, beats = len(store.renewed), len(store.beats)
        await until(lambda: len(store.renewed) >= renewed + 3 and len(store.beats) >= beats + 2)


async def test_a_full_redis_that_refuses_heartbeats_does_not_keep_leases_from_being_renewed(
    keeper: Keeper, store: Store
) -> None:
    store.errors["heartbeat"] = lambda: StoreFull("OOM")
    hold(keeper)
    keeper.start()
    await until(lambda: len(store.renewed) >= 3)
    assert store.beats == []
    assert keeper.connected_since is not None


async def test_jobs_of_others_may_be_recovered_only_a_third_of_a_lease_and_half_a_second_after_connecting(
    keeper: Keeper, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not keeper.may_recover
    keeper.start()
    await until(lambda: keeper.connected_since)
    assert not keeper.may_recover
    connected = keeper.connected_since
    assert connected is not None
    clock = {"now": connected + LEASE_SECONDS / 3 + 0.49}
    monkeypatch.setattr(keeper_module.time, "monotonic", lambda: clock["now"])
    assert not keeper.may_recover
    clock["now"] = connected + LEASE_SECONDS / 3 + 0.51
    assert keeper.may_recover
    monkeypatch.undo()


async def test_after_redis_was_away_the_wait_begins_anew(keeper: Keeper, store: Store) -> None:
    keeper.start()
    await until(lambda: keeper.connected_since)
    keeper.connected_since = time.monotonic() - 60
    assert keeper.may_recover
    failures = iter([StoreUnavailable("away")] * 3)
    store.errors["wait_for_control"] = lambda: next(failures, None)
    await until(lambda: not keeper.may_recover)
    await until(lambda: keeper.connected_since)
    assert not keeper.may_recover


async def test_the_heartbeat_says_what_the_worker_says_of_itself(keeper: Keeper, store: Store) -> None:
    keeper.start()
    await until(lambda: len(store.beats) >= 2)
    assert store.beats[0] == {"id": "w1"}


async def test_a_keeper_that_stops_says_farewell(keeper: Keeper, store: Store) -> None:
    keeper.start()
    await until(lambda: store.beats)
    keeper.stop()
    assert store.said_farewell.is_set()


async def test_a_keeper_stops_also_where_redis_is_away(keeper: Keeper, store: Store) -> None:
    for call in ("renew", "heartbeat", "wait_for_control", "farewell"):
        store.errors[call] = lambda: StoreUnavailable("away")
    keeper.start()
    started = time.monotonic()
    keeper.stop()
    assert time.monotonic() - started < 1.5


async def test_leases_are_renewed_while_the_event_loop_is_blocked(keeper: Keeper, store: Store) -> None:
    hold(keeper)
    keeper.start()
    await until(lambda: store.renewed)
    before = len(store.renewed)
    time.sleep(LEASE_SECONDS * 3)  # noqa: ASYNC251 - blocks the event loop on purpose
    assert len(store.renewed) >= before + 4


# What it does in the loop's place


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take a loop for blocked after a tenth of a second."""
    monkeypatch.setattr(keeper_module, "BLOCKED_SECONDS", 0.1)
    monkeypatch.setattr(keeper_module, "OVERDUE_SECONDS", 0.1)
    monkeypatch.setattr(keeper_module, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(keeper_module, "LOOK_AGAIN_SECONDS", 0.02)
    monkeypatch.setattr(blockage_module, "BLOCKED_SECONDS", 0.1)


def block(until: Callable[[], Any], within: float = 5) -> None:
    """Block the event loop until something is true, or time is over."""
    deadline = time.monotonic() + within
    while not until() and time.monotonic() < deadline:
        time.sleep(0.005)


async def run_node(lease: Lease, seconds: float | None, node: Callable[[], Any]) -> None:
    """What the runner does: a node in a task of its own, under a time limit that is not enforced here."""

    async def call() -> None:
        node()

    async def attempt() -> None:
        with lease.stoppable():
            lease.limit_to(seconds)
            await asyncio.create_task(call())

    await asyncio.wait([asyncio.create_task(attempt())])


def running(lease: Lease, seconds: float | None) -> asyncio.Task[None]:
    """An attempt that gives way to the loop for as long as the test lasts."""

    async def wait() -> None:
        with lease.stoppable():
            lease.limit_to(seconds)
            await asyncio.sleep(60)

    return asyncio.create_task(wait())


@pytest.mark.usefixtures("quick")
async def test_a_job_that_blocks_the_loop_past_its_time_limit_is_failed_the_others_are_handed_back_and_it_leaves(
    keeper: Keeper, store: Store, process: Process
) -> None:
    blocker, other, late = hold(keeper, 1), hold(keeper, 2), hold(keeper, 3)
    waiting = [running(other, 60), running(late, 0.1)]  # the late one could end, if it had the loop
    keeper.start()
    with structlog.testing.capture_logs() as logs:
        await run_node(blocker, 0.1, lambda: block(lambda: process.statuses))
    assert process.statuses == [3]
    message = "the attempt ran longer than 0.1 seconds"
    error = {"type": "JobFailed", "code": "timeout", "message": message, "node": None, "retryable": False}
    assert store.failed == [("acme:j1", 1, error)]
    assert store.handed_back == 1
    assert store.said_farewell.is_set()
    await until(lambda: blocker.gone and other.gone and late.gone)  # they write nothing, should the process live on
    (said,) = [line for line in logs if line["event"] == "leaving, for the event loop is blocked"]
    assert (said["graph"], said["job"], said["status"]) == ("echo", "j1", 3)
    for task in waiting:
        task.cancel()


@pytest.mark.usefixtures("quick")
async def test_a_job_that_is_overdue_while_the_loop_answers_is_left_to_the_loop(
    keeper: Keeper, store: Store, process: Process
) -> None:
    task = running(hold(keeper), 0.01)
    keeper.start()
    await asyncio.sleep(0.8)
    assert (process.statuses, store.failed) == ([], [])
    task.cancel()


async def test_a_loop_that_is_blocked_for_a_moment_is_not_left_though_a_job_is_overdue(
    keeper: Keeper, store: Store, process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper_module, "OVERDUE_SECONDS", 0.1)
    monkeypatch.setattr(keeper_module, "LOOK_SECONDS", 0.02)
    keeper.start()
    await run_node(hold(keeper), 0.01, lambda: block(lambda: process.statuses, keeper_module.BLOCKED_SECONDS - 0.2))
    assert (process.statuses, store.failed) == ([], [])


@pytest.mark.usefixtures("quick")
async def test_a_process_that_was_stopped_as_a_whole_leaves_overdue_jobs_to_the_loop_that_runs_again(
    store: Store,
) -> None:
    keeper = Keeper(store, LEASE_SECONDS, asyncio.get_running_loop(), dict)  # type: ignore[arg-type]
    task = running(hold(keeper), 0.01)
    await asyncio.sleep(0.2)
    watch = keeper._watch
    watch._asked_at = time.monotonic() - 60  # as after a SIGCONT: asked before, and not answered yet
    watch._answered.clear()
    looking = asyncio.create_task(asyncio.to_thread(keeper._overdue))
    await asyncio.sleep(0.05)
    watch._answered.set()
    assert await looking is None
    task.cancel()


@pytest.mark.usefixtures("quick")
async def test_what_goes_wrong_with_the_watch_costs_no_lease(
    keeper: Keeper, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look() -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(keeper._watch, "look", look)
    hold(keeper)
    with structlog.testing.capture_logs():
        keeper.start()
        await until(lambda: len(store.renewed) >= 5)
    assert keeper.connected_since is not None


@pytest.mark.usefixtures("quick")
async def test_a_job_whose_time_is_not_over_may_block_the_loop_though_others_are_overdue(
    keeper: Keeper, store: Store, process: Process
) -> None:
    blocker, late = hold(keeper, 1), hold(keeper, 2)
    task = running(late, 0.01)
    keeper.start()
    for limit in (60, None):
        with structlog.testing.capture_logs():
            await run_node(blocker, limit, lambda: block(lambda: process.statuses, 0.8))
    assert (process.statuses, store.failed, store.handed_back) == ([], [], 0)
    task.cancel()


@pytest.mark.usefixtures("quick")
async def test_where_nobody_is_seen_to_block_the_loop_all_that_is_overdue_is_failed(
    keeper: Keeper, store: Store, process: Process
) -> None:
    leases = [hold(keeper, number) for number in (1, 2, 3)]
    tasks = [running(lease, seconds) for lease, seconds in zip(leases, (0.01, 0.01, 60), strict=True)]
    await asyncio.sleep(0)
    keeper.start()
    with structlog.testing.capture_logs():
        block(lambda: process.statuses)
    assert process.statuses == [3]
    assert [ref for ref, _, _ in store.failed] == ["acme:j1", "acme:j2"]
    assert store.handed_back == 1
    for task in tasks:
        task.cancel()


@pytest.mark.usefixtures("quick")
async def test_where_a_task_that_an_ended_job_left_blocks_the_loop_nobody_is_failed(
    keeper: Keeper, store: Store, process: Process
) -> None:
    ended, late = hold(keeper, 1), hold(keeper, 2)
    task = running(late, 0.01)
    await asyncio.sleep(0)
    keeper.start()
    with structlog.testing.capture_logs():
        keeper.drop(ended)
        await run_node(ended, None, lambda: block(lambda: process.statuses))
    assert (process.statuses, store.failed, store.handed_back) == ([3], [], 1)
    task.cancel()


@pytest.mark.usefixtures("quick")
async def test_a_signal_is_obeyed_on_a_blocked_loop_once_the_drain_is_over(
    keeper: Keeper, store: Store, process: Process
) -> None:
    lease = hold(keeper)
    keeper.start()
    process.leave_at = time.monotonic() + 0.3
    with structlog.testing.capture_logs():
        await run_node(lease, 60, lambda: block(lambda: process.statuses))
    assert time.monotonic() >= process.leave_at
    assert (process.statuses, store.failed, store.handed_back) == ([0], [], 1)
    assert store.said_farewell.is_set()


@pytest.mark.usefixtures("quick")
async def test_a_loop_that_answers_drains_by_itself(keeper: Keeper, store: Store, process: Process) -> None:
    task = running(hold(keeper), 60)
    keeper.start()
    process.leave_at = time.monotonic()
    await asyncio.sleep(0.8)
    assert (process.statuses, store.handed_back) == ([], 0)
    task.cancel()


@pytest.mark.usefixtures("quick")
async def test_a_loop_that_waits_for_the_keeper_to_stop_is_not_taken_for_a_blocked_one(
    keeper: Keeper, store: Store, process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = threading.Event()

    def silent() -> bool:
        asked.set()
        return keeper._stopping.wait(5)  # the loop stops the keeper, and so cannot answer

    monkeypatch.setattr(keeper._watch, "silent", silent)
    hold(keeper)
    keeper.start()
    process.leave_at = time.monotonic()
    await until(asked.is_set)
    keeper.stop()
    assert not keeper._thread.is_alive()
    assert (process.statuses, store.handed_back) == ([], 0)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("error", [StoreUnavailable("away"), RuntimeError("a bug")], ids=repr)
async def test_what_goes_wrong_while_it_leaves_is_tried_again_and_for_a_lease_at_most(
    keeper: Keeper, store: Store, process: Process, error: Exception
) -> None:
    keeper.lease_seconds = 0.5
    failures = [error] * 5
    store.errors["hand_back_all"] = lambda: failures.pop() if failures else None
    lease = hold(keeper)
    keeper.start()
    with structlog.testing.capture_logs():
        await run_node(lease, 0.01, lambda: block(lambda: process.statuses))
    assert (process.statuses, store.handed_back, failures) == ([3], 1, [])


@pytest.mark.usefixtures("quick")
async def test_it_leaves_also_where_redis_stays_away(keeper: Keeper, store: Store, process: Process) -> None:
    for call in ("renew", "heartbeat", "wait_for_control", "fail", "hand_back_all", "farewell"):
        store.errors[call] = lambda: StoreUnavailable("away")
    lease = hold(keeper)
    keeper.start()
    with structlog.testing.capture_logs():
        await run_node(lease, 0.01, lambda: block(lambda: process.statuses))
    assert process.statuses == [3]


@pytest.mark.usefixtures("quick")
async def test_a_job_that_someone_else_has_by_now_is_not_said_to_have_failed(
    keeper: Keeper, store: Store, process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "fail", lambda *_: "gone")
    lease = hold(keeper)
    keeper.start()
    with structlog.testing.capture_logs() as logs:
        await run_node(lease, 0.01, lambda: block(lambda: process.statuses))
    assert process.statuses == [3]
    assert [line["status"] for line in logs if line["event"] == "job ended"] == ["gone"]
