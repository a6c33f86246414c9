"""Graphs as their authors wrote them: compiled graphs, `StateGraph`s, and factories of either.

A factory may be a function, a coroutine function or a context manager, async or not, with or without the run's config;
it is called for each run. One that cannot be imported is a `LoadFailure` and stops nothing else.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from hashlib import sha1
from pathlib import Path
from types import ModuleType
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import StateGraph
from langgraph.pregel import Pregel

from shared.jobs import NAME_PATTERN
from worker.graphs.config import GraphsConfig, GraphSpec
from worker.graphs.messages import Convert

AnyGraph = Pregel[Any, Any, Any, Any]
Saver = BaseCheckpointSaver[Any]


@dataclass(frozen=True, slots=True)
class LoadFailure:
    """Why a graph cannot be served."""

    id: str
    type: str
    message: str


@dataclass(slots=True)
class LoadedGraph:
    """A graph that can be served; `open` gives it ready to run."""

    id: str
    description: str
    source: Any
    to_messages: Convert = lambda values: values  # the input with its messages as LangChain's
    _compiled: AnyGraph | None = None

    @asynccontextmanager
    async def open(self, config: RunnableConfig, saver: Saver | None = None) -> AsyncIterator[AnyGraph]:
        """The compiled graph with this run's saver in place of its author's."""
        if not _is_factory(self.source):
            if self._compiled is None:
                self._compiled = _compiled(self.source)
            yield _with_saver(self._compiled, saver)
            return
        made = self.source(config) if _takes_config(self.source) else self.source()
        if inspect.isawaitable(made):
            made = await made
        raised: BaseException | None = None
        async with AsyncExitStack() as resources:
            if isinstance(made, AbstractAsyncContextManager):
                made = await resources.enter_async_context(made)
            elif isinstance(made, AbstractContextManager):
                made = resources.enter_context(made)
            try:
                yield _with_saver(_compiled(made), saver)
            except BaseException as error:
                raised = error
                raise
        if raised is not None:  # the author's context manager swallowed it: the run has failed nevertheless
            raise raised


def load_graphs(config: GraphsConfig) -> tuple[list[LoadedGraph], list[LoadFailure]]:
    """Import every graph of the config; what fails is told apart from what can be served."""
    config.prepare_imports()
    loaded: list[LoadedGraph] = []
    failures: list[LoadFailure] = []
    for spec in config.graphs:
        try:
            loaded.append(_load(config.folder, spec))
        except (Exception, SystemExit) as error:
            failures.append(LoadFailure(spec.id, type(error).__name__, str(error)))
    return loaded, failures


def _load(folder: Path, spec: GraphSpec) -> LoadedGraph:
    if not re.fullmatch(NAME_PATTERN, spec.id):
        raise ValueError("a graph's id has letters, digits, dot, dash and underscore only, 128 at most")
    place, _, attribute = spec.source.rpartition(":")
    if not place or not attribute:
        raise ValueError(f'"{spec.source}" is not "./file.py:name" or "package.module:name"')
    module = _import_file(folder / place) if place.endswith(".py") else importlib.import_module(place)
    source = getattr(module, attribute)
    if not isinstance(source, StateGraph | Pregel) and not callable(source):
        raise TypeError(f"{spec.source} is a {type(source).__name__}, not a graph or a function that makes one")
    described = spec.description or _first_line(source) or _first_line(module) or ""
    return LoadedGraph(spec.id, described, source)


def _import_file(path: Path) -> ModuleType:
    """Import a file by its path, once: as a part of its package, or else under a name that no package can have."""
    path = path.resolve()
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    for module in list(sys.modules.values()):
        if getattr(module, "__dict__", {}).get("__file__") == str(path):
            return module
    if (path.parent / "__init__.py").is_file():
        return _import_from_package(path)
    name = f"graph_file_{path.stem}_{sha1(str(path).encode(), usedforsecurity=False).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _import_from_package(path: Path) -> ModuleType:
    """Import a file that may import its neighbours by `from . import …`."""
    name, root = path.stem, path.parent
    while (root / "__init__.py").is_file():
        name, root = f"{root.name}.{name}", root.parent
    if str(root) not in sys.path:
        sys.path.append(str(root))
    module = importlib.import_module(name)
    if module.__file__ != str(path):
        raise ImportError(f"{name} is {module.__file__}, which comes before {path}: rename the package")
    return module


def _compiled(graph: Any) -> AnyGraph:
    compiled = graph.compile() if isinstance(graph, StateGraph) else graph
    if not isinstance(compiled, Pregel):
        raise TypeError(f"the factory made a {type(graph).__name__}, not a graph")
    return compiled


def _with_saver(compiled: AnyGraph, saver: Saver | None) -> AnyGraph:
    """The same graph, made for this run: `Pregel.copy` would set all of it up again."""
    own = copy.copy(compiled)
    own.checkpointer = saver
    return own


def _is_factory(source: Any) -> bool:
    return not isinstance(source, StateGraph | Pregel)


def _takes_config(factory: Callable[..., Any]) -> bool:
    """Whether the first parameter is the config: called or annotated so, or without a default of its own."""
    first = next(iter(inspect.signature(factory).parameters.values()), None)
    if first is None or first.kind not in (first.POSITIONAL_ONLY, first.POSITIONAL_OR_KEYWORD):
        return False
    return first.default is first.empty or first.name == "config" or "RunnableConfig" in str(first.annotation)


def _first_line(documented: Any) -> str | None:
    """The first line of what the author wrote; LangGraph's classes have docstrings that say nothing of this graph."""
    if isinstance(documented, StateGraph | Pregel):
        return None
    text = inspect.getdoc(documented)
    return text.splitlines()[0].strip() if text else None
