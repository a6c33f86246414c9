"""A client as a user would write one: submits jobs over HTTP, waits for them, lists them."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import httpx


class Client:
    """Speaks to the gateway at `api` over up to `connections` connections."""

    def __init__(self, api: str, connections: int = 32) -> None:
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
        self.http = httpx.Client(base_url=api, timeout=70, trust_env=False, limits=limits)
        self.connections = connections

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def submit(self, graph: str, input: Any, **fields: Any) -> str:
        """The id of an accepted job."""
        answer = self.http.post("/jobs", json={"graph": graph, "input": input, **fields})
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def job(self, job_id: str, wait: float = 0) -> dict[str, Any]:
        """The record, after at most `wait` seconds."""
        answer = self.http.get(f"/jobs/{job_id}", params={"wait": wait} if wait else None)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def run(self, graph: str, input: Any, **fields: Any) -> dict[str, Any]:
        """Submit a job and wait for its end."""
        return self.job(self.submit(graph, input, **fields), wait=30)

    def submit_all(self, graph: str, inputs: Sequence[Any]) -> list[str]:
        """Submit over all connections at once."""
        with ThreadPoolExecutor(self.connections) as threads:
            return list(threads.map(lambda one: self.submit(graph, one), inputs))

    def wait_all(self, job_ids: Sequence[str], wait: float = 60) -> list[dict[str, Any]]:
        """Wait for all, over all connections."""
        with ThreadPoolExecutor(self.connections) as threads:
            return list(threads.map(lambda job_id: self.job(job_id, wait), job_ids))

    def graphs(self) -> set[str]:
        """The graphs that some live worker serves."""
        items = self.http.get("/workers").json()["items"]
        return {graph for worker in items for graph in worker["graphs"]}
