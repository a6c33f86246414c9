"""A SQLite file that cannot be opened: jobs of threads wait for it, all others run on, and health says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.acceptance.conftest import Service
from tests.servers import wait_until
from tests.thread_jobs import Thread


def threads_part(service: Service) -> dict[str, Any]:
    answer = service.client.http.get("/health")
    assert answer.status_code == 200, answer.text
    return dict(answer.json()["parts"].get("threads", {}))


def test_while_the_sqlite_file_cannot_be_opened_jobs_of_threads_wait_without_a_try_and_others_run_on(
    service: Service, tmp_path: Path
) -> None:
    folder = tmp_path / "volume"
    folder.touch()  # no folder: what stands where a volume is not mounted
    service.start_workers(2, DATABASE_URL=f"sqlite:///{folder / 'threads.db'}", WORKER_CONCURRENCY="4")
    threads = [Thread(service, f"thread {number}", tmp_path) for number in range(10)]  # more than there are slots
    for thread in threads:
        thread.submit()
        thread.submit()
    others = [service.client.run("two_nodes", {"messages": ["hi"]}) for _ in range(10)]
    assert {job["status"] for job in others} == {"succeeded"}
    both = "2 of 2 workers cannot reach the threads' database ("
    wait_until(lambda: both in threads_part(service).get("detail", ""), 15, what="health says so")
    assert threads_part(service)["status"] == "down"
    waiting = [service.client.job(job_id)["status"] for thread in threads for job_id in thread.traces]
    assert set(waiting) <= {"queued", "running"}
    folder.unlink()  # and now it is: a worker makes the folder
    wait_until(lambda: threads_part(service).get("status") == "ok", 30, what="health says that it is back")
    for thread in threads:
        jobs = thread.in_turn(*thread.traces)
        assert [(job["status"], job["tries"], job["error"]) for job in jobs] == [("succeeded", 1, None)] * 2
        assert len(jobs[-1]["output"]["trail"]) == 4
