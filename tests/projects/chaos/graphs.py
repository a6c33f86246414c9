"""Graphs whose nodes leave a line when they start and when they end, so that a test can prove what ran, when, where."""

import asyncio
import json
import operator
import os
import time
from typing import Annotated, Any

import structlog
from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, StateGraph
from typing_extensions import TypedDict


class Job(TypedDict, total=False):
    file: str
    name: str
    seconds: list[float]  # for each step
    trail: Annotated[list[str], operator.add]  # of a thread: the steps of all its jobs


def _note(state: Job, config: RunnableConfig, step: int, event: str) -> None:
    """One line in one write, so that those of several processes never mix."""
    line = {
        "job": config["metadata"]["job_id"],
        "attempt": structlog.contextvars.get_contextvars()["attempt"],
        "step": step,
        "event": event,
        "pid": os.getpid(),
        "at": time.monotonic(),
    }
    file = os.open(state["file"], os.O_WRONLY | os.O_APPEND)
    os.write(file, f"{json.dumps(line)}\n".encode())
    os.close(file)


def _sleeping(step: int) -> Any:
    async def sleep(state: Job, config: RunnableConfig) -> dict:
        _note(state, config, step, "start")
        await asyncio.sleep(state["seconds"][step])
        _note(state, config, step, "end")
        return {"trail": [f"{state['name']}/{step}"]}

    return sleep


def _blocking(step: int) -> Any:
    def block(state: Job, config: RunnableConfig) -> dict:
        _note(state, config, step, "start")
        time.sleep(state["seconds"][step])
        _note(state, config, step, "end")
        return {"trail": [f"{state['name']}/{step}"]}

    return block


def _kill(state: Job, config: RunnableConfig) -> dict:
    _note(state, config, 0, "start")
    os._exit(1)


def _pass(state: Job) -> dict:
    return {"trail": [state["name"]]}


def _chain(*nodes: Any) -> StateGraph:
    graph = StateGraph(Job)
    names = [f"step_{number}" for number in range(len(nodes))]
    for name, node in zip(names, nodes, strict=True):
        graph.add_node(name, node)
    for before, after in zip([START, *names], [*names, END], strict=True):
        graph.add_edge(before, after)
    return graph


one_step = _chain(_sleeping(0))
two_steps = _chain(_sleeping(0), _sleeping(1))
three_steps = _chain(_sleeping(0), _blocking(1), _sleeping(2))
killer = _chain(_kill)
quick = _chain(_pass)
