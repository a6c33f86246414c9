"""A worker that dies between any two of its writes: the next attempt of a job in a thread goes on from what is pinned.

And what of a thread is written when.
"""

from __future__ import annotations

import asyncio
import operator
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import pytest
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send, interrupt
from typing_extensions import TypedDict

from shared.store.keys import digest, key
from tests.attempts import Attempts, chain
from tests.conditions import until
from tests.job_queue import TENANT, JobQueue
from worker.checkpoints.driver import Change
from worker.checkpoints.sqlite import SqliteDriver

THREAD = "t1"
ALL = ["first", "left", "right", "sent 1", "sent 2", "inner", "after inner", "last"]
FENCED = {"pin": False, "append": False, "finish": "gone", "release": "gone"}


class State(TypedDict, total=False):
    log: Annotated[list[str], operator.add]


class Nodes:
    """Nodes side by side, some that are sent, and a subgraph; counts how often each was run."""

    def __init__(self) -> None:
        self.ran: Counter[str] = Counter()

    def node(self, name: str) -> Any:
        async def run(state: Any) -> State:
            own = f"{name} {state['number']}" if name == "sent" else name
            self.ran[own] += 1
            if own in ("right", "sent 2"):
                await asyncio.sleep(0.01)  # the other has been stored by then
            return {"log": [own]}

        run.__name__ = name
        return run

    def graph(self) -> StateGraph[Any, Any, Any, Any]:
        def inner(_: State) -> State:
            self.ran["inner"] += 1
            return {"log": ["inner"]}

        def after_inner(_: State) -> State:
            self.ran["after inner"] += 1
            return {"log": ["after inner"]}

        graph = StateGraph(State)
        for name in ("first", "left", "right", "sent", "last"):
            graph.add_node(name, self.node(name))
        subgraph = chain(inner, after_inner, state=State).compile()
        graph.add_node("sub", subgraph, input_schema=Empty)
        graph.add_edge(START, "first")
        graph.add_edge("first", "left")
        graph.add_edge("first", "right")
        graph.add_node("spread", lambda _: {})
        graph.add_edge(["left", "right"], "spread")
        graph.add_conditional_edges("spread", lambda _: [Send("sent", {"number": number}) for number in (1, 2)])
        graph.add_edge("sent", "sub")
        graph.add_edge("sub", "last")
        graph.add_edge("last", END)
        return graph


class Empty(TypedDict, total=False):
    nothing: str


