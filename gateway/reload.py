"""Word of code changes for `--dev`: what to watch, and which of its processes runs the code that changed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

from watchfiles import Change, DefaultFilter, awatch

PROJECT = Path(__file__).resolve().parent.parent
GATEWAY = "gateway"
WORKER = "worker"
SETTINGS_FILE = ".env"
CODE_SUFFIXES = {".py", ".yaml", ".yml"}
SETTLE_MS = 200


def affected(path: Path) -> set[str]:
    """The processes that run what this file holds."""
    if PROJECT / "gateway" in path.parents:
        return {GATEWAY}
    if PROJECT / "shared" in path.parents or path.name == SETTINGS_FILE:
        return {GATEWAY, WORKER}
    return {WORKER}


def code_folders(graphs_config: Path) -> tuple[set[Path], set[Path]]:
    """The folders to watch with all below them, and those of which only the files in them matter."""
    home = graphs_config.parent
    deep = {PROJECT / name for name in ("gateway", "worker", "shared")}
    flat = {home, Path.cwd()}
    for target in _graph_targets(graphs_config):
        source = target.partition(":")[0]  # "./agents/support.py:graph" or "agents.support:graph"
        is_file = "/" in source or source.endswith(".py")
        folder = (home / source).resolve().parent if is_file else home / source.split(".")[0]
        if folder not in (home, *home.parents):
            deep.add(folder)
        elif folder.is_dir():
            # Such a folder is likely to hold environments and data too: of what lies below, only packages are watched.
            flat.add(folder)
            deep |= {child for child in folder.iterdir() if child.name[0] != "." and any(child.glob("*.py"))}
    return {folder for folder in deep if folder.is_dir()}, flat


def _graph_targets(graphs_config: Path) -> list[str]:
    """What the graphs of the config point to. Nothing where it cannot be read: the worker says so better."""
    try:
        graphs = json.loads(graphs_config.read_bytes())["graphs"].values()
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return []
    targets = [graph.get("path") if isinstance(graph, dict) else graph for graph in graphs]
    return [target for target in targets if isinstance(target, str)]


async def watch_code(graphs_config: Path, changed: Callable[[set[Path]], Awaitable[None]]) -> None:
    """Call `changed` with the files each time some have changed. Raises `OSError` where the system cannot watch them.

    `graphs_config` is absolute.
    """
    is_ordinary = DefaultFilter()

    def is_code(change: Change, path: str) -> bool:
        file = Path(path)
        named = file.name == SETTINGS_FILE or file == graphs_config
        return is_ordinary(change, path) and (named or file.suffix in CODE_SUFFIXES)

    async def follow(folders: set[Path], *, recursive: bool, until: asyncio.Event) -> None:
        async for changes in awatch(
            *folders, recursive=recursive, stop_event=until, watch_filter=is_code, debounce=SETTLE_MS
        ):
            paths = {Path(path) for _, path in changes}
            if graphs_config in paths:
                until.set()
            await changed(paths)

    while True:
        config_changed = asyncio.Event()  # it may name other folders now
        deep, flat = code_folders(graphs_config)
        await asyncio.gather(
            follow(deep, recursive=True, until=config_changed), follow(flat, recursive=False, until=config_changed)
        )
