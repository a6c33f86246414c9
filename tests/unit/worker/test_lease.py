"""A lease, and the writes that wait for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from shared.store import Claimed, NotReplicated, StoreUnavailable
from tests.conditions import until
from worker import lease as lease_module
from worker.lease import EndReason, FencedWriter, Lease, LeaseLost

JOB = Claimed("acme:j1", 1, False, b"{}", {b"graph": b"echo", b"round": b"1"})


class Store:
    """Notes what it is asked; gives the next of `answers`, or raises it."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []
        self.meanwhile: Callable[[], None] = lambda: None  # happens before the answer is read

    async def append(self, worker: str, job: Claimed, events: Sequence[bytes]) -> Any:
        return self._answer(f"append by {worker}")

    async def finish(self, worker: str, job: Claimed, status: str, **_: Any) -> Any:
        return self._answer(f"finish {status} by {worker}")

    async def release(self, worker: str, job: Claimed, kind: str, **_: Any) -> Any:
        return self._answer(f"release {kind} by {worker}")

    async def checkpoint(self, worker: str, job: Claimed, changed: Any, dropped: Any, **_: Any) -> Any:
        return self._answer(f"checkpoint by {worker}")

    async def checkpoints(self, job: Claimed) -> Any:
        return self._answer("checkpoints")

    async def pin(self, worker: str, job: Claimed, pins: Any) -> Any:
        return self._answer(f"pin by {worker}")

    async def head(self, job: Claimed) -> Any:
        return self._answer("head")

    def _answer(self, asked: str) -> Any:
        self.asked.append(asked)
        self.meanwhile()
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def held() -> Lease:
    return Lease(JOB, time.monotonic() + 60)


def expired() -> Lease:
    return Lease(JOB, time.monotonic() - 1)


def writer(lease: Lease, store: Store) -> FencedWriter:
    return FencedWriter(store, "w1", lease)  # type: ignore[arg-type]


async def turns(number: int = 10) -> None:
    """Let everything run that can."""
    for _ in range(number):
        await asyncio.sleep(0)


# Writes


async def test_a_write_under_a_lease_that_holds_is_sent_at_once() -> None:
    store = Store(True, "done", "queued")
    fenced = writer(held(), store)
    await fenced.append([b"{}"])
    await fenced.finish("succeeded", output=b"1")
    assert await fenced.release("hand_back") == "queued"
    assert store.asked == ["append by w1", "finish succeeded by w1", "release hand_back by w1"]


STEPS: dict[str, Callable[[FencedWriter], Awaitable[Any]]] = {
    "checkpoint": lambda fenced: fenced.checkpoint({b"a": b"1"}, []),
    "checkpoints": lambda fenced: fenced.checkpoints(),
    "pin": lambda fenced: fenced.pin([("", "1", "")]),
    "head": lambda fenced: fenced.head(),
}


@pytest.mark.parametrize("step", STEPS)
async def test_where_the_process_stood_still_before_the_answer_no_node_follows_until_the_lease_is_known_to_hold(
    step: str,
) -> None:
    for known in ("held", "gone"):
        lease, store = held(), Store(True)

        def stand_still(lease: Lease = lease) -> None:
            lease.deadline = time.monotonic() - 1

        store.meanwhile = stand_still
        asked = asyncio.ensure_future(STEPS[step](writer(lease, store)))
        await turns()
        assert not asked.done()
        if known == "held":
            lease.renewed(time.monotonic() + 60)
            await asyncio.wait_for(asked, 1)
        else:
            lease.end(EndReason.GONE)
            with pytest.raises(LeaseLost):
                await asyncio.wait_for(asked, 1)
        assert len(store.asked) == 1


async def test_past_the_deadline_a_write_waits_and_nothing_is_sent_until_a_renewal_lets_it_go() -> None:
    lease, store = expired(), Store("done")
    write = asyncio.create_task(writer(lease, store).finish("succeeded"))
    await turns()
    assert store.asked == []
    lease.renewed(time.monotonic() - 0.5)  # a renewal that came too late
    await turns()
    assert store.asked == []
    assert not write.done()
    lease.renewed(time.monotonic() + 60)
    await asyncio.wait_for(write, 1)
    assert store.asked == ["finish succeeded by w1"]


async def test_a_write_that_waits_ends_when_the_lease_is_known_to_be_gone() -> None:
    lease, store = expired(), Store()
    write = asyncio.create_task(writer(lease, store).finish("succeeded"))
    await turns()
    lease.end(EndReason.GONE)
    with pytest.raises(LeaseLost):
        await asyncio.wait_for(write, 1)
    assert store.asked == []


async def test_a_lease_that_is_gone_writes_nothing_also_before_its_deadline() -> None:
    lease, store = held(), Store()
    lease.end(EndReason.GONE)
    for write in (writer(lease, store).append([b""]), writer(lease, store).release("hand_back")):
        with pytest.raises(LeaseLost):
            await write
    assert store.asked == []


async def test_a_cancel_or_a_stop_does_not_keep_the_attempt_from_writing() -> None:
    for reason in (EndReason.CANCEL, EndReason.STOPPING):
        lease, store = held(), Store("done")
        lease.end(reason)
        await writer(lease, store).finish("cancelled")
        assert store.asked == ["finish cancelled by w1"]


