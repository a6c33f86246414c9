"""Wrong API keys, counted by address: whoever tries many is told to wait, and whoever has a right one is not."""

from __future__ import annotations

import math
import time
from collections import OrderedDict

MOST = 20
WINDOW_SECONDS = 60.0
MAX_ADDRESSES = 10_000


class Failures:
    """The failures of this process in the last minute. Of more addresses than it keeps the oldest are forgotten."""

    def __init__(self) -> None:
        self._counts: OrderedDict[str, tuple[float, int]] = OrderedDict()  # since when, and how many

    def note(self, address: str) -> int:
        """Count one more. Gives 0, or the seconds to wait where there were too many."""
        now = time.monotonic()
        since, count = self._counts.get(address, (now, 0))
        if now - since >= WINDOW_SECONDS:
            since, count = now, 0
            self._counts.pop(address, None)
        self._counts[address] = since, count + 1
        while len(self._counts) > MAX_ADDRESSES:
            self._counts.popitem(last=False)
        return 0 if count < MOST else max(math.ceil(since + WINDOW_SECONDS - now), 1)
