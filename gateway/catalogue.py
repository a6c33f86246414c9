"""The graphs that workers have published, kept here, with their schemas compiled to check input against.

It is read anew when a worker publishes, when a graph is asked for that is not in it, and after Redis was away.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import jsonschema_rs
import structlog

from gateway.errors import MAX_ERRORS, Problem, json_pointer, shorten
from shared.store import Registry

logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)
_NOT_COMPILED: Any = object()


class Graph:
    """One graph's entry: `{id, description, input_schema, output_schema, context_schema, drawing, error}`."""

    def __init__(self, entry: dict[str, Any]) -> None:
        self.entry = entry
        self._validators: dict[str, jsonschema_rs.Validator | None] = {}

    @property
    def id(self) -> str:
        return str(self.entry["id"])

    @property
    def never_loaded(self) -> bool:
        """Whether there is nothing of it but the error that kept it from loading."""
        return self.entry.get("error") is not None and "input_schema" not in self.entry

    def check(self, part: str, value: Any) -> None:
        """Check a job's `input` or `context` against the graph's schema. Raises `Problem` (`invalid_input`)."""
        validator = self._validators.get(part, _NOT_COMPILED)
        if validator is _NOT_COMPILED:
            validator = self._validators[part] = self._compile(part)
        if validator is None or validator.is_valid(value):
            return
        found = (described for error in validator.iter_errors(value) for described in _describe(part, error))
        errors = list(islice(found, MAX_ERRORS))
        detail = f"The {part} is not what the graph {self.id} takes (see GET /api/v1/graphs/{self.id}). "
        first = f"{errors[0]['pointer']}: {errors[0]['detail']}"
        raise Problem("invalid_input", detail + shorten(first), errors=errors)

    def _compile(self, part: str) -> jsonschema_rs.Validator | None:
        """The validator, or None where the graph has no usable schema: then any value will do."""
        schema = self.entry.get(f"{part}_schema")
        if schema is None:
            return None
        try:
            # offline: a schema comes from a graph's code, and must not make this process fetch anything.
            return jsonschema_rs.validator_for(schema, offline=True, mask="this value")
        except Exception as error:
            logger.warning("schema cannot be used: any value is accepted", graph=self.id, part=part, error=str(error))
            return None


class Catalogue:
    """All graphs by id, read from Redis when they are not at hand."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self._graphs: dict[str, Graph] = {}
        self._current = False
        self._reading: asyncio.Task[None] | None = None

    def invalidate(self) -> None:
        """The graphs may have changed: read them before they are used again."""
        self._current = False

    async def all(self) -> list[Graph]:
        """The graphs, by id. Raises `StoreUnavailable`."""
        if not self._current:
            await self._read()
        return list(self._graphs.values())

    async def find(self, graph_id: str) -> Graph | None:
        """The graph, or None where no worker has ever published it. Raises `StoreUnavailable`."""
        if not self._current or graph_id not in self._graphs:
            await self._read()
        return self._graphs.get(graph_id)

    async def to_run(self, graph_id: str) -> Graph:
        """The graph that a job asks for. Raises `Problem` where there is none to run."""
        graph = await self.find(graph_id)
        if graph is None:
            detail = f"There is no graph {graph_id}. GET /api/v1/graphs lists those that workers have published."
            raise Problem("unknown_graph", detail, errors=[{"pointer": "/graph", "detail": "unknown graph"}])
        if graph.never_loaded:
            detail = f"The graph {graph_id} fails to load: see GET /api/v1/graphs/{graph_id}, and the workers' logs."
            raise Problem("graph_failed_to_load", detail, errors=[{"pointer": "/graph", "detail": "failed to load"}])
        return graph

    async def _read(self) -> None:
        # Requests that come meanwhile share the read that is under way.
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._fetch())
            # Where all who asked have given up meanwhile, its failure is nobody's.
            self._reading.add_done_callback(lambda task: task.cancelled() or task.exception())
        await asyncio.shield(self._reading)

    async def _fetch(self) -> None:
        self._current = True  # before the read: what changes from now on invalidates it
        try:
            entries = await self.registry.catalogue()
        except BaseException:
            self._current = False
            raise
        # A graph that is as it was keeps its compiled schemas.
        known = self._graphs
        self._graphs = {
            graph_id: known[graph_id] if graph_id in known and known[graph_id].entry == entry else Graph(entry)
            for graph_id, entry in entries.items()
        }


def _describe(part: str, error: jsonschema_rs.ValidationError) -> Iterator[dict[str, str]]:
    """The error at the field that is to be changed: schemas report missing and unknown fields at their object."""
    error = _most_telling(error)
    path: Sequence[str | int] = [part, *error.instance_path]
    if isinstance(error.kind, jsonschema_rs.ValidationErrorKind.Required):
        yield {"pointer": json_pointer([*path, error.kind.property]), "detail": "this field is required"}
    elif isinstance(error.kind, jsonschema_rs.ValidationErrorKind.AdditionalProperties):
        for name in error.kind.unexpected:
            yield {"pointer": json_pointer([*path, name]), "detail": "there is no such field"}
    else:
        yield {"pointer": json_pointer(path), "detail": shorten(error.message)}


def _most_telling(error: jsonschema_rs.ValidationError) -> jsonschema_rs.ValidationError:
    """Of a value that fits none of several alternatives: the error deepest inside it, where it nearly fitted."""
    kinds = jsonschema_rs.ValidationErrorKind
    if not isinstance(error.kind, (kinds.AnyOf, kinds.OneOfNotValid)):
        return error
    inner = [_most_telling(each) for branch in error.kind.context for each in branch]
    deepest = max(inner, key=lambda each: len(each.instance_path), default=error)
    return deepest if len(deepest.instance_path) > len(error.instance_path) else error
