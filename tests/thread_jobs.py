"""Jobs of one thread over HTTP, each with its trace."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.acceptance.conftest import Service
from tests.servers import wait_until
from tests.traced import Trace


class Thread:
    """A thread of its own for each test, and the jobs that are submitted to it, each with its trace."""

    def __init__(self, service: Service, name: str, folder: Path) -> None:
        self.client = service.client
        self.name = name
        self.folder = folder
        self.traces: dict[str, Trace] = {}

    def submit(self, graph: str = "traced", hold: Sequence[str] = (), *, input: Any = None, **fields: Any) -> str:
        """The id of an accepted job."""
        trace = Trace(self.folder / f"{self.name} {len(self.traces)}")
        given = trace.input(hold=hold, **(input or {}))
        job_id = self.client.submit(graph, given, thread_id=self.name, **fields)
        self.traces[job_id] = trace
        return job_id

    def has_started(self, job_id: str, step: str = "first") -> None:
        wait_until(lambda: step in self.traces[job_id].steps, what=f"{step} of {job_id}")

    def let(self, job_id: str, *steps: str) -> None:
        self.traces[job_id].let(*steps)

    def post(self, job_id: str, call: str, body: Any = None) -> tuple[int, str]:
        """The status of the answer, and the code of a problem."""
        answer = self.client.http.post(f"/jobs/{job_id}/{call}", json=body)
        return answer.status_code, answer.json().get("code", "")

    def in_turn(self, *job_ids: str) -> list[dict[str, Any]]:
        """The jobs once they have ended: each was started when the one before had ended, and not before."""
        jobs = [self.client.job(job_id, wait=30) for job_id in job_ids]
        for ahead, job in pairwise(jobs):
            assert ahead["finished_at"] is not None, ahead
            assert job["started_at"] is not None, job
            assert ahead["finished_at"] <= job["started_at"], (ahead, job)
        return jobs
