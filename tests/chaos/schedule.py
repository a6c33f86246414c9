"""Doing things at their time."""

from __future__ import annotations

import time
from collections.abc import Callable


def play(*actions: tuple[float, Callable[[], object]]) -> None:
    """Do each thing at its time, in seconds from now."""
    begun = time.monotonic()
    for at, act in sorted(actions, key=lambda action: action[0]):
        time.sleep(max(0.0, begun + at - time.monotonic()))
        act()
