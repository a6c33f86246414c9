"""The ways to make a graph for each run."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, StateGraph
from typing_extensions import TypedDict


class Told(TypedDict, total=False):
    told: str


def _graph(text: str) -> StateGraph:
    graph = StateGraph(Told)
    graph.add_node("tell", lambda state: {"told": text})
    graph.add_edge(START, "tell")
    graph.add_edge("tell", END)
    return graph


def sync_factory() -> StateGraph:
    """Makes a StateGraph, without the config."""
    return _graph("sync")


async def async_factory(config: RunnableConfig) -> Any:
    """Makes a compiled graph, with the config."""
    return _graph(f"async {config['configurable'].get('who', 'nobody')}").compile()


@asynccontextmanager
async def context_factory(config: RunnableConfig) -> AsyncIterator[Any]:
    """Opens what the graph needs and closes it after the run."""
    opened = [config["configurable"].get("who", "nobody")]
    yield _graph(f"context {opened[0]}").compile()
    opened.clear()
