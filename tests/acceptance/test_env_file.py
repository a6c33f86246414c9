"""A `.env` that others may open, and real processes that start on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.conftest import GRAPHS
from tests.servers import Processes

WARNING = "others than its owner may open the file that holds the secrets"


@pytest.mark.parametrize(("mode", "warned"), [(0o644, True), (0o600, False)])
def test_gateway_and_worker_warn_where_others_may_open_their_secrets(
    processes: Processes, valkey_url: str, mode: int, warned: bool
) -> None:
    processes.folder.mkdir(parents=True, exist_ok=True)
    env_file: Path = processes.folder / ".env"
    env_file.write_text("QWEN_API_KEY=planted-0123456789\n")
    env_file.chmod(mode)
    gateway = processes.gateway(valkey_url).ready()
    worker = processes.worker(valkey_url, GRAPHS_CONFIG=GRAPHS)
    worker.wait_for_line("worker ready", 30)
    for process in (gateway.process, worker):
        assert process.log.count(WARNING) == int(warned)
        assert "planted" not in process.log


@pytest.mark.parametrize("key", ["", "short", "k" * 64, "0123456789abcdef" * 4, "changeme-changeme-changeme-please"])
def test_a_secret_key_that_is_missing_or_weak_starts_nothing(processes: Processes, valkey_url: str, key: str) -> None:
    for process in (
        processes.gateway(valkey_url, SECRET_KEY=key).process,
        processes.worker(valkey_url, SECRET_KEY=key, GRAPHS_CONFIG=GRAPHS),
    ):
        assert process.wait(30) == 2
        (line,) = process.log.splitlines()
        assert line.startswith("SECRET_KEY is ")
        assert not key or key not in line
