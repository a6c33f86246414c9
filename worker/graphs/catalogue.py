"""What a worker publishes of its graphs: schemas to check input against, a description, a drawing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import structlog

from shared.secrets import masked
from shared.store import Registry
from worker.graphs.loading import LoadedGraph, LoadFailure
from worker.graphs.messages import publish_message_fields

logger = structlog.get_logger(__name__)


class Catalogue:
    """The graphs this worker serves, by id, and those that failed to load."""

    def __init__(self, loaded: list[LoadedGraph], failures: list[LoadFailure]) -> None:
        self.graphs = {graph.id: graph for graph in loaded}
        self.failures = {failure.id: failure for failure in failures}
        self.entries: dict[str, dict[str, Any]] = {}

    async def describe(self) -> None:
        """Read schemas and drawings off the graphs. A factory that fails here is a load failure like any other."""
        for graph_id, graph in list(self.graphs.items()):
            try:
                self.entries[graph_id] = await _entry(graph)
            except (Exception, SystemExit) as error:
                self.failures[graph_id] = LoadFailure(graph_id, type(error).__name__, str(error))
                del self.graphs[graph_id]
        for failure in self.failures.values():
            logger.error("graph failed to load", graph=failure.id, error=failure.type, detail=failure.message)

    async def publish(self, registry: Registry) -> None:
        """Tell the gateways. The catalogue outlives this worker."""
        errors = {
            failure.id: {"type": failure.type, "message": masked(failure.message)} for failure in self.failures.values()
        }
        await registry.publish(self.entries, errors)


async def _entry(graph: LoadedGraph) -> dict[str, Any]:
    async with graph.open({"configurable": {}}) as compiled:
        input_schema, graph.to_messages = publish_message_fields(
            _schema(graph.id, "input", compiled.get_input_jsonschema) or {}
        )
        return {
            "id": graph.id,
            "description": graph.description,
            "input_schema": input_schema,
            "output_schema": _schema(graph.id, "output", compiled.get_output_jsonschema),
            "context_schema": _schema(graph.id, "context", compiled.get_context_jsonschema),
            "drawing": _drawing(graph.id, compiled.get_graph),
        }


def _schema(graph_id: str, part: str, make: Callable[[], dict[str, Any] | None]) -> dict[str, Any] | None:
    """A JSON schema, or None where LangGraph cannot make one of the graph's types: then any input is passed on."""
    try:
        schema = make()
        orjson.dumps(schema)  # it is published as JSON
        return schema
    except Exception as error:
        logger.warning("graph has no schema", graph=graph_id, part=part, error=str(error))
        return None


def _drawing(graph_id: str, make: Callable[[], Any]) -> str | None:
    try:
        return str(make().draw_mermaid())
    except Exception as error:
        logger.warning("graph cannot be drawn", graph=graph_id, error=str(error))
        return None
