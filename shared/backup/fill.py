"""Fill a Redis on another machine with what a snapshot has, key by key, in the server's own form."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import BinaryIO

import redis
from redis.exceptions import ResponseError

from shared.backup.check import loaded
from shared.backup.errors import BackupError
from shared.store.census import count_all, live_workers
from shared.store.connection import connect_sync
from shared.store.errors import store_errors

ANSWER_SECONDS = 60.0
PAGE = 200


def in_use(url: str) -> tuple[bool, int]:
    """Whether this database has any key, and how many workers are alive in it."""
    with store_errors(), connect_sync(url, answer_within=ANSWER_SECONDS) as target:
        return bool(target.dbsize()), live_workers(target)


def fill(snapshot: BinaryIO, url: str, *, db: int) -> None:
    """Put what the snapshot has in the place of all keys of this database. Raises `BackupError` and `StoreError`s."""
    with store_errors(), loaded(snapshot, db) as source, connect_sync(url, answer_within=ANSWER_SECONDS) as target:
        if workers := live_workers(target):
            raise BackupError(f"{workers} workers are alive in this Redis: stop them first")
        target.flushdb()
        for keys in _pages(source.scan_iter(count=1000)):
            _copy(source, target, keys)
        if count_all(source) != count_all(target):
            raise BackupError("this Redis did not take all that the snapshot has: is it used by something else?")


def _copy(source: redis.Redis, target: redis.Redis, keys: list[bytes]) -> None:
    reading = source.pipeline(transaction=False)
    for name in keys:
        reading.dump(name)
        reading.pttl(name)
    answers = reading.execute()
    writing = target.pipeline(transaction=False)
    for name, dumped, ttl in zip(keys, answers[::2], answers[1::2], strict=True):
        if dumped is not None:  # else it has just expired
            writing.restore(name, max(ttl, 0), dumped, replace=True)
    try:
        writing.execute()
    except ResponseError as error:
        raise BackupError(f"this Redis does not take a key of the snapshot: {str(error)[:200]}") from None


def _pages(keys: Iterator[bytes]) -> Iterator[list[bytes]]:
    while page := list(islice(keys, PAGE)):
        yield page
