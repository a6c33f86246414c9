"""Wrong API keys, counted by address: whoever tries many is told to wait, and whoever has a right one is not."""

from __future__ import annotations

import math
import time
from collections import OrderedDict

import structlog

logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)
MOST = 20
WINDOW_SECONDS = 60.0
MAX_ADDRESSES = 10_000
MAX_LINES = 1_000  # in a window, of all addresses together: a flood must not fill the disk


class Failures:
    """The failures of this process in the last minute. Of more addresses than it keeps the oldest are forgotten."""

    def __init__(self) -> None:
        self._counts: OrderedDict[str, tuple[float, int]] = OrderedDict()  # since when, and how many
        self._lines = 0
        self._lines_since = float("-inf")

    def note(self, address: str) -> int:
        """Count one more, and log it. Gives 0, or, not logged, the seconds to wait where there were too many."""
        now = time.monotonic()
        since, count = self._counts.get(address, (now, 0))
        if now - since >= WINDOW_SECONDS:
            since, count = now, 0
            self._counts.pop(address, None)
        self._counts[address] = since, count + 1
        while len(self._counts) > MAX_ADDRESSES:
            self._counts.popitem(last=False)
        if count >= MOST:
            return max(math.ceil(since + WINDOW_SECONDS - now), 1)
        self._log(address, now)
        return 0

    def _log(self, address: str, now: float) -> None:
        if now - self._lines_since >= WINDOW_SECONDS:
            self._lines, self._lines_since = 0, now
        self._lines += 1
        if self._lines <= MAX_LINES:
            # deploy/fail2ban reads this line, from its first character to its last.
            logger.warning("API key refused", client=address)
        elif self._lines == MAX_LINES + 1:
            logger.warning("more API keys are refused: not logged for the rest of a minute", lines=MAX_LINES)