@pytest.mark.parametrize(
    ("answer", "write"),
    [
        (False, lambda fenced: fenced.append([b""])),
        ("gone", lambda fenced: fenced.finish("succeeded")),
        ("gone", lambda fenced: fenced.release("backoff")),
    ],
    ids=["append", "finish", "release"],
)
async def test_a_write_that_the_store_refuses_ends_the_lease(answer: Any, write: Any) -> None:
    lease, store = held(), Store(answer)
    with pytest.raises(LeaseLost):
        await write(writer(lease, store))
    assert lease.gone


async def test_an_outcome_that_was_written_by_a_call_whose_reply_was_lost_is_written() -> None:
    store = Store(StoreUnavailable("hung up"), "already")
    await writer(held(), store).finish("succeeded")
    assert store.asked == ["finish succeeded by w1"] * 2


async def test_while_redis_is_away_a_write_is_sent_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "RETRY_SECONDS", 0.001)
    store = Store(*[StoreUnavailable("away")] * 20, True)
    await writer(held(), store).append([b""])
    assert len(store.asked) == 21


async def test_a_write_that_waits_for_redis_ends_when_the_lease_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "RETRY_SECONDS", 0.001)
    lease, store = held(), Store(*[StoreUnavailable("away")] * 10_000)
    write = asyncio.create_task(writer(lease, store).append([b""]))
    await until(lambda: len(store.asked) >= 2)
    lease.end(EndReason.GONE)
    with pytest.raises(LeaseLost):
        await asyncio.wait_for(write, 1)


async def test_an_outcome_that_too_few_replicas_have_is_sent_again_although_its_lease_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lease_module, "RETRY_SECONDS", 0.001)
    lease, store = held(), Store(*[NotReplicated("0 of 1")] * 1000)
    write = asyncio.create_task(writer(lease, store).finish("succeeded"))
    await until(lambda: len(store.asked) >= 2)
    lease.end(EndReason.GONE)  # what a renewal says once the round is over
    asked = len(store.asked)
    await until(lambda: len(store.asked) >= asked + 5)
    store.answers = ["already"]
    await asyncio.wait_for(write, 1)


async def test_a_write_that_too_few_replicas_have_ends_when_the_script_says_that_the_lease_is_gone() -> None:
    store = Store(NotReplicated("0 of 1"), "gone")
    with pytest.raises(LeaseLost):
        await writer(held(), store).finish("succeeded")


async def test_a_bug_in_a_script_is_raised_and_not_repeated() -> None:
    store = Store(RuntimeError("a bug"))
    with pytest.raises(RuntimeError):
        await writer(held(), store).append([b""])
    assert len(store.asked) == 1


# The end of a lease


def test_the_first_reason_stands_but_that_a_lease_is_gone_outweighs_all() -> None:
    lease = held()
    lease.end(EndReason.CANCEL)
    lease.end(EndReason.STOPPING)
    assert lease.reason is EndReason.CANCEL
    lease.end(EndReason.GONE)
    assert lease.reason is EndReason.GONE
    lease.end(EndReason.CANCEL)
    assert lease.reason is EndReason.GONE


@pytest.mark.parametrize("reason", EndReason)
async def test_the_end_cancels_what_runs_within_the_stoppable_block(reason: EndReason) -> None:
    lease = held()
    entered = asyncio.Event()

    async def attempt() -> str:
        try:
            with lease.stoppable():
                entered.set()
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "stopped"
        return "not stopped"

    task = asyncio.create_task(attempt())
    await entered.wait()
    lease.end(reason)
    assert await asyncio.wait_for(task, 1) == "stopped"


async def test_an_end_that_came_before_keeps_the_block_from_running() -> None:
    lease = held()
    lease.end(EndReason.STOPPING)
    with pytest.raises(asyncio.CancelledError), lease.stoppable():
        pytest.fail("the block ran")


async def test_what_an_attempt_came_to_is_written_undisturbed() -> None:
    lease = held()
    release = asyncio.Event()

    async def attempt() -> str:
        with lease.stoppable():
            await asyncio.sleep(0)
        await release.wait()
        return "written"

    task = asyncio.create_task(attempt())
    await turns()
    lease.end(EndReason.CANCEL)
    lease.end(EndReason.GONE)
    await turns()
    release.set()
    assert await asyncio.wait_for(task, 1) == "written"


# The time limit


async def test_what_an_attempt_runs_is_overdue_once_its_seconds_are_over_and_what_it_writes_then_is_not() -> None:
    lease = held()
    assert lease.overdue_at is None
    with lease.stoppable():
        before = time.monotonic()
        lease.limit_to(5)
        assert lease.overdue_at is not None
        assert before + 5 <= lease.overdue_at <= time.monotonic() + 5
        assert lease.limit == 5
    assert lease.overdue_at is None


async def test_an_attempt_without_a_limit_is_never_overdue() -> None:
    lease = held()
    with lease.stoppable():
        lease.limit_to(None)
        assert lease.overdue_at is None
