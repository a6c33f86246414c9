"""`/graphs`: what can be run, as the workers have published it."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Response

from gateway.auth import Reader
from gateway.catalogue import Graph
from gateway.documents import GraphDocument, GraphList, answers
from gateway.errors import Problem
from gateway.limits import JSONRoute
from gateway.routes.answer import json_answer
from gateway.services import CurrentServices
from shared.records import API

router = APIRouter(prefix=f"{API}/graphs", tags=["graphs"], route_class=JSONRoute)


@router.get(
    "",
    summary="List the graphs",
    description="All graphs that workers have published, by id, with the schemas of what they take and give.",
    responses=answers(200, GraphList, "The catalogue."),
)
async def get_graphs(_: Reader, services: CurrentServices) -> Response:
    workers = await services.registry.workers()
    items = [_document(graph, workers) for graph in await services.catalogue.all()]
    return json_answer({"items": items, "next_cursor": None})


@router.get(
    "/{graph_id}",
    summary="Get a graph",
    description="Its schemas, its drawing, why it failed to load where it did, and the workers that serve it now.",
    responses=answers(200, GraphDocument, "The graph.", "graph_not_found"),
)
async def get_graph(
    graph_id: Annotated[str, Path(description="A graph's id.")], _: Reader, services: CurrentServices
) -> Response:
    graph = await services.catalogue.find(graph_id)
    if graph is None:
        raise Problem("graph_not_found", "There is no such graph; GET /api/v1/graphs lists those there are.")
    return json_answer(_document(graph, await services.registry.workers()))


def _document(graph: Graph, workers: list[dict[str, Any]]) -> dict[str, Any]:
    return {**graph.entry, "workers": [worker["id"] for worker in workers if graph.id in worker.get("graphs", ())]}
