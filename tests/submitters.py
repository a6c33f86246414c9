"""Clients that submit jobs over HTTP without a pause, and keep what they were told."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Self

import httpx

from tests.servers import Gateway


class Refusal:
    """An answer that was not a 202: when it came, after how many seconds, and what it said."""

    def __init__(self, answer: httpx.Response, seconds: float) -> None:
        self.at = time.monotonic()
        self.seconds = seconds
        self.told = answer.status_code, str(answer.json()["code"]), "retry-after" in answer.headers


class Submitters:
    """Threads that submit `echo` jobs to these gateways, each over a connection of its own, within a `with` block."""

    def __init__(self, gateways: Sequence[Gateway], count: int = 8, pause: float = 0.02) -> None:
        self.gateways = gateways
        self.pause = pause
        self.accepted: list[str] = []
        self.refused: list[Refusal] = []
        self.broken: list[str] = []  # no answer at all
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._submit, args=(number,)) for number in range(count)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def client(self, number: int) -> httpx.Client:
        """What a thread sends by."""
        gateway = self.gateways[number % len(self.gateways)]
        return httpx.Client(base_url=gateway.url, timeout=30, trust_env=False)

    def _submit(self, number: int) -> None:
        with self.client(number) as http:
            while not self._stopping.is_set():
                asked_at = time.monotonic()
                try:
                    answer = http.post("/api/v1/jobs", json={"graph": "echo", "input": {"value": number}})
                except httpx.HTTPError as error:
                    self.broken.append(repr(error))
                    continue
                if answer.status_code == 202:
                    self.accepted.append(answer.json()["id"])
                else:
                    self.refused.append(Refusal(answer, time.monotonic() - asked_at))
                time.sleep(self.pause)
