"""Graphs of one node for what an operator sets: one waits as a model call does, one keeps the processor busy."""

from __future__ import annotations

import asyncio
import time

from langgraph.graph import StateGraph
from typing_extensions import TypedDict

WAIT_SECONDS = 0.2
COMPUTE_SECONDS = 0.02


class State(TypedDict, total=False):
    seconds: float
    done: bool


async def _wait(state: State) -> State:
    await asyncio.sleep(state.get("seconds", WAIT_SECONDS))
    return {"done": True}


def _compute(_: State) -> State:
    until = time.thread_time() + COMPUTE_SECONDS
    while time.thread_time() < until:
        pass
    return {"done": True}


waits = StateGraph(State).add_node("wait", _wait).set_entry_point("wait").compile()
computes = StateGraph(State).add_node("compute", _compute).set_entry_point("compute").compile()
