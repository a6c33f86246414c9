"""What workers publish of their graphs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import fakeredis
import pytest
from langgraph.graph import START, MessagesState, StateGraph
from pydantic import BaseModel, Field
from redis.asyncio import Redis
from typing_extensions import TypedDict

from shared.store import Registry
from worker.graphs.catalogue import Catalogue
from worker.graphs.loading import LoadedGraph, LoadFailure


@pytest.fixture
async def redis() -> AsyncIterator[Redis]:
    async with fakeredis.FakeAsyncRedis(server_type="valkey") as client:
        yield client


class Text(TypedDict):
    text: str


class Context(TypedDict, total=False):
    language: str


def graph_of(state: type, **options: Any) -> StateGraph[Any, Any, Any, Any]:
    graph = StateGraph(state, **options)
    graph.add_node("node", lambda _: {})
    graph.add_edge(START, "node")
    return graph


async def described(source: Any, id_: str = "it") -> Catalogue:
    catalogue = Catalogue([LoadedGraph(id_, "A graph.", source)], [])
    await catalogue.describe()
    return catalogue


async def test_an_entry_has_description_schemas_and_drawing() -> None:
    catalogue = await described(graph_of(Text, context_schema=Context))
    entry = catalogue.entries["it"]
    assert (entry["id"], entry["description"]) == ("it", "A graph.")
    assert entry["input_schema"]["properties"]["text"]["type"] == "string"
    assert entry["output_schema"]["properties"]["text"]["type"] == "string"
    assert entry["context_schema"]["properties"]["language"]["type"] == "string"
    assert "node" in entry["drawing"]
    assert "graph TD" in entry["drawing"]


async def test_message_fields_are_published_and_taken_as_clients_send_them() -> None:
    catalogue = await described(graph_of(MessagesState))
    assert "MessageLike" in catalogue.entries["it"]["input_schema"]["$defs"]
    (message,) = catalogue.graphs["it"].to_messages({"messages": "hi"})["messages"]
    assert message.type == "human"


class Closed(BaseModel):
    big: int = Field(0, le=10**30)  # a number that JSON as orjson writes it cannot hold


async def test_a_schema_that_cannot_be_published_is_left_out_and_the_graph_is_served() -> None:
    catalogue = await described(graph_of(Closed))
    assert catalogue.entries["it"]["input_schema"] == {}
    assert catalogue.failures == {}


@asynccontextmanager
async def no_database() -> AsyncIterator[Any]:
    raise ConnectionError("no database")
    yield


def exits() -> Any:
    raise SystemExit("not today")


@pytest.mark.parametrize(
    ("factory", "failure"),
    [
        (no_database, LoadFailure("it", "ConnectionError", "no database")),
        (exits, LoadFailure("it", "SystemExit", "not today")),
        (lambda: 5, LoadFailure("it", "TypeError", "the factory made a int, not a graph")),
    ],
    ids=["raises", "exits", "no graph"],
)
async def test_a_factory_that_fails_is_a_load_failure_and_not_served(factory: Any, failure: LoadFailure) -> None:
    catalogue = await described(factory)
    assert catalogue.failures == {"it": failure}
    assert catalogue.graphs == catalogue.entries == {}


async def test_what_is_published_is_read_back_with_its_errors(redis: Redis) -> None:
    good, bad = LoadedGraph("good", "A graph.", graph_of(Text)), LoadFailure("bad", "RuntimeError", "no")
    catalogue = Catalogue([good], [bad])
    await catalogue.describe()
    await catalogue.publish(Registry(redis))
    published = await Registry(redis).catalogue()
    assert list(published) == ["bad", "good"]
    assert published["good"] == {**catalogue.entries["good"], "error": None}
    assert published["bad"] == {"id": "bad", "error": {"type": "RuntimeError", "message": "no"}}


async def test_a_graph_that_fails_to_load_later_keeps_its_last_good_entry_beside_the_error(redis: Redis) -> None:
    registry = Registry(redis)
    good = await described(graph_of(Text))
    await good.publish(registry)
    await Catalogue([], [LoadFailure("it", "SyntaxError", "oops")]).publish(registry)
    entry = (await registry.catalogue())["it"]
    assert entry["input_schema"] == good.entries["it"]["input_schema"]
    assert entry["error"] == {"type": "SyntaxError", "message": "oops"}
    await good.publish(registry)
    assert (await registry.catalogue())["it"]["error"] is None
