"""Why an attempt failed, and whether another try could help.

Retryable are time-outs, broken connections, a database that is away, too many open files, and a provider's 408, 409,
425, 429 and 5xx; everything else is the graph's or the client's fault and fails at once.
"""

from __future__ import annotations

import errno
import math
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from arq import Retry
from langchain_core.exceptions import ModelError

from shared.jobs import JobError
from shared.secrets import masked
from worker.encoding import readable

RETRYABLE_STATUS = {408, 409, 425, 429}
# By name, for their libraries may not be loaded.
RETRYABLE_NAMES = {
    "OperationalError",  # sqlite3, psycopg
    "APIConnectionError",  # openai
    "TransportError",  # httpx
    "ConnectionError",  # requests, redis-py
    "Timeout",  # requests
    "ClientConnectionError",  # aiohttp
    "gaierror",  # a host's name that cannot be looked up
}
OUT_OF_FILES = {errno.EMFILE, errno.ENFILE}
LONGEST_BACKOFF_SECONDS = 300.0
LONGEST_RETRY_AFTER_SECONDS = 3600.0
MESSAGE_LIMIT = 4096
_NODE_NOTE = re.compile(r"During task with name '([^']+)'")


@dataclass(frozen=True, slots=True)
class Failure:
    """An error as the job's record shows it, and how long its source asked to be left alone, if it did."""

    error: JobError
    retry_after_seconds: float | None = None


def describe_failure(error: BaseException) -> Failure:
    """Sort an exception that came out of a graph."""
    retry_after = _retry_after(error)
    return Failure(
        JobError(
            type=type(error).__name__,
            code=_code(error),
            message=(masked(readable(error)) or type(error).__name__)[:MESSAGE_LIMIT],
            node=_node(error),
            retryable=is_retryable(error),
        ),
        retry_after,
    )


def is_retryable(error: BaseException) -> bool:
    """Whether another try could help."""
    if isinstance(error, TimeoutError | ConnectionError | Retry):
        return True
    if isinstance(error, OSError) and error.errno in OUT_OF_FILES:
        return True
    status = _status(error)
    if status is not None:
        return status in RETRYABLE_STATUS or 500 <= status <= 599
    if isinstance(error, ModelError):
        return error.is_retryable
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & RETRYABLE_NAMES)


def backoff_seconds(tries: int, retry_after_seconds: float | None) -> float:
    """How long to wait after try number `tries`: exponential with full jitter, and never less than was asked for."""
    ceiling = min(LONGEST_BACKOFF_SECONDS, 2.0 ** min(tries, 16))
    jittered = random.uniform(0, ceiling)  # noqa: S311 - spreads load, guards nothing
    return jittered if retry_after_seconds is None else retry_after_seconds + jittered / 4


def _code(error: BaseException) -> str:
    if type(error).__name__ == "GraphRecursionError":
        return "limit_exceeded"
    if isinstance(error, TimeoutError):
        return "timeout"
    if _status(error) is not None or isinstance(error, ModelError):
        return "provider_error"
    if isinstance(error, Retry):
        return "graph_error"
    return "connection_error" if is_retryable(error) else "graph_error"


def _status(error: BaseException) -> int | None:
    """The HTTP status that an error of a client library carries."""
    for holder in (error, getattr(error, "response", None)):
        status = getattr(holder, "status_code", None)
        if isinstance(status, int):
            return status
    return None


def _retry_after(error: BaseException) -> float | None:
    """Seconds from arq's `Retry(defer)` or an answer's `Retry-After` (seconds or a date, RFC 9110 section 10.2.3)."""
    if isinstance(error, Retry):
        return None if error.defer_score is None else error.defer_score / 1000
    headers = getattr(getattr(error, "response", None), "headers", None)
    value = headers.get("retry-after") if headers is not None else None
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return None
    return None if math.isnan(seconds) else min(max(seconds, 0.0), LONGEST_RETRY_AFTER_SECONDS)


def _node(error: BaseException) -> str | None:
    """The node that raised, from the note that LangGraph adds to an exception."""
    return next((found for note in _notes(error) for found in _NODE_NOTE.findall(note)), None)


def _notes(error: BaseException) -> Iterator[str]:
    cause: BaseException | None = error
    seen: set[int] = set()
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield from getattr(cause, "__notes__", ())
        cause = cause.__cause__
