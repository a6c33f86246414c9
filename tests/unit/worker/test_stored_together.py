"""Changes of several jobs in one transaction: what one of them does or suffers is not the others' trouble."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from worker.checkpoints import driver
from worker.checkpoints.driver import Change, StoredTogether


def change(name: str) -> list[Change]:
    return [Change("write", (name, "value"))]


class Table:
    """A table that can be slow, refuse rows, or be away."""

    def __init__(self) -> None:
        self.transactions: list[list[str]] = []
        self.go = asyncio.Event()
        self.go.set()
        self.away: Exception | None = None
        self.store = StoredTogether(self.write)

    async def write(self, changes: Sequence[Change]) -> None:
        names = [change.row[0] for change in changes]
        self.transactions.append(names)
        await self.go.wait()
        if self.away is not None:
            raise self.away
        if "wrong" in names:
            raise ValueError("a row is wrong")


async def test_what_comes_while_a_transaction_is_under_way_shares_the_next() -> None:
    table = Table()
    table.go.clear()
    first = [asyncio.create_task(table.store(change(name))) for name in "ab"]
    await asyncio.sleep(0.01)
    later = [asyncio.create_task(table.store(change(name))) for name in "cde"]
    await asyncio.sleep(0.01)
    table.go.set()
    await asyncio.gather(*first, *later)
    assert table.transactions == [["a", "b"], ["c", "d", "e"]]


async def test_a_row_that_is_refused_fails_its_own_job_only() -> None:
    table = Table()
    answers = await asyncio.gather(*(table.store(change(name)) for name in ("a", "wrong", "b")), return_exceptions=True)
    assert [type(answer) for answer in answers] == [type(None), ValueError, type(None)]
    assert table.transactions[1:] == [["a"], ["wrong"], ["b"]]


async def test_an_outage_is_told_to_all_and_not_tried_for_each() -> None:
    table = Table()
    table.away = ConnectionError("away")
    answers = await asyncio.gather(*(table.store(change(name)) for name in "ab"), return_exceptions=True)
    assert [type(answer) for answer in answers] == [ConnectionError] * 2
    assert len(table.transactions) == 1


async def test_a_caller_that_is_cancelled_breaks_off_nothing() -> None:
    table = Table()
    table.go.clear()
    gone, stays = (asyncio.create_task(table.store(change(name))) for name in "ab")
    await asyncio.sleep(0.01)
    gone.cancel()
    table.go.set()
    await stays
    assert gone.cancelled()
    assert table.transactions == [["a", "b"]]


async def test_large_changes_are_stored_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "TOGETHER_BYTES", 10)
    table = Table()
    await asyncio.gather(*(table.store(change(name)) for name in "abc"))
    assert table.transactions == [["a"], ["b"], ["c"]]


async def test_a_connection_that_is_given_up_leaves_nobody_waiting() -> None:
    table = Table()
    table.go.clear()
    waiting = [asyncio.create_task(table.store(change("a")))]
    await asyncio.sleep(0.01)
    waiting.append(asyncio.create_task(table.store(change("b"))))
    await asyncio.sleep(0.01)
    await table.store.stop()
    answers = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 1)
    assert [type(answer) for answer in answers] == [ConnectionError] * 2
