"""Graphs for the tests: plain ones, slow ones, and some that fail."""

import asyncio
import os
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from langchain_core.messages import AIMessage
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import interrupt
from typing_extensions import TypedDict


def _chain(state: type, **nodes: Any) -> StateGraph:
    graph = StateGraph(state)
    names = list(nodes)
    for name, node in nodes.items():
        graph.add_node(name, node)
    for before, after in zip([START, *names], [*names, END], strict=True):
        graph.add_edge(before, after)
    return graph


def _first(state: MessagesState) -> dict:
    return {"messages": [AIMessage("first")]}


def _second(state: MessagesState) -> dict:
    return {"messages": [AIMessage("second")]}


two_nodes = _chain(MessagesState, first=_first, second=_second).compile()


class Anything(TypedDict):
    value: Any


echo = _chain(Anything, echo=lambda state: {"value": state["value"]})


class Sleep(TypedDict, total=False):
    seconds: float
    blocking: bool
    slept: float


async def _sleep(state: Sleep) -> dict:
    if state.get("blocking"):
        time.sleep(state["seconds"])  # noqa: ASYNC251 - blocks the event loop on purpose
    else:
        await asyncio.sleep(state["seconds"])
    return {"slept": state["seconds"]}


sleeper = _chain(Sleep, sleep=_sleep)


class Counted(TypedDict, total=False):
    file: str
    seconds: float


async def _count(state: Counted) -> dict:
    """Leave a line for each run, so that a test can count them, then take a while."""
    with Path(state["file"]).open("a") as lines:  # noqa: ASYNC230
        lines.write(f"{os.getpid()}\n")
    await asyncio.sleep(state.get("seconds", 0))
    return {"file": state["file"]}


counted = _chain(Counted, count=_count)


def _last(state: Counted) -> dict:
    return {"file": state["file"]}


two_counted = _chain(Counted, count=_count, last=_last)


class Crowd(TypedDict, total=False):
    seconds: float
    inside: int
    pid: int


_inside = 0


async def _join(state: Crowd) -> dict:
    """Say how many are inside at once, in this process."""
    global _inside
    _inside += 1
    seen = _inside
    await asyncio.sleep(state["seconds"])
    _inside -= 1
    return {"inside": seen, "pid": os.getpid()}


crowd = _chain(Crowd, join=_join)


def _quit(state: Crowd) -> dict:
    sys.exit("a node wants to leave")


quitter = _chain(Crowd, quit=_quit)


class Opened(TypedDict, total=False):
    files: int
    gate: str


async def _open(state: Opened) -> dict:
    """Hold so many files open until there is a file `gate`."""
    with ExitStack() as opened:
        for _ in range(state["files"]):
            opened.enter_context(Path(os.devnull).open())  # noqa: ASYNC230
        while not Path(state["gate"]).exists():  # noqa: ASYNC110, ASYNC240
            await asyncio.sleep(0.05)
    return {}


opener = _chain(Opened, open=_open)


class Faulty(TypedDict, total=False):
    message: str


def _fail(state: Faulty) -> dict:
    raise ValueError(state.get("message", "no"))


faulty = _chain(Faulty, fail=_fail)


class Flaky(TypedDict, total=False):
    file: str
    failures: int
    tries: int


def _flaky(state: Flaky) -> dict:
    path = Path(state["file"])
    with path.open("a") as lines:
        lines.write("try\n")
    tries = len(path.read_text().splitlines())
    if tries <= state["failures"]:
        raise ConnectionError("the provider hung up")
    return {"tries": tries}


flaky = _chain(Flaky, flaky=_flaky)


def _ask(state: MessagesState) -> dict:
    return {"messages": [AIMessage(str(interrupt({"question": "go on?"})))]}


asking = _chain(MessagesState, first=_first, ask=_ask)
