"""What a process has in memory while a test loads it."""

from __future__ import annotations

import threading

import psutil

MB = 1_000_000


class Memory:
    """What a process has in memory, and the most it has had while it was watched."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self.before = self.peak = self.now
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    @property
    def now(self) -> float:
        """In MB."""
        return float(self._process.memory_info().rss) / MB

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        print(f"before {self.before:.0f} MB, peak {self.peak:.0f} MB, after {self.now:.0f} MB")

    def _watch(self) -> None:
        while not self._done.wait(0.02):
            self.peak = max(self.peak, self.now)
