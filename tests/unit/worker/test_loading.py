"""`langgraph.json` and the graphs it names: what is served, and what is told apart as a failure."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from langgraph.checkpoint.memory import InMemorySaver

from shared.settings import SettingsError
from worker.graphs.config import GraphsConfig, read_graphs_config
from worker.graphs.loading import LoadedGraph, LoadFailure, load_graphs

BASIC = Path(__file__).parents[2] / "projects" / "basic" / "langgraph.json"
GRAPH = """
from langgraph.graph import START, StateGraph
from typing_extensions import TypedDict

class State(TypedDict, total=False):
    text: str

def tell(text):
    graph = StateGraph(State)
    graph.add_node("tell", lambda state: {"text": text})
    graph.add_edge(START, "tell")
    return graph
"""
Project = Callable[..., Path]


@pytest.fixture(autouse=True)
def _imports_are_forgotten() -> Iterator[None]:
    path, modules, environment = list(sys.path), set(sys.modules), dict(os.environ)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if str(getattr(sys.modules[name], "__file__", None) or "").startswith(("/tmp", str(BASIC.parent))):
            del sys.modules[name]
    os.environ.clear()
    os.environ.update(environment)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Writes a project: `langgraph.json` from the keywords, and files by their names."""

    def write(files: dict[str, str], **config: Any) -> Path:
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        path = tmp_path / "langgraph.json"
        path.write_bytes(orjson.dumps(config))
        return path

    return write


def load(path: Path) -> tuple[dict[str, LoadedGraph], dict[str, LoadFailure]]:
    loaded, failures = load_graphs(read_graphs_config(path))
    return {graph.id: graph for graph in loaded}, {failure.id: failure for failure in failures}


async def run(graph: LoadedGraph, **configurable: Any) -> Any:
    """What the graph gives for an empty input."""
    config: Any = {"configurable": configurable}
    async with graph.open(config) as compiled:
        return (await compiled.ainvoke({}, config))["text"]


# Forms of graphs

FORMS = """
from contextlib import asynccontextmanager, contextmanager
from langchain_core.runnables import RunnableConfig

compiled = tell("compiled").compile()
builder = tell("builder")

def sync_factory():
    return tell("sync")

def with_config(config: RunnableConfig):
    return tell("sync for " + config["configurable"]["who"]).compile()

async def async_factory():
    return tell("async")

async def async_with_config(config):
    return tell("async for " + config["configurable"]["who"])

def own_default(text="own default"):
    return tell(text)

def optional_config(config: RunnableConfig = None):
    return tell("optional for " + config["configurable"]["who"])

@asynccontextmanager
async def async_context():
    yield tell("async context")

@asynccontextmanager
async def async_context_with_config(config):
    yield tell("async context for " + config["configurable"]["who"]).compile()

@contextmanager
def sync_context():
    yield tell("sync context")
"""


@pytest.mark.parametrize(
    ("attribute", "text"),
    [
        ("compiled", "compiled"),
        ("builder", "builder"),
        ("sync_factory", "sync"),
        ("with_config", "sync for Ann"),
        ("async_factory", "async"),
        ("async_with_config", "async for Ann"),
        ("own_default", "own default"),
        ("optional_config", "optional for Ann"),
        ("async_context", "async context"),
        ("async_context_with_config", "async context for Ann"),
        ("sync_context", "sync context"),
    ],
)
async def test_graphs_come_in_all_forms_that_langgraph_json_knows(project: Project, attribute: str, text: str) -> None:
    loaded, failures = load(project({"forms.py": GRAPH + FORMS}, graphs={"it": f"./forms.py:{attribute}"}))
    assert failures == {}
    assert await run(loaded["it"], who="Ann") == text


async def test_the_projects_of_the_tests_load_but_for_the_broken_ones() -> None:
    loaded, failures = load(BASIC)
    assert set(failures) == {"broken"}
    assert failures["broken"] == LoadFailure("broken", "RuntimeError", "this file cannot be imported")
    assert {"two_nodes", "echo", "context_factory"} <= set(loaded)


CONTEXT = """
from contextlib import asynccontextmanager

log = []

@asynccontextmanager
async def logged():
    log.append("opened")
    try:
        yield tell("hi")
    finally:
        log.append("closed")

@asynccontextmanager
async def swallowing():
    try:
        yield tell("hi")
    except Exception:
        log.append("swallowed")
"""


async def test_a_factorys_context_is_closed_after_the_run_also_when_it_fails(project: Project) -> None:
    loaded, _ = load(project({"a.py": GRAPH + CONTEXT}, graphs={"it": "./a.py:logged"}))
    log = sys.modules[loaded["it"].source.__module__].log
    assert await run(loaded["it"]) == "hi"
    assert log == ["opened", "closed"]
    with pytest.raises(ZeroDivisionError):
        async with loaded["it"].open({}):
            raise ZeroDivisionError
    assert log == ["opened", "closed", "opened", "closed"]


