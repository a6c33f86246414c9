"""The pool of sync nodes, as the event loop uses it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from tests.conditions import until
from worker.node_threads import NodeThreads

SIZE = 2


class Node:
    """A call that runs until it is let go; `running` counts those that do."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.running = 0
        self._lock = threading.Lock()

    def run(self) -> str:
        self._add(1)
        self.gate.wait(20)
        self._add(-1)
        return "result"

    def _add(self, number: int) -> None:
        with self._lock:
            self.running += number


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    node = Node()
    asyncio.get_running_loop().set_default_executor(NodeThreads(SIZE))
    yield node
    node.gate.set()
    await asyncio.get_running_loop().shutdown_default_executor()


async def cancelled(task: asyncio.Task[str]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_no_more_calls_run_at_once_than_there_are_threads(node: Node) -> None:
    calls = [asyncio.create_task(asyncio.to_thread(node.run)) for _ in range(SIZE + 3)]
    await until(lambda: node.running == SIZE)
    await asyncio.sleep(0.05)
    assert node.running == SIZE
    node.gate.set()
    assert await asyncio.gather(*calls) == ["result"] * (SIZE + 3)


async def abandon(node: Node, count: int) -> None:
    for number in range(1, count + 1):
        call = asyncio.create_task(asyncio.to_thread(node.run))
        await until(lambda: node.running == number)  # noqa: B023 - awaited at once
        await cancelled(call)


async def test_abandoned_calls_take_nobodys_place(node: Node) -> None:
    await abandon(node, 3 * SIZE)
    assert await asyncio.wait_for(asyncio.to_thread(lambda: "another"), 5) == "another"


async def test_the_pool_does_not_grow_with_each_call_that_was_ever_abandoned(node: Node) -> None:
    for _ in range(3):
        await abandon(node, 2 * SIZE)
        node.gate.set()
        await until(lambda: node.running == 0)
        node.gate.clear()
    calls = [asyncio.create_task(asyncio.to_thread(node.run)) for _ in range(20 * SIZE)]
    await until(lambda: node.running >= SIZE)
    await asyncio.sleep(0.05)
    assert node.running <= 3 * SIZE  # its own, and one for each of those that were abandoned at the same time
    node.gate.set()
    assert await asyncio.gather(*calls) == ["result"] * 20 * SIZE


async def test_a_call_that_is_cancelled_before_its_start_never_runs_and_adds_no_thread(node: Node) -> None:
    calls = [asyncio.create_task(asyncio.to_thread(node.run)) for _ in range(SIZE)]
    await until(lambda: node.running == SIZE)
    waiting = asyncio.create_task(asyncio.to_thread(node.run))
    await asyncio.sleep(0)
    await cancelled(waiting)
    later = asyncio.create_task(asyncio.to_thread(node.run))
    await asyncio.sleep(0.05)
    assert node.running == SIZE
    node.gate.set()
    assert await asyncio.gather(*calls, later) == ["result"] * (SIZE + 1)
