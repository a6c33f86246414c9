"""`langgraph.json`, the LangGraph ecosystem's own file: which graphs there are and what they need to be imported."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from dotenv import dotenv_values

from shared.settings import SettingsError


@dataclass(frozen=True, slots=True)
class GraphSpec:
    """One entry of `graphs`: `source` is `./path/file.py:attribute` or `package.module:attribute`."""

    id: str
    source: str
    description: str | None = None


@dataclass(frozen=True, slots=True)
class GraphsConfig:
    """What a `langgraph.json` says. `folder` is where it lies: its paths are relative to that."""

    folder: Path
    graphs: list[GraphSpec]
    dependencies: list[str]
    env: dict[str, str]

    def prepare_imports(self) -> None:
        """Make local dependencies importable and set `env`, without touching what the environment sets already."""
        local = [self.folder / name for name in self.dependencies if name.startswith(".")]
        for folder in [self.folder, *local, *(path / "src" for path in local)]:
            if folder.is_dir() and str(folder.resolve()) not in sys.path:
                sys.path.append(str(folder.resolve()))
        for name, value in self.env.items():
            os.environ.setdefault(name, value)


def read_graphs_config(path: Path) -> GraphsConfig:
    """Read a `langgraph.json`. Raises `SettingsError` where the file itself is unusable."""
    try:
        content = orjson.loads(path.read_bytes())
    except OSError as error:
        raise SettingsError(f"GRAPHS_CONFIG is wrong: cannot read {path}: {error.strerror}") from None
    except orjson.JSONDecodeError as error:
        raise SettingsError(f"GRAPHS_CONFIG is wrong: {path} is not JSON: {error}") from None
    if not isinstance(content, dict) or not isinstance(content.get("graphs"), dict):
        raise SettingsError(f'GRAPHS_CONFIG is wrong: {path} needs "graphs": {{"id": "./file.py:graph"}}')
    dependencies, env = content.get("dependencies") or [], content.get("env") or {}
    if not isinstance(dependencies, list) or not isinstance(env, dict | str):
        wanted = '"dependencies" as a list, "env" as a file\'s name or an object'
        raise SettingsError(f"GRAPHS_CONFIG is wrong: {path} needs {wanted}")
    folder = path.resolve().parent
    return GraphsConfig(
        folder=folder,
        graphs=[_spec(path, graph_id, entry) for graph_id, entry in content["graphs"].items()],
        dependencies=[str(name) for name in dependencies],
        env=_env(folder, env),
    )


def _spec(path: Path, graph_id: str, entry: Any) -> GraphSpec:
    if isinstance(entry, str):
        return GraphSpec(graph_id, entry)
    if isinstance(entry, dict) and isinstance(entry.get("path"), str):
        description = entry.get("description")
        return GraphSpec(graph_id, entry["path"], None if description is None else str(description))
    wanted = 'must be "./file.py:name" or have a "path"'
    raise SettingsError(f'GRAPHS_CONFIG is wrong: graph "{graph_id}" in {path} {wanted}')


def _env(folder: Path, env: dict[str, Any] | str) -> dict[str, str]:
    if isinstance(env, str):
        return {name: value for name, value in dotenv_values(folder / env).items() if value is not None}
    return {str(name): str(value) for name, value in env.items()}