async def test_a_factorys_context_that_swallows_errors_does_not_make_a_failed_run_a_success(project: Project) -> None:
    loaded, _ = load(project({"a.py": GRAPH + CONTEXT}, graphs={"it": "./a.py:swallowing"}))
    with pytest.raises(ZeroDivisionError):
        async with loaded["it"].open({}):
            raise ZeroDivisionError


async def test_a_factory_that_makes_no_graph_fails_when_it_is_opened(project: Project) -> None:
    loaded, _ = load(project({"a.py": "def make():\n    return 5\n"}, graphs={"it": "./a.py:make"}))
    with pytest.raises(TypeError, match="the factory made a int, not a graph"):
        async with loaded["it"].open({}):
            pass


async def test_the_saver_of_the_run_stands_in_for_the_authors_own(project: Project) -> None:
    own = "from langgraph.checkpoint.memory import InMemorySaver as Own\ngraph = tell('hi').compile(checkpointer=Own())"
    loaded, _ = load(project({"a.py": GRAPH + own}, graphs={"it": "./a.py:graph"}))
    saver = InMemorySaver()
    async with loaded["it"].open({}) as without, loaded["it"].open({}, saver) as with_one:
        assert without.checkpointer is None
        assert with_one.checkpointer is saver
    assert await run(loaded["it"]) == "hi"  # LangGraph would ask for a thread_id here


# What cannot be loaded


@pytest.mark.parametrize(
    ("text", "type_", "message"),
    [
        ("raise RuntimeError('no database')", "RuntimeError", "no database"),
        ("import a_module_that_is_not_there", "ModuleNotFoundError", "No module named 'a_module_that_is_not_there'"),
        ("def broken(:\n", "SyntaxError", "invalid syntax"),
        ("import sys\nsys.exit('bye')", "SystemExit", "bye"),
        ("assert False", "AssertionError", ""),
        ("graph = 5", "TypeError", "is a int, not a graph or a function that makes one"),
        ("other = 5", "AttributeError", "has no attribute 'graph'"),
    ],
    ids=["raises", "missing module", "syntax", "exits", "asserts", "no graph", "no such name"],
)
async def test_a_file_that_cannot_be_loaded_is_a_failure_and_the_others_are_served(
    project: Project, text: str, type_: str, message: str
) -> None:
    files = {"bad.py": text, "good.py": GRAPH + "graph = tell('good')"}
    loaded, failures = load(project(files, graphs={"bad": "./bad.py:graph", "good": "./good.py:graph"}))
    assert failures["bad"].type == type_
    assert message in failures["bad"].message
    assert set(failures) == {"bad"}
    assert await run(loaded["good"]) == "good"


@pytest.mark.parametrize(
    ("graph_id", "source", "type_"),
    [
        ("it", "./nowhere.py:graph", "FileNotFoundError"),
        ("it", "nowhere.graphs:graph", "ModuleNotFoundError"),
        ("it", "./a.py", "ValueError"),
        ("it", ":graph", "ValueError"),
        ("it", "./a.py:", "ValueError"),
        ("has space", "./a.py:graph", "ValueError"),
        ("has:colon", "./a.py:graph", "ValueError"),
        ("", "./a.py:graph", "ValueError"),
        ("line\n", "./a.py:graph", "ValueError"),
        ("x" * 129, "./a.py:graph", "ValueError"),
    ],
)
def test_an_entry_that_cannot_be_right_is_a_failure(project: Project, graph_id: str, source: str, type_: str) -> None:
    path = project({"a.py": GRAPH + "graph = tell('hi')"}, graphs={graph_id: source, "good": "./a.py:graph"})
    loaded, failures = load(path)
    assert failures[graph_id].type == type_
    assert set(loaded) == {"good"}


# Imports and environment


async def test_neighbours_of_the_config_file_can_be_imported(project: Project) -> None:
    files = {"agent/graph.py": "from next_door import tell\ngraph = tell('hi')", "next_door.py": GRAPH}
    loaded, failures = load(project(files, graphs={"it": "./agent/graph.py:graph"}))
    assert failures == {}
    assert await run(loaded["it"]) == "hi"


async def test_a_file_of_a_package_may_import_its_neighbours_relatively(project: Project) -> None:
    files = {
        "src/my_agent/__init__.py": "",
        "src/my_agent/graph.py": "from .parts import tell\nfrom my_agent import parts\ngraph = tell('hi')",
        "src/my_agent/parts.py": GRAPH,
    }
    loaded, failures = load(project(files, graphs={"it": "./src/my_agent/graph.py:graph"}))
    assert failures == {}
    assert await run(loaded["it"]) == "hi"


