"""What it looks like when the threads' database is away, and what follows for the jobs that need it."""

from __future__ import annotations

import random
from collections.abc import Iterator

# By name, for the drivers are not loaded before the first thread: of sqlite3, psycopg and its pool.
OUTAGE_NAMES = {"OperationalError", "InterfaceError"}
SHORTEST_WAIT_SECONDS = 1.0
LONGEST_WAIT_SECONDS = 60.0


class ThreadsAway(ConnectionError):
    """The threads' database cannot be reached: the job is to be tried again after `retry_seconds`."""

    def __init__(self, reason: str, away_seconds: float) -> None:
        super().__init__(f"the threads' database cannot be reached ({reason})")
        # Half as long again as it has been away, and apart from one another: waiting jobs must not keep workers busy.
        longest = min(max(away_seconds / 2, SHORTEST_WAIT_SECONDS), LONGEST_WAIT_SECONDS)
        self.retry_seconds = random.uniform(longest / 2, longest)  # noqa: S311 - spreads load, guards nothing


class NotBegun(Exception):
    """The threads' database went away before a node of this attempt was started: it costs no try."""

    def __init__(self, away: ThreadsAway) -> None:
        super().__init__(str(away))
        self.retry_seconds = away.retry_seconds


def is_outage(error: BaseException) -> bool:
    """Whether a driver's error says that the database is away, not that it was asked something wrong."""
    return isinstance(error, OSError | TimeoutError) or bool(
        OUTAGE_NAMES & {kind.__name__ for kind in type(error).__mro__}
    )


def is_locked(error: BaseException) -> bool:
    """Whether SQLite has waited in vain for another process to let go of the file."""
    return "database is locked" in str(error) or "database table is locked" in str(error)


def outage_behind(error: BaseException) -> ThreadsAway | None:
    """The outage that an error comes from, also where a node has wrapped it."""
    return next((cause for cause in _causes(error) if isinstance(cause, ThreadsAway)), None)


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    seen: set[int] = set()
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__
