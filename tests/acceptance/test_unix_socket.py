"""Redis at a Unix socket: what a single machine has, with no port and no password."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients import Client
from tests.servers import Processes, Valkey, fetch, wait_until

MESSAGES = {"messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
def socket_folder() -> Iterator[Path]:
    """A socket's path has 107 bytes at most: pytest's folders are too deep."""
    folder = Path(tempfile.mkdtemp(prefix="mas-"))
    yield folder
    shutil.rmtree(folder)


def test_a_job_runs_over_a_unix_socket_also_after_redis_was_killed(
    processes: Processes, tmp_path: Path, socket_folder: Path
) -> None:
    valkey = Valkey(tmp_path / "valkey", unixsocket=str(socket_folder / "redis.sock"))
    url = f"unix://{socket_folder}/redis.sock?db=0"
    gateway = processes.gateway(url).ready()
    worker = processes.worker(url)
    worker.wait_for_line("worker ready")
    with Client(gateway.api) as client:
        assert client.run("customer_service", MESSAGES)["status"] == "succeeded"
        valkey.kill()
        wait_until(lambda: fetch(f"{gateway.api}/health/ready")[0] == 503, what="the gateway says that Redis is away")
        (socket_folder / "redis.sock").unlink()
        assert fetch(f"{gateway.api}/health/ready")[0] == 503
        valkey.restart()
        gateway.ready()
        assert client.run("customer_service", MESSAGES)["status"] == "succeeded"
    valkey.stop()


def test_a_socket_that_is_not_there_is_one_line(processes: Processes, socket_folder: Path) -> None:
    worker = processes.worker(f"unix://{socket_folder}/none.sock")
    assert worker.wait(30) == 2
    assert f"{socket_folder}/none.sock has not answered" in worker.log
    assert worker.log.strip().count("\n") == 0
