"""`health_check.sh` on a real gateway that is well, degraded and down."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import PROJECT, Processes, Valkey

SCRIPT = PROJECT / "deploy" / "scripts" / "health_check.sh"


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    server = Valkey(tmp_path / "valkey")
    yield server
    server.stop()


def check(url: str, *arguments: str, **environment: str) -> tuple[int, str]:
    """Its exit status, and what it prints."""
    environment = {"PATH": "/usr/bin:/bin", "SERVICE_URL": url, "TIMEOUT": "5", **environment}
    done = subprocess.run([SCRIPT, *arguments], env=environment, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    return done.returncode, done.stdout


def test_it_tells_ok_from_degraded_from_down(processes: Processes, valkey: Valkey) -> None:
    gateway = processes.gateway(valkey.url).ready()
    url = f"{gateway.api}/health"
    status, says = check(url)
    assert (status, says.splitlines()[0]) == (1, "degraded:")
    assert "workers degraded: No worker is running" in says

    processes.worker(valkey.url).wait_for_line("worker ready", 30)
    assert check(url) == (0, "ok\n")
    assert check(url, "--quiet") == (0, "")
    assert check(url, http_proxy="http://127.0.0.1:9/") == (0, "ok\n")

    valkey.kill()
    status, says = check(url)
    assert status == 2
    assert "redis down: Redis cannot be reached" in says

    gateway.process.kill()
    status, says = check(url, "--quiet")
    assert status == 2
    assert f"{url} does not answer" in says


def test_a_service_that_takes_connections_and_says_nothing_is_down() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        status, says = check(f"http://127.0.0.1:{listener.getsockname()[1]}/", TIMEOUT="1")
    assert status == 2
    assert "does not answer" in says


def test_another_service_at_the_address_is_down(processes: Processes, valkey: Valkey) -> None:
    gateway = processes.gateway(valkey.url).ready()
    assert check(f"{gateway.api}/health/live")[0] == 0
    status, says = check(f"{gateway.api}/elsewhere")
    assert status == 2
    assert "answers something else" in says


def test_a_wrong_call_is_told_how_to_call_it() -> None:
    done = subprocess.run([SCRIPT, "--loud"], capture_output=True, text=True, timeout=10)
    assert done.returncode == 2
    assert "usage: health_check.sh" in done.stderr
