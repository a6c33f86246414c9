"""The memory of threads, on real SQLite files and a real PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from langchain_core.messages import AIMessage
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import START, MessagesState, StateGraph

from tests.conditions import until
from tests.servers import PostgreSQL
from worker.checkpoints.outage import ThreadsAway
from worker.checkpoints.threads import ThreadMemory

NewDatabase = Callable[[], str]


def _answer(state: MessagesState) -> dict[str, Any]:
    return {"messages": [AIMessage(f"message {len(state['messages'])}")]}


graph = StateGraph(MessagesState)
graph.add_node("answer", _answer)
graph.add_edge(START, "answer")


@pytest.fixture(params=["sqlite", "postgresql"])
def new_database(request: pytest.FixtureRequest, tmp_path: Path) -> NewDatabase:
    """Gives the URL of a fresh database."""
    if request.param == "sqlite":
        numbers = iter(range(1000))
        return lambda: f"sqlite:///{tmp_path / f'new/folder/threads-{next(numbers)}.db'}"
    server: PostgreSQL = request.getfixturevalue("postgres_server")
    return server.new_database


@pytest.fixture
async def workers() -> AsyncIterator[Callable[..., ThreadMemory]]:
    """The threads' memory as each of several workers has it."""
    made: list[ThreadMemory] = []

    def start(url: str) -> ThreadMemory:
        made.append(ThreadMemory(url))
        return made[-1]

    yield start
    for memory in made:
        await memory.close()


async def say(saver: BaseCheckpointSaver[Any], thread_id: str, text: str = "hi") -> int:
    """Run the graph in a thread; gives how many messages the thread has then."""
    compiled = graph.compile(checkpointer=saver)
    state = await compiled.ainvoke({"messages": [text]}, {"configurable": {"thread_id": thread_id}}, durability="sync")
    return len(state["messages"])


async def test_a_thread_remembers_across_jobs_and_workers(
    new_database: NewDatabase, workers: Callable[..., ThreadMemory]
) -> None:
    url = new_database()
    one, two = workers(url), workers(url)
    assert await say(await one.saver(), "acme:t1") == 2
    assert await say(await two.saver(), "acme:t1") == 4
    assert await say(await one.saver(), "acme:t1") == 6
    assert await say(await one.saver(), "acme:t2") == 2
    assert await say(await two.saver(), "other:t1") == 2


async def test_a_thread_remembers_after_its_worker_has_ended(
    new_database: NewDatabase, workers: Callable[..., ThreadMemory]
) -> None:
    url = new_database()
    one = workers(url)
    await say(await one.saver(), "acme:t1")
    await one.close()
    assert await say(await workers(url).saver(), "acme:t1") == 4


async def test_workers_that_open_a_fresh_database_at_the_same_time_all_succeed(
    new_database: NewDatabase, workers: Callable[..., ThreadMemory]
) -> None:
    for _ in range(4):
        url = new_database()
        savers = await asyncio.wait_for(asyncio.gather(*(workers(url).saver() for _ in range(4))), 30)
        counts = await asyncio.gather(*(say(saver, f"acme:t{number}") for number, saver in enumerate(savers)))
        assert counts == [2, 2, 2, 2]


async def test_many_threads_at_once_keep_apart(new_database: NewDatabase, workers: Callable[..., ThreadMemory]) -> None:
    url = new_database()
    one, two = await workers(url).saver(), await workers(url).saver()

    async def talk(number: int) -> list[int]:
        return [await say(saver, f"acme:t{number}") for saver in (one, two, one)]

    assert await asyncio.gather(*map(talk, range(8))) == [[2, 4, 6]] * 8


async def test_jobs_that_ask_at_once_share_one_saver(
    new_database: NewDatabase, workers: Callable[..., ThreadMemory]
) -> None:
    memory = workers(new_database())
    savers = await asyncio.gather(*(memory.saver() for _ in range(5)))
    assert all(saver is savers[0] for saver in savers)


async def test_a_job_waits_for_a_database_that_went_away_just_now(
    postgres_server: PostgreSQL, workers: Callable[..., ThreadMemory], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is back before long: the job need not be given back for a restart."""
    memory = workers(postgres_server.new_database())

    async def away(*_: Any, **__: Any) -> None:
        raise psycopg.OperationalError("terminating connection")

    with monkeypatch.context() as patch:
        patch.setattr(psycopg.AsyncConnection, "execute", away)
        with pytest.raises(ThreadsAway):
            await memory.saver()
        asked = asyncio.create_task(memory.saver())
        await asyncio.sleep(0)
    assert await say(await asked, "acme:t1") == 2


async def test_a_database_that_was_away_is_opened_by_the_next_job(
    postgres_server: PostgreSQL, workers: Callable[..., ThreadMemory], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = postgres_server.new_database()
    memory = workers(url)

    async def away(*_: Any, **__: Any) -> None:
        raise psycopg.OperationalError("connection refused")

    with monkeypatch.context() as patch:
        patch.setattr(psycopg.AsyncConnection, "execute", away)
        with pytest.raises(ThreadsAway):
            await memory.saver()
        assert memory.state == {"status": "down", "error": "OperationalError"}
        patch.setattr("worker.checkpoints.threads.MOMENT_SECONDS", 0)  # it has been away for longer
        with pytest.raises(ThreadsAway):  # at once: jobs without a thread need the slot
            await asyncio.wait_for(memory.saver(), 0.1)
    await until(lambda: memory.state == {"status": "ok"})
    assert await say(await memory.saver(), "acme:t1") == 2
