"""Input is checked against the schema that the graph's worker has published."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import structlog

from gateway.catalogue import Graph
from gateway.errors import MAX_ERRORS, MAX_TEXT, Problem
from tests.unit.gateway.conftest import LENIENT, STRICT, Gateway, problem


def _errors(schema: Any, value: Any) -> list[dict[str, str]]:
    with pytest.raises(Problem) as refused:
        Graph({"id": "g", "input_schema": schema, "error": None}).check("input", value)
    assert refused.value.code == "invalid_input"
    return [dict(error) for error in refused.value.errors]


@pytest.mark.parametrize(
    ("value", "pointer"),
    [
        ({}, "/input/count"),
        ({"count": "x"}, "/input/count"),
        ({"count": 1, "other/~name": 1}, "/input/other~1~0name"),
        ({"count": 1, "messages": [{"role": "user"}, {}]}, "/input/messages/1/role"),
        ({"count": 1, "messages": 7}, "/input/messages"),
        ([], "/input"),
        (None, "/input"),
    ],
)
async def test_each_wrong_field_is_named_by_a_json_pointer(gateway: Gateway, value: Any, pointer: str) -> None:
    answer = await gateway.post("/jobs", {"graph": "strict", "input": value})
    assert [error["pointer"] for error in problem(answer, 422, "invalid_input")["errors"]] == [pointer]
    assert (await gateway.get("/jobs")).json()["items"] == []


async def test_good_input_is_accepted(gateway: Gateway) -> None:
    await gateway.submit("strict", {"count": 1, "messages": [{"role": "user", "content": "hi"}]})


async def test_a_context_is_checked_where_one_is_given(gateway: Gateway) -> None:
    answer = await gateway.post("/jobs", {"graph": "strict", "input": {"count": 1}, "context": {"language": "fr"}})
    assert problem(answer, 422, "invalid_input")["errors"][0]["pointer"] == "/context/language"
    await gateway.submit("strict", {"count": 1}, context={"language": "zh"})


def test_a_value_is_never_echoed() -> None:
    schema = {
        "properties": {"a": {"type": "integer"}, "b": {"enum": [1]}, "c": {"anyOf": [{"maxLength": 1}, {"const": 2}]}}
    }
    errors = _errors(schema, {"a": "planted", "b": "planted" * 1000, "c": "planted"})
    assert len(errors) == 3
    assert "planted" not in str(errors)


def test_at_most_20_errors_are_told_and_long_names_are_cut() -> None:
    assert len(_errors({"items": {"type": "integer"}}, ["x"] * 1000)) == MAX_ERRORS == 20
    unknown = _errors(
        {"properties": {"a": {}}, "additionalProperties": False},
        {"n" * 10_000 + str(number): 1 for number in range(100)},
    )
    assert len(unknown) == MAX_ERRORS
    assert max(len(error["pointer"]) for error in unknown) <= MAX_TEXT


def test_no_schema_makes_the_gateway_fetch_anything(tmp_path: Path) -> None:
    asked: list[str] = []

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"type": "integer"}')

    (tmp_path / "schema.json").write_text('{"type": "integer"}')
    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for reference in (f"http://127.0.0.1:{server.server_port}/x", (tmp_path / "schema.json").as_uri()):
            with structlog.testing.capture_logs() as logs:
                Graph({"id": "g", "input_schema": {"$ref": reference}, "error": None}).check("input", {"any": "thing"})
            assert [log["event"] for log in logs] == ["schema cannot be used: any value is accepted"]
        server.shutdown()
    assert asked == []


@pytest.mark.parametrize("schema", [{"type": "strange"}, {"$ref": "#/$defs/none"}, {"pattern": "((("}, "text", 7, []])
def test_a_schema_that_cannot_be_used_accepts_anything_and_is_logged_once(schema: Any) -> None:
    graph = Graph({"id": "g", "input_schema": schema, "error": None})
    with structlog.testing.capture_logs() as logs:
        graph.check("input", {"any": ["thing"]})
        graph.check("input", 1)
    assert len(logs) == 1


def test_a_schema_that_refers_to_itself_takes_what_json_may_nest() -> None:
    value: Any = []
    for _ in range(250):
        value = [value]
    Graph({"id": "g", "input_schema": {"type": "array", "items": {"$ref": "#"}}, "error": None}).check("input", value)


async def test_a_schema_is_compiled_once_and_again_only_when_it_changes(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[Any] = []
    validator_for = jsonschema_rs.validator_for

    def counted(schema: Any, **options: Any) -> jsonschema_rs.Validator:
        compiled.append(schema)
        return validator_for(schema, **options)

    monkeypatch.setattr(jsonschema_rs, "validator_for", counted)
    for _ in range(3):
        await gateway.submit("strict", {"count": 1})
        await gateway.registry.publish({"strict": STRICT}, {})
        gateway.services.catalogue.invalidate()
    assert compiled == [STRICT["input_schema"]]
    changed = {**STRICT, "input_schema": {"type": "string"}}
    await gateway.registry.publish({"strict": changed}, {})
    gateway.services.catalogue.invalidate()
    problem(await gateway.post("/jobs", {"graph": "strict", "input": {"count": 1}}), 422, "invalid_input")
    assert len(compiled) == 2


async def test_an_unknown_graph_is_looked_for_once_more_before_it_is_refused(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    await gateway.submit()
    monkeypatch.setattr(gateway.services.catalogue, "invalidate", lambda: None)  # word of the new graph is lost
    gateway.waiters.on_catalogue = lambda: None
    problem(await gateway.post("/jobs", {"graph": "late", "input": 1}), 422, "unknown_graph")
    await gateway.registry.publish({"late": {**LENIENT, "id": "late"}}, {})
    await gateway.submit("late")


async def test_a_graph_that_only_has_a_load_error_is_refused_and_says_so(gateway: Gateway) -> None:
    answer = await gateway.post("/jobs", {"graph": "broken", "input": 1})
    assert "/api/v1/graphs/broken" in problem(answer, 422, "graph_failed_to_load")["detail"]


async def test_a_graph_that_failed_to_load_this_time_is_still_accepted(gateway: Gateway) -> None:
    await gateway.registry.publish({}, {"echo": {"type": "SyntaxError", "message": "here"}})
    gateway.services.catalogue.invalidate()
    await gateway.submit("echo")
