"""The graphs of the soak that do not simply succeed, and one for threads whose memory does not grow."""

from __future__ import annotations

import asyncio
from typing import Any

import structlog
from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt
from typing_extensions import TypedDict


class State(TypedDict, total=False):
    value: Any
    before: Any  # what the thread's last job left
    retryable: bool


def _chain(*nodes: Any) -> StateGraph:
    graph = StateGraph(State)
    names = [node.__name__.strip("_") for node in nodes]
    for name, node in zip(names, nodes, strict=True):
        graph.add_node(name, node)
    for before, after in zip([START, *names], [*names, END], strict=True):
        graph.add_edge(before, after)
    return graph


def _look_back(state: State) -> State:
    return {"value": state["value"]}


def _remember(state: State) -> State:
    return {"before": state["value"]}


def _fail(state: State) -> State:
    raise ValueError("as planned")


def _fail_once(state: State) -> State:
    if structlog.contextvars.get_contextvars()["attempt"] == 1:
        raise (ConnectionError if state.get("retryable") else ValueError)("as planned")
    return {"value": "at last"}


def _ask(state: State) -> State:
    return {"value": interrupt("go on?")}


async def _sleep(state: State) -> State:
    await asyncio.sleep(60)
    return {"value": "never cancelled"}


remembering = _chain(_look_back, _remember)
failing = _chain(_look_back, _fail)
flaky = _chain(_look_back, _fail_once)
asking = _chain(_ask)
sleeping = _chain(_sleep)
