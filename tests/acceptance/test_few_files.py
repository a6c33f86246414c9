"""A worker that may open 256 files, and is given more to do than that: it says so, survives, and all gets done."""

from __future__ import annotations

import resource
from pathlib import Path

from tests.acceptance.conftest import GRAPHS, Service
from tests.receivers import Receiver, Reply
from tests.servers import wait_until

JOBS = 8
FILES = 60  # of each job: four or so of them find room


def _let_few_be_open() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))


def test_a_worker_out_of_files_says_so_fails_nothing_and_recovers_by_itself(service: Service, tmp_path: Path) -> None:
    worker = service.processes.worker(
        service.redis_url, prepare=_let_few_be_open, GRAPHS_CONFIG=GRAPHS, WEBHOOK_ALLOW_NETWORKS="127.0.0.0/8",
        WORKER_CONCURRENCY="100", WEBHOOK_HOST_CONCURRENCY="64",
    )  # fmt: skip
    service.wait_for(worker)
    assert "the limit of open files is low" in worker.log
    gate = tmp_path / "gate"
    with Receiver() as receiver:
        receiver.default = Reply(delay=1.0)
        hook = {"webhook": {"url": receiver.url}}
        hungry = [
            service.client.submit("opener", {"files": FILES, "gate": str(gate)}, max_attempts=20) for _ in range(JOBS)
        ]
        worker.wait_for_line("OSError")
        plain = [service.client.submit("echo", {"value": number}, **hook) for number in range(40)]
        threads = [
            service.client.submit("two_nodes", {"messages": ["hi"]}, thread_id=f"t{number}") for number in range(10)
        ]
        wait_until(lambda: "too many open files" in worker.log.lower(), what="it says what is exhausted")
        assert service.client.http.get("/health/ready").status_code == 200
        gate.touch()
        ended = service.client.wait_all([*hungry, *plain, *threads])
        assert [job for job in ended if job["status"] != "succeeded"] == []
        assert any(job["tries"] > 1 for job in ended)
        receiver.wait_for(len(plain), 30)
    assert service.client.run("echo", {"value": 1})["status"] == "succeeded"
    assert worker.status is None
