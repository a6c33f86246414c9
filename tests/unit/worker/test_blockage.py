"""What keeps a blocked event loop busy, and how its lag is shown: asked by another thread while a node blocks."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import structlog
from langchain_core.runnables import RunnableLambda
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, StateGraph
from prometheus_client import CollectorRegistry

from shared.store import Claimed
from tests.attempts import Attempts, State, chain
from tests.conditions import until
from worker import blockage as blockage_module
from worker.blockage import Blocker, LoopWatch
from worker.gauges import LOOP_LAG_SECONDS
from worker.lease import CURRENT, Lease


@pytest.fixture
def thread() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as executor:
        yield executor


class Blocking:
    """`now` blocks the loop until the thread that watches it has said what it is busy with."""

    def __init__(self, watch: LoopWatch, thread: ThreadPoolExecutor) -> None:
        self.watch = watch
        self.thread = thread
        self.seen: list[Blocker] = []

    def now(self) -> None:
        self.seen.append(self.thread.submit(self.watch.blocker).result(5))

    async def later(self) -> None:
        await asyncio.sleep(0)
        self.now()


@pytest.fixture
async def blocking(thread: ThreadPoolExecutor) -> Blocking:
    return Blocking(LoopWatch(asyncio.get_running_loop()), thread)


def plain(blocking: Blocking) -> Any:
    async def blocks(state: State) -> State:
        blocking.now()
        return {}

    return chain(blocks)


def in_a_task_of_the_node(blocking: Blocking) -> Any:
    async def blocks(state: State) -> State:
        await asyncio.wait_for(asyncio.gather(blocking.later()), 5)
        return {}

    return chain(blocks)


def beside_a_node_that_waits(blocking: Blocking) -> Any:
    async def waits(state: State) -> State:
        await until(lambda: blocking.seen)
        return {}

    async def blocks(state: State) -> State:
        await blocking.later()
        return {}

    graph = StateGraph(State).add_node("waits", waits).add_node("blocks", blocks)
    return graph.add_edge(START, "waits").add_edge(START, "blocks").add_edge("waits", END).add_edge("blocks", END)


def in_a_subgraph(blocking: Blocking) -> Any:
    inner = plain(blocking).compile()

    async def outer(state: State) -> State:
        await inner.ainvoke({})
        return {}

    return chain(outer)


def in_a_runnable(blocking: Blocking) -> Any:
    async def work(_: Any) -> None:
        blocking.now()

    async def blocks(state: State) -> State:
        await (RunnableLambda(lambda x: x) | RunnableLambda(work)).ainvoke(1)
        return {}

    return chain(blocks)


def in_an_edge(blocking: Blocking) -> Any:
    async def blocks(state: State) -> State:
        return {}

    async def route(state: State) -> str:
        blocking.now()
        return END

    return StateGraph(State).add_node("blocks", blocks).add_edge(START, "blocks").add_conditional_edges("blocks", route)


def in_a_function(blocking: Blocking) -> Any:
    @task
    async def blocks() -> None:
        blocking.now()

    @entrypoint()
    async def flow(_: Any) -> None:
        await blocks()

    return flow


@pytest.mark.parametrize(
    "make",
    [
        plain,
        in_a_task_of_the_node,
        beside_a_node_that_waits,
        in_a_subgraph,
        in_a_runnable,
        in_an_edge,
        in_a_function,
    ],
    ids=lambda make: make.__name__,
)
async def test_the_job_and_the_node_that_block_the_loop_are_seen_from_another_thread(
    attempts: Attempts, blocking: Blocking, make: Callable[[Blocking], Any]
) -> None:
    await attempts.serve(make(blocking))
    await attempts.submit()
    lease = await attempts.claim()
    record = await attempts.run(lease)
    assert record["status"] == "succeeded", record["error"]
    (seen,) = blocking.seen
    assert seen.lease is lease
    assert seen.node == "blocks"
    assert {**seen.fields, "place": ""} == {"graph": "echo", "node": "blocks", "job": "j1", "place": ""}
    assert seen.place.startswith(f"{__file__}:")  # not in the library that it has called
    assert seen.place.endswith(" now")


async def test_a_graph_that_blocks_while_it_is_made_is_seen_too(attempts: Attempts, blocking: Blocking) -> None:
    def make(config: dict[str, Any]) -> Any:
        if CURRENT.get(None) is not None:  # not while the catalogue is described
            blocking.now()

        async def node(state: State) -> State:
            return {}

        return chain(node).compile()

    await attempts.serve(make)
    await attempts.submit()
    lease = await attempts.claim()
    await attempts.run(lease)
    assert [(seen.lease, seen.node) for seen in blocking.seen] == [(lease, "")]


async def test_a_task_that_an_ended_job_left_behind_is_seen_as_that_jobs(
    attempts: Attempts, blocking: Blocking
) -> None:
    left: list[asyncio.Task[None]] = []
    ended = asyncio.Event()

    async def blocks_later() -> None:
        await ended.wait()
        blocking.now()

    async def leaves(state: State) -> State:
        left.append(asyncio.create_task(blocks_later()))
        return {}

    await attempts.serve(chain(leaves))
    await attempts.submit()
    lease = await attempts.claim()
    assert (await attempts.run(lease))["status"] == "succeeded"
    ended.set()
    await left[0]
    assert [(seen.lease, seen.node) for seen in blocking.seen] == [(lease, "leaves")]


async def test_what_is_no_job_s_is_named_by_its_place_alone(blocking: Blocking) -> None:
    blocking.now()
    await asyncio.create_task(blocking.later())
    asyncio.get_running_loop().call_soon(blocking.now)
    await until(lambda: len(blocking.seen) == 3)
    for seen in blocking.seen:
        assert {**seen.fields, "place": ""} == {"graph": "", "node": "", "job": "", "place": ""}
        assert seen.place


# Lag


def lag() -> dict[tuple[str, str], float]:
    """What `mas_loop_lag_seconds` says, by graph and node."""
    registry = CollectorRegistry()
    registry.register(LOOP_LAG_SECONDS)
    (family,) = registry.collect()
    return {(sample.labels["graph"], sample.labels["node"]): sample.value for sample in family.samples}


class Looking:
    """Looks at the loop again and again, in a thread, and keeps what the metric said after each look."""

    def __init__(self, watch: LoopWatch) -> None:
        self.watch = watch
        self.lags: list[dict[tuple[str, str], float]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._stop.wait(0.01):
            self.watch.look()
            self.lags.append(lag())

    def __enter__(self) -> Looking:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blockage_module, "BLOCKED_SECONDS", 0.1)
    monkeypatch.setattr(blockage_module, "MOMENT_SECONDS", 0.01)
    LOOP_LAG_SECONDS.clear()


@pytest.fixture
def lease() -> Lease:
    return Lease(Claimed("acme:j1", 1, False, b"{}", {b"graph": b"slow"}), time.monotonic() + 60)


@pytest.mark.usefixtures("quick")
async def test_a_blocked_loop_shows_as_a_series_of_its_node_that_grows_and_goes_away_once_it_answers(
    lease: Lease,
) -> None:
    CURRENT.set(lease)
    watch = LoopWatch(asyncio.get_running_loop())

    async def block() -> None:
        time.sleep(0.6)  # noqa: ASYNC251 - blocks the event loop on purpose

    with structlog.testing.capture_logs() as logs, Looking(watch) as looking:
        await until(lambda: ("", "") in lag())
        assert list(lag()) == [("", "")]
        assert lag()["", ""] < 0.1
        await asyncio.create_task(block())
        await until(lambda: list(lag()) == [("", "")])
    seen = [lags["slow", ""] for lags in looking.lags if ("slow", "") in lags]
    assert len(seen) >= 3
    assert seen == sorted(seen)
    assert seen[0] >= 0.1
    assert seen[-1] >= 0.3
    (warning,) = logs  # once, as it did not last long
    assert warning["event"] == "event loop blocked"
    assert (warning["log_level"], warning["graph"], warning["node"], warning["job"]) == ("warning", "slow", "", "j1")
    assert 0.1 <= warning["seconds"] <= 0.6


@pytest.mark.usefixtures("quick")
async def test_a_long_blockage_is_said_again_after_a_while(lease: Lease, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blockage_module, "WARN_EACH_SECONDS", 0.2)
    CURRENT.set(lease)
    with structlog.testing.capture_logs() as logs, Looking(LoopWatch(asyncio.get_running_loop())):
        await until(lambda: ("", "") in lag())
        time.sleep(1)  # noqa: ASYNC251 - blocks the event loop on purpose
    assert 2 <= len(logs) <= 5
    assert logs[-1]["seconds"] > logs[0]["seconds"]


@pytest.mark.usefixtures("quick")
async def test_a_blockage_that_is_no_jobs_is_the_lag_of_the_loop_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    with structlog.testing.capture_logs(), Looking(LoopWatch(asyncio.get_running_loop())) as looking:
        await until(lambda: ("", "") in lag())
        time.sleep(0.4)  # noqa: ASYNC251 - blocks the event loop on purpose
        await asyncio.sleep(0.05)
    assert all(list(lags) in ([], [("", "")]) for lags in looking.lags)
    assert max(lags["", ""] for lags in looking.lags if lags) >= 0.2


@pytest.mark.usefixtures("quick")
async def test_a_process_that_was_stopped_as_a_whole_is_not_taken_for_a_blocked_loop(
    lease: Lease, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = LoopWatch(asyncio.get_running_loop())
    monkeypatch.setattr(blockage_module, "MOMENT_SECONDS", 5)
    with structlog.testing.capture_logs() as logs:
        await asyncio.to_thread(watch.look)
        watch._asked_at -= 60  # as after a SIGCONT
        watch._answered.clear()
        looking = asyncio.create_task(asyncio.to_thread(watch.look))
        await asyncio.sleep(0.05)
        asyncio.get_running_loop().call_soon(watch._answer, watch._asked_at)  # the loop comes to it a moment later
        await looking
    assert logs == []


async def test_a_loop_that_answers_is_not_silent_and_a_blocked_one_is(thread: ThreadPoolExecutor) -> None:
    watch = LoopWatch(asyncio.get_running_loop())
    assert not await asyncio.to_thread(watch.silent)
    assert watch.blocked_seconds == 0
    assert thread.submit(watch.silent).result()
    assert watch.blocked_seconds > 0
    await until(lambda: watch.blocked_seconds == 0)
