"""The threads' savers on a real SQLite and a real PostgreSQL: LangGraph's own, and it reads what they store."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command, interrupt

from tests.servers import PostgreSQL
from worker.checkpoints.head import Head, Pin
from worker.checkpoints.pinned import PinnedSaver
from worker.checkpoints.threads import ThreadMemory

NewDatabase = Callable[[], str]
Saver = BaseCheckpointSaver[Any]
CONFIG: Any = {"configurable": {"thread_id": "acme:t1"}}


@pytest.fixture(params=["sqlite", "postgresql"])
def new_database(request: pytest.FixtureRequest, tmp_path: Path) -> NewDatabase:
    """Gives the URL of a fresh database."""
    if request.param == "sqlite":
        numbers = iter(range(1000))
        return lambda: f"sqlite:///{tmp_path / f'threads-{next(numbers)}.db'}"
    server: PostgreSQL = request.getfixturevalue("postgres_server")
    return server.new_database


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


async def ours(stack: AsyncExitStack, url: str) -> Any:
    memory = ThreadMemory(url)
    stack.push_async_callback(memory.close)
    return await memory.saver()


async def langgraphs(stack: AsyncExitStack, url: str) -> Saver:
    if url.startswith("sqlite"):
        path = url.removeprefix("sqlite:///")
        return await stack.enter_async_context(AsyncSqliteSaver.from_conn_string(path))
    saver = await stack.enter_async_context(AsyncPostgresSaver.from_conn_string(url))
    await saver.setup()
    return saver


async def test_they_conform_to_what_langgraph_expects_of_a_saver(new_database: NewDatabase) -> None:
    async def factory() -> AsyncGenerator[Saver, None]:
        async with AsyncExitStack() as stack:
            yield await ours(stack, new_database())

    report = await validate(checkpointer_test("threads")(factory))
    failures = {name: result.failures for name, result in report.results.items() if result.passed is False}
    assert failures == {}
    assert report.passed_all_base()


def ask(state: MessagesState) -> dict[str, Any]:
    return {"messages": [AIMessage(f"{len(state['messages'])} {interrupt('well?')}", id="asked")]}


def say(state: MessagesState) -> dict[str, Any]:
    return {"messages": [AIMessage(f"message {len(state['messages'])}", id="said")]}


def talk() -> StateGraph[Any, Any, Any, Any]:
    graph = StateGraph(MessagesState)
    graph.add_node("ask", ask)
    graph.add_node("say", say)
    graph.add_edge(START, "ask")
    graph.add_edge("ask", "say")
    return graph


async def history(saver: Saver) -> list[Any]:
    """What a thread's history shows of each checkpoint, the parent by its place."""
    found = [one async for one in talk().compile(checkpointer=saver).aget_state_history(CONFIG)]
    ids = [one.config["configurable"]["checkpoint_id"] for one in found]
    return [
        (
            [message.content for message in one.values.get("messages", [])], one.next, one.metadata,
            ids.index(one.parent_config["configurable"]["checkpoint_id"]) if one.parent_config else None,
            [(task.name, task.result, [question.value for question in task.interrupts]) for task in one.tasks],
        )
        for one in found
    ]  # fmt: skip


async def converse(saver: Saver) -> None:
    graph = talk().compile(checkpointer=saver)
    await graph.ainvoke({"messages": [("user", "hi")]}, CONFIG, durability="sync")
    await graph.ainvoke(Command(resume="yes"), CONFIG, durability="sync")


