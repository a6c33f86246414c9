"""What the saver of a thread's attempt waits for, and what it lets wait."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.base import empty_checkpoint

from tests.conditions import until
from worker.checkpoints.database import DatabaseSaver
from worker.checkpoints.head import Head, Pin
from worker.checkpoints.pinned import START_TASK, PinnedSaver
from worker.checkpoints.threads import ThreadMemory

THREAD: Any = {"configurable": {"thread_id": "acme:t1", "checkpoint_ns": ""}}
KNOWN = {b"job": b"acme:before"}


class Attempt:
    """A saver, what it has pinned, and a fence that can fall."""

    def __init__(self, database: DatabaseSaver, fields: dict[bytes, bytes]) -> None:
        self.pinned: list[Pin] = []
        self.lost: Exception | None = None
        self.saver = PinnedSaver(database, Head(fields), self.pin)

    async def pin(self, pins: Sequence[Pin]) -> None:
        if self.lost is not None:
            raise self.lost
        self.pinned += pins

    async def put(self, source: str = "loop", parent: Any = THREAD) -> Any:
        metadata: Any = {"source": source, "step": 0, "parents": {}}
        return await self.saver.aput(parent, empty_checkpoint(), metadata, {})


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[DatabaseSaver]:
    memory = ThreadMemory(f"sqlite:///{tmp_path / 'threads.db'}")
    yield await memory.saver()
    await memory.close()


@pytest.fixture
def attempt(database: DatabaseSaver) -> Attempt:
    return Attempt(database, KNOWN)


def name_of(config: Any) -> str:
    return str(config["configurable"]["checkpoint_id"])


async def test_what_no_node_has_worked_on_goes_with_the_first_nodes_work(attempt: Attempt) -> None:
    first = await attempt.put("input")
    await attempt.saver.aput_writes(first, [("x", 1)], "start", START_TASK)
    second = await attempt.put(parent=first)
    assert attempt.pinned == []
    await attempt.saver.aput_writes(second, [("x", 2)], "task", "~__pregel_pull, node")
    assert attempt.pinned == [("", name_of(second), ""), ("", name_of(second), "task")]


async def test_a_step_is_pinned_when_put_returns_also_where_its_last_tasks_writes_were_pinned_before(
    attempt: Attempt,
) -> None:
    first = await attempt.put("input")
    await attempt.saver.aput_writes(first, [("x", 2)], "task", "~__pregel_pull, node")
    attempt.pinned.clear()
    second = await attempt.put(parent=first)
    assert attempt.pinned == [("", name_of(second), "")]


async def test_the_input_alone_is_stored_soon_and_at_the_latest_when_the_attempt_ends(
    attempt: Attempt, database: DatabaseSaver
) -> None:
    first = await attempt.put("input")
    await until(lambda: attempt.pinned == [("", name_of(first), "")])
    ending = Attempt(database, KNOWN)
    second = await ending.put("input")
    await ending.saver.store_all()
    assert ending.pinned == [("", name_of(second), "")]


async def test_an_attempt_has_not_succeeded_before_all_is_stored(attempt: Attempt) -> None:
    attempt.lost = RuntimeError("the lease is gone")
    await attempt.put("input")
    with pytest.raises(RuntimeError, match="the lease is gone"):
        await attempt.saver.store_all()
    await attempt.saver.settled()  # it has ended otherwise: that matters more


async def test_a_write_that_failed_unheard_fails_the_next_that_somebody_waits_for(attempt: Attempt) -> None:
    attempt.lost = RuntimeError("the lease is gone")
    first = await attempt.put("input")
    await until(lambda: not attempt.saver.unstored.pending)
    attempt.lost = None
    with pytest.raises(RuntimeError, match="the lease is gone"):
        await attempt.saver.aput_writes(first, [("x", 2)], "task", "~__pregel_pull, node")
    assert attempt.pinned == []


async def test_it_reads_what_it_has_not_stored_yet(attempt: Attempt) -> None:
    first = await attempt.put("input")
    found = await attempt.saver.aget_tuple(THREAD)
    assert found is not None
    assert found.checkpoint["id"] == name_of(first)
    second = await attempt.put("input", first)
    assert [one.checkpoint["id"] async for one in attempt.saver.alist(THREAD)] == [name_of(second), name_of(first)]


@pytest.mark.parametrize("found", [False, True])
async def test_a_thread_without_a_head_gets_one_before_anything_is_stored(database: DatabaseSaver, found: bool) -> None:
    """Else what a stale attempt stores would be taken for what the thread has come to."""
    before = name_of(await database.aput(THREAD, empty_checkpoint(), {}, {})) if found else ""
    attempt = Attempt(database, {})
    await attempt.saver.aget_tuple(THREAD)
    attempt.lost = RuntimeError("the lease is gone")
    await attempt.put("input")
    with pytest.raises(RuntimeError):
        await attempt.saver.store_all()
    newest = await database.aget_tuple(THREAD)
    assert (newest.checkpoint["id"] if newest else "") == before
    heir = Attempt(database, {})
    await heir.saver.aget_tuple(THREAD)
    last = await heir.put("input")
    await heir.saver.store_all()
    assert heir.pinned == [*([("", before, "")] if found else []), ("", name_of(last), "")]


@pytest.mark.parametrize("known", [True, False], ids=["known thread", "thread without a head"])
async def test_a_task_of_which_another_attempt_has_stored_something_does_not_count(
    database: DatabaseSaver, known: bool
) -> None:
    """Neither with what this attempt's run of it came to, nor with the error that it ended with."""
    before = await database.aput(THREAD, empty_checkpoint(), {}, {})
    attempt = Attempt(database, {**KNOWN, b"h:": name_of(before).encode()} if known else {})
    await attempt.saver.aget_tuple(THREAD)
    await database.aput_writes(before, [("x", "stale")], "task")
    for writes in ([("x", "own")], [("__error__", "failed")]):
        await attempt.saver.aput_writes(before, writes, "task", "~__pregel_pull, node")
    await attempt.saver.aput_writes(before, [("x", "own")], "other", "~__pregel_pull, node")
    assert [task for _, _, task in attempt.pinned if task] == ["other"]
