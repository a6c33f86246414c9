"""The keeper's thread, on a store that answers what the test says."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import structlog

from shared.store import Claimed, StoreFull, StoreUnavailable
from tests.conditions import until
from worker import keeper as keeper_module
from worker.keeper import Keeper
from worker.lease import EndReason, Lease

LEASE_SECONDS = 0.06


def job(number: int, attempt: int = 1) -> Claimed:
    return Claimed(f"acme:j{number}", attempt, False, b"", {b"graph": b"echo"})


class Store:
    """Answers from `errors` while they last, and then that all is well. Used from the keeper's thread."""

    def __init__(self) -> None:
        self.renewed: list[list[tuple[str, int]]] = []
        self.beats: list[Any] = []
        self.asked: list[tuple[str, int]] = []
        self.answers: dict[str, str] = {}
        self.errors: dict[str, Callable[[], Exception | None]] = {}
        self.said_farewell = threading.Event()

    def renew(self, lease_seconds: float, held: list[tuple[str, int]]) -> list[str]:
        self._fail("renew")
        self.renewed.append(held)
        return [self.answers.get(ref, "held") for ref, _ in held]

    def heartbeat(self, state: Any) -> None:
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


@pytest.fixture
async def keeper(store: Store, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Keeper]:
    monkeypatch.setattr(keeper_module, "RECONNECT_SECONDS", 0.005)
    monkeypatch.setattr(keeper_module, "HEARTBEAT_SECONDS", 0.02)
    keeper = Keeper(store, LEASE_SECONDS, asyncio.get_running_loop(), lambda: {"id": "w1"})  # type: ignore[arg-type]
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
