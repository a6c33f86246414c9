"""Graphs whose nodes do not give way: to the event loop, to a cancel, or to a worker that stops."""

import asyncio
import hashlib
import multiprocessing
import os
import time
from pathlib import Path

from langgraph.graph import END, START, StateGraph
from typing_extensions import TypedDict


class Blocking(TypedDict, total=False):
    how: str
    seconds: float
    file: str
    gate: str
    status: int


def _note(state: Blocking, what: str) -> None:
    with Path(state["file"]).open("a") as lines:
        lines.write(f"{what} {os.getpid()}\n")


def _block_now(how: str, seconds: float) -> None:
    if how == "sleep":
        time.sleep(seconds)
    elif how == "spin":
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            pass
    else:  # one call into C, of many minutes, that neither holds the GIL nor looks for signals
        hashlib.pbkdf2_hmac("sha256", b"password", b"salt", 2**31 - 1)


async def _block(state: Blocking) -> dict:
    if "file" in state:
        _note(state, "blocks")
    _block_now(state["how"], state.get("seconds", 60))
    return {}


async def _first(state: Blocking) -> dict:
    """Go on when there is a file `gate`."""
    _note(state, "first")
    while not Path(state["gate"]).exists():  # noqa: ASYNC110, ASYNC240
        await asyncio.sleep(0.01)
    return {}


async def _second(state: Blocking) -> dict:
    _note(state, "second")
    return {}


def _wait(state: Blocking) -> dict:
    """As `_first`, in a thread of the pool."""
    _note(state, "waits")
    while not Path(state["gate"]).exists():
        time.sleep(0.01)
    _note(state, "goes on")
    return {"status": 1}


async def _refuse(state: Blocking) -> dict:
    """Take no notice of a cancel; or take it as an occasion to block the loop."""
    _note(state, "runs")
    while not Path(state["gate"]).exists():  # noqa: ASYNC240
        try:
            await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            _note(state, "refuses")
            if "how" in state:
                _block_now(state["how"], state.get("seconds", 60))
    return {"status": 1}


def _fork(state: Blocking) -> dict:
    """End a forked child with SIGTERM, as a pool of processes does; `status` is how it ended."""
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    child.start()
    child.terminate()
    child.join(10)
    return {"status": child.exitcode}


blocker = StateGraph(Blocking).add_node("block", _block).add_edge(START, "block").add_edge("block", END)
gated = (
    StateGraph(Blocking)
    .add_node("first", _first)
    .add_node("second", _second)
    .add_edge(START, "first")
    .add_edge("first", "second")
    .add_edge("second", END)
)
waiter = StateGraph(Blocking).add_node("wait", _wait).add_edge(START, "wait").add_edge("wait", END)
stubborn = StateGraph(Blocking).add_node("refuse", _refuse).add_edge(START, "refuse").add_edge("refuse", END)
forker = StateGraph(Blocking).add_node("fork", _fork).add_edge(START, "fork").add_edge("fork", END)