async def test_a_threads_history_is_the_one_that_langgraphs_own_saver_would_have_kept(
    new_database: NewDatabase, stack: AsyncExitStack
) -> None:
    """And each of them reads what the other has stored."""
    url, other = new_database(), new_database()
    mine, theirs = await ours(stack, url), await langgraphs(stack, other)
    pinned: list[Pin] = []

    async def pin(pins: Any) -> None:
        pinned.extend(pins)

    attempt = PinnedSaver(mine, Head({}), pin)
    await converse(attempt)
    await attempt.store_all()
    await converse(theirs)
    expected = await history(theirs)
    assert len(expected) == 4
    assert await history(mine) == expected
    assert await history(await langgraphs(stack, url)) == expected
    assert await history(await ours(stack, other)) == expected
    newest = await (await langgraphs(stack, url)).aget_tuple(CONFIG)
    assert newest is not None
    assert pinned[-1] == ("", newest.checkpoint["id"], "")


async def test_a_row_that_the_database_refuses_fails_its_own_job_only(
    new_database: NewDatabase, stack: AsyncExitStack
) -> None:
    saver = await ours(stack, new_database())

    async def run(number: int) -> str:
        thread = "acme:\ud800" if number == 3 else f"acme:t{number}"  # what no database takes for a text
        place: Any = {"configurable": {"thread_id": thread, "checkpoint_ns": ""}}
        checkpoint = {"v": 4, "id": f"{number}", "channel_values": {}, "channel_versions": {}, "versions_seen": {}}
        await saver.aput(place, checkpoint, {"source": "input", "step": -1}, {})
        return str((await saver.aget_tuple(place)).checkpoint["id"])

    answers = await asyncio.gather(*map(run, range(6)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [str, str, str, UnicodeEncodeError, str, str]


async def test_a_transaction_is_stored_whole_or_not_at_all(new_database: NewDatabase, stack: AsyncExitStack) -> None:
    """The last row is wrong, so those before it are not there either."""
    saver = await ours(stack, new_database())
    place: Any = {"configurable": {"thread_id": "acme:t1", "checkpoint_ns": "", "checkpoint_id": "c1"}}
    good = {"v": 4, "id": "c1", "channel_values": {}, "channel_versions": {}, "versions_seen": {}}
    changes = saver.checkpoint_changes(place, good, {}, {})
    changes += saver.writes_changes(place, [("a", "fine"), ("\ud800", "not fine")], "task")
    with pytest.raises(UnicodeEncodeError):
        await saver.store(changes)
    assert await saver.aget_tuple(CONFIG) is None
    await saver.store(changes[:-1])
    await saver.store(changes[:-1])  # bears being sent twice: the answer to the first was lost
    found = await saver.aget_tuple(CONFIG)
    assert found.pending_writes == [("task", "a", "fine")]


async def test_a_special_write_takes_the_place_of_the_one_before_also_within_a_transaction(
    new_database: NewDatabase, stack: AsyncExitStack
) -> None:
    saver = await ours(stack, new_database())
    place: Any = {"configurable": {"thread_id": "acme:t1", "checkpoint_ns": "", "checkpoint_id": "c1"}}
    good = {"v": 4, "id": "c1", "channel_values": {}, "channel_versions": {}, "versions_seen": {}}
    changes = saver.checkpoint_changes(place, good, {}, {})
    for value in ("one", "two"):
        changes += saver.writes_changes(place, [("__resume__", value)], "task")
    await saver.store([*changes, *saver.writes_changes(place, [("a", 1)], "task")])
    found = await saver.aget_tuple(CONFIG)
    assert sorted(found.pending_writes) == [("task", "__resume__", "two"), ("task", "a", 1)]


async def test_a_transaction_that_fails_leaves_the_file_to_others(tmp_path: Path, stack: AsyncExitStack) -> None:
    saver = await ours(stack, f"sqlite:///{tmp_path / 'threads.db'}")
    place: Any = {"configurable": {"thread_id": "acme:t1", "checkpoint_ns": "", "checkpoint_id": "c1"}}
    with pytest.raises(UnicodeEncodeError):
        await saver.aput_writes(place, [("a", 1), ("\ud800", 2)], "task")
    other = sqlite3.connect(tmp_path / "threads.db", timeout=1, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    other.close()
