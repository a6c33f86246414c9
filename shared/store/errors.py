"""What can go wrong with Redis, as the rest of the project sees it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from redis.exceptions import BusyLoadingError, ConnectionError, ReadOnlyError, ResponseError, TimeoutError


class StoreError(Exception):
    """Redis did not do what was asked; nothing was half-written."""


class StoreUnavailable(StoreError):
    """Redis cannot be reached, or is not ready: try again soon."""


class StoreFull(StoreError):
    """Redis refused the write: its memory or its disk is full."""


@contextmanager
def store_errors() -> Iterator[None]:
    """Turn redis-py's errors into `StoreUnavailable` and `StoreFull`; bugs in our scripts stay what they are."""
    try:
        yield
    except (ConnectionError, TimeoutError, BusyLoadingError, ReadOnlyError, OSError) as error:
        raise StoreUnavailable(str(error) or type(error).__name__) from error
    except ResponseError as error:
        raise translated(error) from error


def translated(error: ResponseError) -> Exception:
    """The store's error for an error reply of Redis, or the reply itself where it is none of ours."""
    text = str(error)
    if "OOM" in text.split(":")[0] or "OOM command not allowed" in text or "MISCONF" in text:
        return StoreFull(text)
    if text.startswith(("MASTERDOWN", "CLUSTERDOWN", "NOREPLICAS")):
        return StoreUnavailable(text)
    return error
