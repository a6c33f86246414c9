"""The master is lost under load: three sentinels promote a replica, and gateway and workers follow by themselves."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.acceptance.conftest import GRAPHS
from tests.clients import Client
from tests.sentinels import FAILOVER_SECONDS, Sentinels
from tests.servers import Process, Processes, wait_until

LEASE_SECONDS = 2.0
CLIENTS = 4


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Sentinels]:
    servers = Sentinels(tmp_path / "group", password="q-secret", sentinel_password="r-secret")
    try:
        yield servers.start()
    finally:
        servers.stop()


class Load:
    """Clients that submit counted jobs without a pause, and repeat a submit with its key until it is accepted."""

    def __init__(self, api: str, file: Path) -> None:
        self.api = api
        self.file = file
        self.accepted: dict[str, str] = {}  # the job of each key
        self.refused: list[tuple[float, int, str, str | None]] = []  # duration, status, code, Retry-After
        self.numbers = itertools.count()
        self.stopping = threading.Event()
        self.threads = [threading.Thread(target=self._submit, daemon=True) for _ in range(CLIENTS)]

    def start(self) -> None:
        for thread in self.threads:
            thread.start()

    def stop(self) -> None:
        """Submit nothing new, and wait for what is being repeated."""
        self.stopping.set()
        for thread in self.threads:
            thread.join(FAILOVER_SECONDS)
            assert not thread.is_alive()

    def _submit(self) -> None:
        with httpx.Client(base_url=self.api, timeout=30, trust_env=False) as http:
            while not self.stopping.is_set():
                key = f"key-{next(self.numbers)}"
                while key not in self.accepted:
                    self._submit_one(http, key)

    def _submit_one(self, http: httpx.Client, key: str) -> None:
        body = {"graph": "counted", "input": {"file": str(self.file), "seconds": 0.05}}
        started = time.monotonic()
        answer = http.post("/jobs", json=body, headers={"Idempotency-Key": key})
        if answer.status_code == 202:
            self.accepted[key] = answer.json()["id"]
            time.sleep(0.02)
            return
        told = (answer.status_code, answer.json()["code"], answer.headers.get("retry-after"))
        self.refused.append((time.monotonic() - started, *told))
        time.sleep(0.1)


def start_all(processes: Processes, url: str, replicas: int) -> tuple[str, list[Process]]:
    settings = {"WAIT_REPLICAS": str(replicas), "LEASE_SECONDS": str(LEASE_SECONDS)}
    gateway = processes.gateway(url, WEBHOOK_ALLOW_NETWORKS="127.0.0.0/8", **settings)
    workers = [processes.worker(url, GRAPHS_CONFIG=GRAPHS, **settings) for _ in range(2)]
    for worker in workers:
        worker.wait_for_line("worker ready", 30)
    return gateway.ready().api, workers


def ended(client: Client, job_ids: list[str]) -> list[dict[str, Any]]:
    """The records of all, once each has ended."""
    return [client.job(job_id, wait=60) for job_id in job_ids]


# A master that is replaced while it is well, and not asked to hand over, goes on with the replicas that it still has:
# only where all of them are waited for is nothing lost.
@pytest.mark.parametrize(("how", "replicas"), [("killed", 1), ("COORDINATED", 1), ("", 2)])
def test_a_lost_master_costs_a_moment_and_no_job_that_was_accepted(
    group: Sentinels, processes: Processes, lines: Path, tmp_path: Path, how: str, replicas: int
) -> None:
    api, workers = start_all(processes, group.url(), replicas)
    long_runs = tmp_path / "long.txt"
    with Client(api) as client:
        long = client.submit("counted", {"file": str(long_runs), "seconds": 8})
        wait_until(long_runs.exists, what="the long job runs")
        load = Load(api, lines)
        load.start()
        wait_until(lambda: len(load.accepted) > 50, 20, what="jobs are accepted")
        before = group.master()
        if how == "killed":
            before.kill()
            group.wait_for_other_than(before)
        else:
            group.fail_over(*how.split())
        wait_until(
            lambda: group.info(group.master()).get("connected_slaves", 0) >= replicas or how == "killed",
            20,
            what="there is a replica",
        )
        accepted = len(load.accepted)
        wait_until(lambda: len(load.accepted) > accepted + 50, FAILOVER_SECONDS, what="jobs are accepted again")
        load.stop()
        jobs = ended(client, list(load.accepted.values()))
        assert {job["status"] for job in jobs} == {"succeeded"}
        assert len({job["id"] for job in jobs}) == len(load.accepted)
        assert client.job(long, wait=60)["status"] == "succeeded"
        if how:  # else its lease may have been renewed on the old master only
            assert client.job(long)["tries"] == 1
            assert long_runs.read_text().count("\n") == 1
        with group.master().client() as redis:  # each ended once, and in no place more
            assert redis.zcard("mas:leases") == 0
            for job in jobs:
                events = redis.lrange(f"mas:events:default:{job['id']}", 0, -1)
                assert sum(b'"succeeded"' in event for event in events) == 1
    if how == "killed":
        assert load.refused, "the outage was seen"
    assert {status for _, status, _, _ in load.refused} <= {503}
    assert {code for _, _, code, _ in load.refused} <= {"store_unavailable", "not_replicated"}
    assert all(after is not None for _, _, _, after in load.refused)
    assert max((duration for duration, *_ in load.refused), default=0) < 2 + 3  # with slack for a busy machine
    assert [worker.status for worker in workers] == [None, None]
    assert not any("secret" in process.log for process in processes.started)
