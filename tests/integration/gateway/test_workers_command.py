"""`python -m gateway workers`: the workers that live now, as scripts and operators ask for them."""

from __future__ import annotations

import socket
import subprocess
import sys

from tests.servers import PROJECT, Processes, wait_until


def _workers(redis_url: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gateway", "workers"],
        env={"PYTHONPATH": str(PROJECT), "REDIS_URL": redis_url},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_worker_is_listed_by_its_process_while_it_lives(processes: Processes, redis_url: str) -> None:
    assert _workers(redis_url).returncode == 1
    worker = processes.worker(redis_url)
    worker.wait_for_line("worker ready")
    wait_until(lambda: _workers(redis_url).returncode == 0, what="it is listed")
    head, row = _workers(redis_url).stdout.splitlines()
    assert head.split() == ["HOST", "PID", "SINCE", "RUNNING", "QUEUES"]
    assert row.split()[:2] == [socket.gethostname(), str(worker.pid)]
    assert row.split()[3:] == ["0", "default"]
    worker.stop()
    assert _workers(redis_url).returncode == 1


def test_a_redis_that_is_away_is_one_line_and_status_2() -> None:
    done = _workers("redis://127.0.0.1:1/0")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