class Death:
    """After so many writes to the database and pins of the first attempt, nothing that it writes arrives any more."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, queue: JobQueue, after: int) -> None:
        self.after = after
        self.writes: list[str] = []
        write = SqliteDriver._write_here

        def write_to_database(driver: SqliteDriver, changes: list[Change]) -> None:
            if self.came("database"):
                raise ValueError("dead")
            write(driver, changes)

        monkeypatch.setattr(SqliteDriver, "_write_here", write_to_database)
        for name, lost in FENCED.items():
            monkeypatch.setattr(queue.store, name, self._fenced(name, getattr(queue.store, name), lost))

    def _fenced(self, name: str, call: Any, lost: Any) -> Any:
        async def fenced(*args: Any, **options: Any) -> Any:
            dead = self.came(name) if name == "pin" else self.after <= len(self.writes)
            return lost if dead else await call(*args, **options)

        return fenced

    def came(self, what: str) -> bool:
        dead = len(self.writes) >= self.after
        if not dead:
            self.writes.append(what)
        return dead


async def run_to_the_end(attempts: Attempts, queue: JobQueue) -> dict[str, Any]:
    await queue.lose_worker()
    return await attempts.run()


@pytest.mark.parametrize("known", [False, True], ids=["new thread", "known thread"])
async def test_whenever_its_worker_dies_a_job_ends_as_if_it_had_not_and_repeats_no_node_that_was_pinned(
    attempts: Attempts, queue: JobQueue, known: bool
) -> None:
    nodes = Nodes()
    await attempts.serve(nodes.graph())
    repeated: list[int] = []
    for after in range(100):
        before = []
        if known:
            await attempts.submit({"log": ["before"]}, thread_id=f"{THREAD} {after}")
            before = (await attempts.run())["output"]["log"]
        nodes.ran.clear()
        await attempts.submit({"log": ["input"]}, thread_id=f"{THREAD} {after}")
        with pytest.MonkeyPatch.context() as patch:
            death = Death(patch, queue, after)
            record = await attempts.run()
            died = len(death.writes) == after
        if not died:
            assert record["status"] == "succeeded"
            break
        pinned = await pinned_nodes(attempts, queue, f"{THREAD} {after}")
        ran_before = nodes.ran.copy()
        record = await run_to_the_end(attempts, queue)
        log = record["output"]["log"]
        assert log[: len(before) + 1] == [*before, "input"]
        assert Counter(log[len(before) + 1 :]) == Counter(ALL)
        again = [name for name in ALL if nodes.ran[name] > ran_before[name]]
        assert not pinned & set(again), (after, death.writes)
        repeated.append(sum(nodes.ran.values()) - len(ALL))
    assert after > 12
    assert max(repeated) <= 2  # the last step, of two nodes at most
    assert 0 in repeated


async def pinned_nodes(attempts: Attempts, queue: JobQueue, thread_id: str) -> set[str]:
    """The nodes of the root graph whose work the next attempt finds."""
    head = await queue.redis.hgetall(key("head", TENANT, digest(thread_id)))  # type: ignore[misc]
    if b"h:" not in head:
        return set()
    saver = await attempts.threads.saver()
    place: Any = {"thread_id": f"{TENANT}:{thread_id}", "checkpoint_ns": "", "checkpoint_id": head[b"h:"].decode()}
    found = await saver.aget_tuple({"configurable": place})
    assert found is not None, "what is pinned is stored"
    checkpoint, *tasks = head.get(b"w:", b"").decode().split(" ")
    counted = [value for task, channel, value in found.pending_writes or [] if channel == "log" and task in tasks]
    values = found.checkpoint["channel_values"].get("log", [])
    job = [values, *(counted if checkpoint == place["checkpoint_id"] else [])]
    names = [name for log in job for name in log]
    if "input" not in names:
        return set()
    return set(names[len(names) - names[::-1].index("input") :])


async def test_a_branch_that_ended_is_not_repeated_where_the_worker_dies_in_the_other(
    attempts: Attempts, queue: JobQueue
) -> None:
    ran: list[str] = []
    stuck = asyncio.Event()

    def left(_: State) -> State:
        ran.append("left")
        return {"log": ["left"]}

    async def right(_: State) -> State:
        ran.append("right")
        if ran.count("right") == 1:
            await stuck.wait()
        return {"log": ["right"]}

    graph = StateGraph(State)
    for node in (left, right):
        graph.add_node(node.__name__, node)
        graph.add_edge(START, node.__name__)
    await attempts.serve(graph)
    await attempts.submit({"log": []}, thread_id=THREAD)
    dying = asyncio.create_task(attempts.run())
    await until(lambda: queue.redis.hexists(key("head", TENANT, digest(THREAD)), "w:"))  # type: ignore[arg-type]
    record = await run_to_the_end(attempts, queue)
    assert sorted(record["output"]["log"]) == ["left", "right"]
    assert ran == ["left", "right", "right"] or ran == ["right", "left", "right"]
    stuck.set()
    await dying


async def test_a_question_is_asked_again_where_the_worker_dies_before_it_could_say_so(
    attempts: Attempts, queue: JobQueue
) -> None:
    def ask(_: State) -> State:
        return {"log": [f"answer is {interrupt('go on?')}"]}

    await attempts.serve(chain(ask, state=State))
    for after in range(6):
        await attempts.submit({"log": ["input"]}, thread_id=f"{THREAD} {after}")
        with pytest.MonkeyPatch.context() as patch:
            Death(patch, queue, after)
            record = await attempts.run()
        if record["status"] != "interrupted":
            record = await run_to_the_end(attempts, queue)
        assert [question["value"] for question in record["interrupts"]] == ["go on?"]
        await queue.store.resume(TENANT, attempts.id, b'"yes"')
        with pytest.MonkeyPatch.context() as patch:
            Death(patch, queue, after)
            record = await attempts.run()
        if record["status"] != "succeeded":
            record = await run_to_the_end(attempts, queue)
        assert record["output"]["log"] == ["input", "answer is yes"]


async def test_the_error_of_a_node_does_not_make_what_a_stale_attempt_stored_of_it_count(
    attempts: Attempts, queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stale attempt's result of the node is in the database, under the same task, when the heir's node fails."""
    ran: list[str] = []
    inside, go = asyncio.Event(), asyncio.Event()

    async def only(_: State) -> State:
        ran.append("only")
        number = len(ran)
        if number == 1:
            inside.set()
            await go.wait()
        if number == 2:
            go.set()
            await stored.wait()
            raise ConnectionError("hung up")
        return {"log": [f"run {number}"]}

    stored = asyncio.Event()
    write, loop = SqliteDriver._write_here, asyncio.get_running_loop()

    def noted(driver: SqliteDriver, changes: list[Change]) -> None:
        write(driver, changes)
        if len(ran) == 2 and any("log" in change.row for change in changes):
            loop.call_soon_threadsafe(stored.set)

    monkeypatch.setattr(SqliteDriver, "_write_here", noted)
    await attempts.serve(chain(only, state=State))
    await attempts.submit({"log": ["input"]}, thread_id=THREAD)
    stale = asyncio.create_task(attempts.run())
    await inside.wait()
    await until(lambda: queue.redis.hexists(key("head", TENANT, digest(THREAD)), "h:"))  # type: ignore[arg-type]
    await queue.lose_worker()
    record = await asyncio.wait_for(attempts.run(), 5)
    assert record["status"] == "queued"
    await stale
    queue.pass_time(10)
    assert (await attempts.run())["output"]["log"] == ["input", "run 3"]


async def test_a_first_node_that_takes_its_time_finds_what_led_to_it_stored_meanwhile(
    attempts: Attempts, queue: JobQueue
) -> None:
    go = asyncio.Event()

    async def slow(_: State) -> State:
        await go.wait()
        return {"log": ["slow"]}

    await attempts.serve(chain(slow, state=State))
    await attempts.submit({"log": ["input"]}, thread_id=THREAD)
    running = asyncio.create_task(attempts.run())
    await until(lambda: queue.redis.hexists(key("head", TENANT, digest(THREAD)), "h:"))  # type: ignore[arg-type]
    go.set()
    assert (await running)["output"]["log"] == ["input", "slow"]


async def test_a_job_of_two_nodes_writes_to_the_database_twice_and_a_known_thread_is_pinned_twice(
    attempts: Attempts, queue: JobQueue, tmp_path: Path
) -> None:
    def one(_: State) -> State:
        return {"log": ["one"]}

    def two(_: State) -> State:
        return {"log": ["two"]}

    await attempts.serve(chain(one, two, state=State))
    writes = []
    for _ in range(2):
        await attempts.submit({"log": []}, thread_id=THREAD)
        with pytest.MonkeyPatch.context() as patch:
            death = Death(patch, queue, 100)
            await attempts.run()
        writes.append(death.writes)
    assert writes == [["pin", "database", "pin", "database", "pin"], ["database", "pin", "database", "pin"]]
