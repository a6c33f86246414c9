"""One node that waits for a second, as a model call does: in a coroutine, and in a thread."""

from __future__ import annotations

import asyncio
import time

from langgraph.graph import StateGraph
from typing_extensions import TypedDict


class State(TypedDict, total=False):
    slept: float


async def _sleep(_: State) -> State:
    await asyncio.sleep(1)
    return {"slept": 1}


def _sleep_in_thread(_: State) -> State:
    time.sleep(1)
    return {"slept": 1}


asynchronous = StateGraph(State).add_node("sleep", _sleep).set_entry_point("sleep").compile()
synchronous = StateGraph(State).add_node("sleep", _sleep_in_thread).set_entry_point("sleep").compile()
