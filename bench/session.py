"""One run of the benchmark: how often, with how many jobs, on which Valkey; and the words for what goes on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Session:
    """`url` is a Valkey with `appendfsync always`, which each measurement may empty; `folder` is for logs and data."""

    url: str
    folder: Path
    repeats: int
    jobs: int
    waiting: int

    def rounds(self) -> Iterator[int]:
        """Counts the rounds, and says how long each took."""
        for number in range(self.repeats):
            started = time.perf_counter()
            yield number
            print(f"  round {number + 1} of {self.repeats}: {time.perf_counter() - started:.0f} s", flush=True)
