"""Whether a backup is whole: its pieces load, and what Redis says of the threads is found in their database."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import redis

from shared.backup.errors import BackupError
from shared.backup.scratch import LOADS_ONLY, scratch_server
from shared.store.census import count_all, pinned, thread_heads, thread_name

PAGE = 1000
SNAPSHOT = "dump.rdb"
Row = tuple[str, str, str]
"""Thread, namespace and id of a checkpoint."""


@dataclass
class Found:
    """What a backup has in it: `counts` by name, and the threads that its Redis does not know of yet."""

    counts: dict[str, int] = field(default_factory=dict)
    begun_since: list[str] = field(default_factory=list)


def look_into(
    snapshot: BinaryIO | None, rows: Callable[[], Iterable[Row]] | None, unpinned: set[str], *, db: int = 0
) -> Found:
    """Load the snapshot, read all checkpoints, and compare them. Raises `BackupError` where something is missing.

    The database was read after Redis. So a thread that Redis never heard of began in between, and its jobs will run
    (again): it counts as `begun_since`, but for those that were `unpinned` before.
    """
    if snapshot is None:
        found = Found()
        if rows is not None:
            found.counts["checkpoints"] = sum(1 for _ in rows())
        return found
    with loaded(snapshot, db) as client:
        found = Found(count_all(client))
        if rows is not None:
            _compare(client, rows(), unpinned, found)
    return found


@contextmanager
def loaded(snapshot: BinaryIO, db: int) -> Iterator[redis.Redis]:
    """A server that has loaded this snapshot, which it gets as a copy: nothing else is written."""
    with tempfile.TemporaryDirectory(prefix="mas-check-") as folder:
        with Path(folder, SNAPSHOT).open("wb") as copy:
            shutil.copyfileobj(snapshot, copy, 1 << 20)
        with scratch_server(Path(folder), {"dbfilename": SNAPSHOT, **LOADS_ONLY}, db=db) as client:
            yield client


def _compare(client: redis.Redis, rows: Iterable[Row], unpinned: set[str], found: Found) -> None:
    missing = {(name, space): point for name, heads in thread_heads(client) for space, point in heads.items()}
    threads: set[str] = set()
    checkpoints = 0
    for thread, space, point in rows:
        checkpoints += 1
        threads.add(thread)
        place = (thread_name(thread), space)
        if missing.get(place) == point:
            del missing[place]
    if missing:
        raise BackupError(
            f"{len(missing)} threads stand at checkpoints that their database lacks: it and Redis are not of one backup"
        )
    found.counts["checkpoints"] = checkpoints
    found.begun_since = sorted(_not_pinned(client, threads - unpinned))


def not_pinned(client: redis.Redis, threads: Iterable[str]) -> list[str]:
    """Those of these threads that Redis never heard of."""
    return sorted(_not_pinned(client, threads))


def _not_pinned(client: redis.Redis, threads: Iterable[str]) -> Iterator[str]:
    left = iter(threads)
    while page := list(islice(left, PAGE)):
        yield from (thread for thread, known in zip(page, pinned(client, page), strict=True) if not known)
