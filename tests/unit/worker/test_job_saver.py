"""The saver of jobs without a thread: LangGraph's conformance suites, and what it leaves in Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import fakeredis
import pytest
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import interrupt

from tests.attempts import State, chain
from tests.conditions import until
from worker.checkpoints.jobs import JobSaver

PLACE = "checkpoints"


class Mirror:
    """What has been written, in a real hash of a Redis in memory."""

    def __init__(self) -> None:
        self.redis = fakeredis.FakeAsyncRedis()
        self.writes = 0
        self.fault: Exception | None = None

    async def write(self, changed: dict[bytes, bytes], dropped: list[bytes]) -> None:
        self.writes += 1
        await asyncio.sleep(0)
        if self.fault is not None:
            raise self.fault
        if changed:
            await self.redis.hset(PLACE, mapping=changed)  # type: ignore[misc, arg-type]
        if dropped:
            await self.redis.hdel(PLACE, *dropped)  # type: ignore[misc, arg-type]

    async def fields(self) -> dict[bytes, bytes]:
        return dict(await self.redis.hgetall(PLACE))  # type: ignore[misc]

    async def loaded(self, **options: Any) -> JobSaver:
        """The saver of another attempt."""
        saver = JobSaver(self.write, **options)
        saver.load(await self.fields())
        return saver


@pytest.fixture
async def mirror() -> AsyncIterator[Mirror]:
    mirror = Mirror()
    yield mirror
    await mirror.redis.aclose()


class Reloaded(JobSaver):
    """A saver that reads all it knows from the mirror, each time it is asked."""

    mirror: Mirror

    async def aget_tuple(self, config: Any) -> Any:
        return InMemorySaver.get_tuple(await self.mirror.loaded(keep="all"), config)

    async def alist(self, config: Any, **options: Any) -> AsyncIterator[Any]:
        for found in InMemorySaver.list(await self.mirror.loaded(keep="all"), config, **options):
            yield found


async def test_it_conforms_to_what_langgraph_expects_of_a_saver(mirror: Mirror) -> None:
    """Every base capability, read back from Redis by another attempt's saver, not from this one's memory."""

    async def factory() -> AsyncGenerator[BaseCheckpointSaver[Any], None]:
        saver = Reloaded(mirror.write, keep="all")
        saver.mirror = mirror
        await mirror.redis.flushall()
        yield saver

    report = await validate(checkpointer_test("job")(factory))
    failures = {name: result.failures for name, result in report.results.items() if result.passed is False}
    assert failures == {}
    assert report.passed_all_base()
    assert sorted(name for name, result in report.results.items() if result.detected) == [
        "delete_thread", "get_tuple", "list", "put", "put_writes",
    ]  # fmt: skip


def config(thread_id: str = "j1") -> Any:
    return {"configurable": {"thread_id": thread_id}}


def counting(steps: int) -> StateGraph[Any, Any, Any, Any]:
    """A graph that goes round `steps` times."""
    graph = StateGraph(State)
    graph.add_node("count", lambda state: {"x": state["x"] + 1})
    graph.add_edge(START, "count")
    graph.add_conditional_edges("count", lambda state: "count" if state["x"] < steps else END)
    return graph


async def test_what_is_kept_does_not_grow_with_the_number_of_steps(mirror: Mirror) -> None:
    sizes = []
    for steps in (3, 30):
        await mirror.redis.flushall()
        graph = counting(steps).compile(checkpointer=JobSaver(mirror.write))
        await graph.ainvoke({"x": 0}, {**config(), "recursion_limit": 100}, durability="sync")
        sizes.append(len(await mirror.fields()))
    assert sizes[0] == sizes[1] > 0


async def test_what_finished_subgraphs_kept_is_dropped_and_what_a_waiting_one_keeps_is_not(mirror: Mirror) -> None:
    def ask(state: State) -> State:
        return {"log": [interrupt("well?")]} if state["x"] > 5 else {}

    inner = chain(ask, step).compile()
    graph = StateGraph(State)
    graph.add_node("inner", inner)
    graph.add_edge(START, "inner")
    graph.add_conditional_edges("inner", lambda _: "inner")
    compiled = graph.compile(checkpointer=JobSaver(mirror.write))
    await compiled.ainvoke({"x": 0}, config(), durability="sync")
    saver = await mirror.loaded()
    namespaces = list(saver.storage["j1"])
    assert len(namespaces) == 2
    assert "" in namespaces
    assert all(len(kept) == 1 for kept in saver.storage["j1"].values())


def step(state: State) -> State:
    return {"x": state["x"] + 1}


async def test_each_step_but_the_last_is_stored_in_one_write(mirror: Mirror) -> None:
    """The input, and LangGraph's own step that takes it in, go out with the first step of the graph."""
    saver = JobSaver(mirror.write)
    graph = counting(20).compile(checkpointer=saver)
    saver.starting = graph.trigger_to_nodes
    await graph.ainvoke({"x": 0}, {**config(), "recursion_limit": 100}, durability="sync")
    await saver.ended()
    assert mirror.writes == 19


