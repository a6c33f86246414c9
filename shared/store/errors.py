"""What can go wrong with Redis, as the rest of the project sees it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from redis.exceptions import (
    ConnectionError,
    InvalidResponse,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    TimeoutError,
)

WAIT_ON_REPLICA = "WAIT cannot be used with replica"  # the master has just become one


class StoreError(Exception):
    """Redis did not do what was asked; nothing was half-written."""


class StoreUnavailable(StoreError):
    """Redis cannot be reached, or is not ready: try again soon."""


class NotReplicated(StoreUnavailable):
    """The master did it, but fewer replicas than `WAIT_REPLICAS` said in time that they have it: repeat the call.

    The scripts bear that: the repetition says what became of it, and waits for the replicas again.
    """


class StoreFull(StoreError):
    """Redis refused the write: its memory or its disk is full."""


class EarlierWriteLost(Exception):
    """A write builds on one that a fail-over has lost: nothing was written, and all has to be sent."""


@contextmanager
def store_errors() -> Iterator[None]:
    """Turn redis-py's errors into `StoreUnavailable` and `StoreFull`; bugs in our scripts stay what they are."""
    try:
        yield
    except (RedisError, OSError) as error:
        known = translated(error)
        if known is error:
            raise
        raise known from error


def translated(error: Exception) -> Exception:
    """The store's error for one of redis-py's, or the error itself where it is none of ours."""
    text = str(error) or type(error).__name__
    if isinstance(error, OutOfMemoryError) or text.startswith("MISCONF"):
        return StoreFull(text)
    if isinstance(error, (ConnectionError, TimeoutError, InvalidResponse, ReadOnlyError, OSError)):
        return StoreUnavailable(text)
    # UNBLOCKED is what a blocking read is told when its server becomes a replica.
    if text.startswith(("MASTERDOWN", "CLUSTERDOWN", "NOREPLICAS", "UNBLOCKED", WAIT_ON_REPLICA)):
        return StoreUnavailable(text)
    return error
