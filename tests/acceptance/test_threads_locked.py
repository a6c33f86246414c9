"""A SQLite file that another process has locked: jobs of threads wait for it."""

from __future__ import annotations

import sqlite3
import threading
import time
from pathlib import Path

from tests.acceptance.conftest import Service
from tests.thread_jobs import Thread

LOCKED_SECONDS = 7.0


def test_a_locked_sqlite_file_with_two_workers_writing_makes_jobs_wait_and_no_error(
    service: Service, tmp_path: Path
) -> None:
    path = tmp_path / "threads.db"
    service.start_workers(2, DATABASE_URL=f"sqlite:///{path}", WORKER_CONCURRENCY="4")
    threads = [Thread(service, f"thread {number}", tmp_path) for number in range(6)]
    threads[0].in_turn(threads[0].submit())
    locked = threading.Event()

    def hold_the_lock() -> None:
        connection = sqlite3.connect(path, timeout=30, isolation_level=None)
        connection.execute("BEGIN IMMEDIATE")
        locked.set()
        time.sleep(LOCKED_SECONDS)
        connection.execute("ROLLBACK")
        connection.close()

    holder = threading.Thread(target=hold_the_lock)
    for thread in threads:
        thread.submit()
    holder.start()
    locked.wait()
    for _ in range(3):
        for thread in threads:
            thread.submit()
    assert service.client.run("two_nodes", {"messages": ["hi"]})["status"] == "succeeded"
    assert holder.is_alive()
    for thread in threads:
        jobs = thread.in_turn(*thread.traces)
        assert {(job["status"], job["attempt"], job["error"] is None) for job in jobs} == {("succeeded", 1, True)}
        assert [len(job["output"]["trail"]) for job in jobs][-1] == 2 * len(jobs)
    holder.join()