async def test_what_no_node_has_worked_on_is_stored_only_where_the_job_waits_there(mirror: Mirror) -> None:
    saver = JobSaver(mirror.write)
    graph = chain(step).compile(checkpointer=saver, interrupt_before=["step"])
    await graph.ainvoke({"x": 1}, config(), durability="sync")
    assert mirror.writes == 0
    await saver.store_all()
    again = chain(step).compile(checkpointer=await mirror.loaded())
    assert await again.ainvoke(None, config(), durability="sync") == {"x": 2, "log": []}


async def test_where_the_first_node_takes_its_time_what_leads_to_it_is_stored_before_long(mirror: Mirror) -> None:
    """The way to it may have been chosen by a model."""
    chosen: list[str] = []

    def choose(_: State) -> str:
        chosen.append("first")
        return "first"

    async def first(_: State) -> State:
        await until(lambda: mirror.writes == 1)
        raise ConnectionError

    def build(first: Any) -> StateGraph[Any, Any, Any, Any]:
        graph = StateGraph(State)
        graph.add_node("first", first)
        graph.add_conditional_edges(START, choose)
        return graph

    with pytest.raises(ConnectionError):
        await build(first).compile(checkpointer=JobSaver(mirror.write)).ainvoke({"x": 1}, config(), durability="sync")
    again = build(step).compile(checkpointer=await mirror.loaded())
    assert (await again.ainvoke(None, config(), durability="sync"))["x"] == 2
    assert chosen == ["first"]


@pytest.mark.parametrize("succeeded", [True, False])
async def test_the_last_step_is_stored_unless_the_job_succeeds(mirror: Mirror, succeeded: bool) -> None:
    """A job can still fail after its last step: its output may be too large, or its worker stop."""
    ran: list[str] = []

    def first(_: State) -> State:
        ran.append("first")
        return {"x": 7}

    def second(_: State) -> State:
        ran.append("second")
        return {"x": 8}

    saver = JobSaver(mirror.write)
    graph = chain(first, second).compile(checkpointer=saver)
    saver.starting = graph.trigger_to_nodes
    await graph.ainvoke({"x": 1}, config(), durability="sync")
    assert mirror.writes == 1
    await (saver.ended() if succeeded else saver.settled())
    again = chain(first, second).compile(checkpointer=await mirror.loaded())
    assert (await again.ainvoke(None, config(), durability="sync"))["x"] == 8
    assert ran == (["first", "second", "second"] if succeeded else ["first", "second"])


async def test_a_node_that_changes_what_it_is_given_does_not_change_what_was_stored_before_it(mirror: Mirror) -> None:
    """Another attempt of the node is given what the first one was, also where its neighbour has finished."""
    fail = True

    async def spoil(state: State) -> State:
        state["log"].append("spoilt")
        await asyncio.sleep(0.01)
        if fail:
            raise ConnectionError
        return {"x": len(state["log"])}

    async def finish(_: State) -> State:
        return {"log": ["finished"]}

    def build() -> StateGraph[Any, Any, Any, Any]:
        graph = StateGraph(State)
        for node in (spoil, finish):
            graph.add_node(node)
            graph.add_edge(START, node.__name__)
        return graph

    saver = JobSaver(mirror.write)
    with pytest.raises(ConnectionError):
        await build().compile(checkpointer=saver).ainvoke({"x": 1, "log": ["given"]}, config(), durability="sync")
    await saver.store_all()
    fail = False
    again = await build().compile(checkpointer=await mirror.loaded()).ainvoke(None, config(), durability="sync")
    assert again["x"] == 2


async def test_a_finished_node_is_stored_while_its_neighbour_runs(mirror: Mirror) -> None:
    """Whoever goes on from there runs only the neighbour."""
    ran: list[str] = []
    stored = asyncio.Event()

    async def quick(_: State) -> State:
        ran.append("quick")
        return {"log": ["quick"]}

    async def slow(_: State) -> State:
        ran.append("slow")
        await stored.wait()
        return {"log": ["slow"]}

    graph = StateGraph(State)
    for node in (quick, slow):
        graph.add_node(node)
        graph.add_edge(START, node.__name__)
    running = asyncio.create_task(
        graph.compile(checkpointer=JobSaver(mirror.write)).ainvoke({"x": 1}, config(), durability="sync")
    )
    await until(lambda: mirror.writes == 1)
    killed_here = await mirror.loaded()
    stored.set()
    await running
    ran.clear()
    after = await graph.compile(checkpointer=killed_here).ainvoke(None, config(), durability="sync")
    assert ran == ["slow"]
    assert sorted(after["log"]) == ["quick", "slow"]


