"""What `--dev` watches, and what a change starts again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.reload import PROJECT, affected, code_folders, watch_code


def graphs_config(folder: Path, *targets: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "langgraph.json"
    config.write_text(json.dumps({"graphs": {f"graph_{index}": target for index, target in enumerate(targets)}}))
    return config


@pytest.mark.parametrize(
    ("file", "processes"),
    [
        ("gateway/routes/jobs.py", {"gateway"}),
        ("worker/runner.py", {"worker"}),
        ("worker/teams/sales.yaml", {"worker"}),
        ("shared/store/jobs.py", {"gateway", "worker"}),
        ("langgraph.json", {"worker"}),
        ("examples/agent.py", {"worker"}),
        (".env", {"gateway", "worker"}),
    ],
)
def test_a_change_starts_again_what_runs_the_code(file: str, processes: set[str]) -> None:
    assert affected(PROJECT / file) == processes


def test_the_folders_of_the_graphs_are_watched(tmp_path: Path) -> None:
    (tmp_path / "agents" / "sales").mkdir(parents=True)
    (tmp_path / "bots").mkdir()
    (tmp_path / "shop").mkdir()
    config = graphs_config(
        tmp_path / "project",
        "../agents/sales/graph.py:graph",
        {"path": "../bots/bot.py:build", "description": "a bot"},
        "missing/graph.py:graph",
    )
    deep, flat = code_folders(config)
    assert deep == {
        *(PROJECT / name for name in ("gateway", "worker", "shared")),
        tmp_path / "agents" / "sales",
        tmp_path / "bots",
    }
    assert tmp_path / "project" in flat


def test_a_graph_that_is_a_module_has_its_package_watched(tmp_path: Path) -> None:
    (tmp_path / "shop" / "agents").mkdir(parents=True)
    deep, _ = code_folders(graphs_config(tmp_path, "shop.agents.support:graph"))
    assert tmp_path / "shop" in deep


def test_a_graph_at_the_top_of_a_project_does_not_have_environments_and_data_watched(tmp_path: Path) -> None:
    for folder in (".venv", "data", "tools"):
        (tmp_path / folder).mkdir()
    (tmp_path / ".venv" / "x.py").touch()
    (tmp_path / "tools" / "search.py").touch()
    deep, flat = code_folders(graphs_config(tmp_path, "./agent.py:graph"))
    assert tmp_path / "tools" in deep
    assert not {tmp_path, tmp_path / ".venv", tmp_path / "data"} & deep
    assert tmp_path in flat


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"graphs": []}', '{"graphs": {"a": 1, "b": {}}}', "\xff"])
def test_a_config_that_cannot_be_read_leaves_the_services_own_code_watched(tmp_path: Path, content: str) -> None:
    config = tmp_path / "langgraph.json"
    config.write_text(content, encoding="latin-1")
    assert PROJECT / "worker" in code_folders(config)[0]
    assert PROJECT / "worker" in code_folders(tmp_path / "none.json")[0]


class Changes:
    """Follows a config's code, and gives the names of the files that changed."""

    def __init__(self, config: Path) -> None:
        self.names: asyncio.Queue[str] = asyncio.Queue()
        self.task = asyncio.create_task(watch_code(config, self.note))

    async def note(self, paths: set[Path]) -> None:
        for path in paths:
            self.names.put_nowait(path.name)

    async def after_writing(self, file: Path, content: str = "x = 1\n") -> str:
        """Write the file, again and again until a change is heard of: the watch may not have begun."""
        async with asyncio.timeout(10):
            while True:
                file.write_text(content)  # noqa: ASYNC240
                try:
                    return await asyncio.wait_for(self.names.get(), 0.5)
                except TimeoutError:
                    continue


@pytest.fixture
async def changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Changes]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "agents").mkdir()
    (tmp_path / "later").mkdir()
    followed = Changes(graphs_config(tmp_path, "./agents/graph.py:graph"))
    yield followed
    followed.task.cancel()
    await asyncio.gather(followed.task, return_exceptions=True)


async def test_python_yaml_the_config_and_the_settings_file_count_and_nothing_else(
    changes: Changes, tmp_path: Path
) -> None:
    assert await changes.after_writing(tmp_path / "agents" / "graph.py") == "graph.py"
    for other in ("notes.txt", "graph.pyc", "graph.py~"):
        (tmp_path / "agents" / other).write_text("x")
    (tmp_path / "later" / "graph.py").write_text("x")
    names = set()
    for file in (tmp_path / "agents" / "team.yaml", tmp_path / ".env"):
        names.add(await changes.after_writing(file))
    assert {"team.yaml", ".env"} <= names <= {"team.yaml", ".env", "graph.py"}


async def test_a_config_that_names_another_folder_has_it_watched_from_then_on(changes: Changes, tmp_path: Path) -> None:
    config = {"graphs": {"graph": "./later/other.py:graph"}}
    assert await changes.after_writing(tmp_path / "langgraph.json", json.dumps(config)) == "langgraph.json"
    while not changes.names.empty():
        changes.names.get_nowait()
    name = await changes.after_writing(tmp_path / "later" / "other.py")
    while name == "langgraph.json":
        name = await changes.after_writing(tmp_path / "later" / "other.py")
    assert name == "other.py"