def test_a_package_whose_name_is_taken_is_a_failure_that_says_so(project: Project) -> None:
    files = {"json/__init__.py": "", "json/decoder.py": GRAPH + "graph = tell('hi')"}
    _, failures = load(project(files, graphs={"it": "./json/decoder.py:graph"}))
    assert failures["it"].type == "ImportError"
    assert "rename the package" in failures["it"].message


async def test_local_dependencies_and_their_src_folders_can_be_imported(project: Project) -> None:
    files = {"lib/src/in_src.py": GRAPH, "a.py": "from in_src import tell\ngraph = tell('hi')"}
    loaded, _ = load(project(files, graphs={"it": "./a.py:graph"}, dependencies=["./lib", "langchain_openai"]))
    assert await run(loaded["it"]) == "hi"


async def test_a_graph_can_be_named_by_its_module(project: Project) -> None:
    files = {"a_package/__init__.py": "", "a_package/graphs.py": GRAPH + "graph = tell('hi')"}
    loaded, _ = load(project(files, graphs={"it": "a_package.graphs:graph"}, dependencies=["."]))
    assert await run(loaded["it"]) == "hi"


def test_a_file_with_several_graphs_is_imported_once(project: Project) -> None:
    note = "import os\nos.environ['IMPORTED'] = os.environ.get('IMPORTED', '') + 'once'\n"
    files = {"two.py": GRAPH + note + "a = tell('a')\nb = tell('b')"}
    loaded, _ = load(project(files, graphs={"a": "./two.py:a", "b": "./two.py:b"}))
    assert set(loaded) == {"a", "b"}
    assert os.environ["IMPORTED"] == "once"


def test_an_entry_may_have_a_description(project: Project) -> None:
    factory = 'def make():\n    """What the factory says.\n\n    More."""\n'
    text = f'"""What the file says."""\n{GRAPH}\ngraph = tell("hi")\n{factory}'
    graphs = {
        "said": {"path": "./a.py:graph", "description": "What the config says."},
        "file": "./a.py:graph",
        "made": "./a.py:make",
    }
    loaded, _ = load(project({"a.py": text}, graphs=graphs))
    assert loaded["said"].description == "What the config says."
    assert loaded["file"].description == "What the file says."
    assert loaded["made"].description == "What the factory says."


@pytest.mark.parametrize("env", [{"GREETING": "hello", "COUNT": 3}, "my.env"], ids=["object", "file"])
def test_env_is_set_before_the_imports_and_what_is_set_already_stands(
    project: Project, env: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COUNT", "7")
    files = {
        "my.env": "GREETING=hello\nCOUNT=3\n",
        "a.py": GRAPH + "import os\ngraph = tell('hi')\ngreeting = os.environ['GREETING'] + os.environ['COUNT']",
    }
    loaded, failures = load(project(files, graphs={"it": "./a.py:graph"}, env=env))
    assert failures == {}
    assert sys.modules[next(name for name in sys.modules if name.startswith("graph_file_a_"))].greeting == "hello7"
    assert set(loaded) == {"it"}


# The file itself


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not json",
        b"[]",
        b"{}",
        b'{"graphs": []}',
        b'{"graphs": null}',
        b'{"graphs": {"a": 5}}',
        b'{"graphs": {"a": {"description": "no path"}}}',
        b'{"graphs": {}, "dependencies": "."}',
        b'{"graphs": {}, "dependencies": {"a": 1}}',
        b'{"graphs": {}, "env": ["A"]}',
        b'{"graphs": {}, "env": 5}',
    ],
)
def test_a_file_that_is_unusable_is_one_line_that_names_the_setting(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "langgraph.json"
    path.write_bytes(content)
    with pytest.raises(SettingsError) as caught:
        read_graphs_config(path)
    assert str(caught.value).startswith("GRAPHS_CONFIG is wrong: ")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("place", ["nowhere.json", "."])
def test_a_file_that_cannot_be_read_is_one_line_that_names_the_setting(tmp_path: Path, place: str) -> None:
    with pytest.raises(SettingsError, match=r"^GRAPHS_CONFIG is wrong: cannot read .*$"):
        read_graphs_config(tmp_path / place)


@pytest.mark.parametrize(
    "config", [{}, {"dependencies": None, "env": None}, {"env": "missing.env"}, {"dependencies": []}]
)
def test_dependencies_and_env_may_be_left_out(project: Project, config: dict[str, Any]) -> None:
    read = read_graphs_config(project({}, graphs={}, **config))
    assert read == GraphsConfig(folder=read.folder, graphs=[], dependencies=[], env={})