async def test_another_attempt_has_all_that_was_written(mirror: Mirror) -> None:
    graph = chain(step).compile(checkpointer=JobSaver(mirror.write))
    await graph.ainvoke({"x": 1}, config(), durability="sync")
    again = chain(step).compile(checkpointer=await mirror.loaded())
    assert (await again.aget_state(config())).values == {"x": 2, "log": []}


async def test_the_newest_is_what_was_put_last_whatever_the_clocks_say(mirror: Mirror) -> None:
    """Ids begin with the time; the second attempt's machine has a clock that is behind."""
    one = JobSaver(mirror.write)
    compiled = counting(3).compile(checkpointer=one)
    await compiled.ainvoke({"x": 0}, config(), durability="sync")
    last = await one.aget_tuple(config())
    assert last is not None
    two = await mirror.loaded()
    behind = {**last.checkpoint, "id": "00000000-0000-6000-8000-000000000000"}
    await two.aput(last.config, behind, last.metadata, {})  # type: ignore[arg-type]
    await two.store_all()
    found = await (await mirror.loaded()).aget_tuple(config())
    assert found is not None
    assert found.checkpoint["id"] == behind["id"]


async def test_writes_never_overtake_each_other(mirror: Mirror) -> None:
    """The second is not sent before the first has been answered, and none is lost."""
    under_way, order = 0, []

    async def slow(changed: dict[bytes, bytes], dropped: list[bytes]) -> None:
        nonlocal under_way
        under_way += 1
        assert under_way == 1
        await asyncio.sleep(0.005)
        order.append(len(changed))
        under_way -= 1

    saver = JobSaver(slow)
    parallel = StateGraph(MessagesState)
    for name in "abcde":

        async def node(_: Any, name: str = name) -> dict[str, Any]:
            await asyncio.sleep(0.002 * (ord(name) - 96))
            return {"messages": [name]}

        parallel.add_node(name, node)
        parallel.add_edge(START, name)
    await parallel.compile(checkpointer=saver).ainvoke({"messages": []}, config(), durability="sync")
    await saver.stored.settled()
    assert sum(order) > 5


async def test_a_caller_that_is_cancelled_does_not_break_off_the_write(mirror: Mirror) -> None:
    saver = JobSaver(mirror.write)
    graph = chain(step).compile(checkpointer=saver)
    await graph.ainvoke({"x": 1}, config(), durability="sync")
    found = await saver.aget_tuple(config())
    assert found is not None
    writing = asyncio.create_task(saver.aput_writes(found.config, [("x", 7)], "task"))
    await asyncio.sleep(0)
    writing.cancel()
    await saver.stored.settled()
    assert writing.cancelled()
    again = await (await mirror.loaded()).aget_tuple(config())
    assert again is not None
    assert again.pending_writes == [("task", "x", 7)]


async def test_a_write_that_fails_stops_the_graph_before_its_next_node(mirror: Mirror) -> None:
    ran: list[str] = []

    def first(_: State) -> State:
        ran.append("first")
        mirror.fault = RuntimeError("the lease is gone")
        return {}

    def second(_: State) -> State:
        ran.append("second")
        return {}

    saver = JobSaver(mirror.write)
    with pytest.raises(RuntimeError, match="the lease is gone"):
        await chain(first, second).compile(checkpointer=saver).ainvoke({"x": 1}, config(), durability="sync")
    await saver.stored.settled()
    assert ran == ["first"]


async def test_what_is_dropped_and_kept_again_in_one_turn_is_kept(mirror: Mirror) -> None:
    saver = JobSaver(mirror.write)
    await chain(step).compile(checkpointer=saver).ainvoke({"x": 1}, config(), durability="sync")
    found = await saver.aget_tuple(config())
    assert found is not None
    versions = found.checkpoint["channel_versions"]
    await asyncio.gather(
        saver.adelete_thread("j1"), saver.aput(found.config, found.checkpoint, found.metadata, versions)
    )
    again = await (await mirror.loaded()).aget_tuple(config())
    assert again is not None
    assert again.checkpoint["channel_values"] == found.checkpoint["channel_values"]
