"""Clients of a machine that goes through something: they submit all the time, and repeat what got no answer."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import Self
from uuid import uuid4

import httpx

from tests.deploy.machine import Machine

ENOUGH = 20  # jobs, for what they show to be no chance


class Load:
    """Threads that submit `counted` jobs to a machine within a `with` block, each job until it is accepted.

    `accepted` has the id of each job by the name that it was submitted under; `failed` counts what was no 202: such a
    job is sent again with the same `Idempotency-Key`, as a client should.
    """

    def __init__(self, machine: Machine, *, clients: int = 2, pause: float = 0.04, url: str = "") -> None:
        self.machine = machine
        self.url = url or machine.api
        self.lines = machine.folder / f"runs-{uuid4().hex[:8]}.txt"
        self.lines.touch()
        self.accepted: dict[str, str] = {}
        self.failed: Counter[str] = Counter()
        self._pause = pause
        self._asked = threading.Event()
        self._threads = [threading.Thread(target=self._submit) for _ in range(clients)]

    def _submit(self) -> None:
        headers = {"Authorization": f"Bearer {self.machine.api_key}"}
        with httpx.Client(base_url=self.url, headers=headers, timeout=30, trust_env=False, verify=False) as http:  # noqa: S501 - self-made
            while not self._asked.wait(self._pause):
                name = uuid4().hex
                while name not in self.accepted:
                    if (answer := self._once(http, name)) is not None:
                        self.accepted[name] = answer
                    else:
                        time.sleep(0.1)

    def _once(self, http: httpx.Client, name: str) -> str | None:
        job = {"graph": "counted", "input": {"file": str(self.lines), "name": name}}
        try:
            answer = http.post("/jobs", json=job, headers={"Idempotency-Key": name})
        except httpx.HTTPError as error:
            self.failed[type(error).__name__] += 1
            return None
        if answer.status_code != 202:
            self.failed[str(answer.status_code)] += 1
            return None
        return str(answer.json()["id"])

    def check_all_ran(self) -> None:
        """Each accepted job has succeeded, and none was left out. Raises `AssertionError`."""
        assert len(self.accepted) > ENOUGH, self.failed
        with self.machine.client() as client:
            ended = client.wait_all(list(self.accepted.values()))
        assert Counter(job["status"] for job in ended) == {"succeeded": len(self.accepted)}
        assert len(set(self.accepted.values())) == len(self.accepted)

    def __enter__(self) -> Self:
        assert self.machine.api_key
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._asked.set()
        for thread in self._threads:
            thread.join()
