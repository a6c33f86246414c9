"""`health_check.sh` on a real gateway that is well, degraded and down."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
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


@pytest.fixture
def without_curl(tmp_path: Path) -> str:
    """A PATH on which there is no curl."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("bash", "env", "cat"):
        (folder / name).symlink_to(shutil.which(name) or name)
    (folder / "python3").symlink_to(Path(sys.executable).resolve())
    return str(folder)


def test_it_needs_no_curl(processes: Processes, valkey: Valkey, without_curl: str) -> None:
    gateway = processes.gateway(valkey.url).ready()
    url = f"{gateway.api}/health"
    status, says = check(url, PATH=without_curl, http_proxy="http://127.0.0.1:9/")
    assert (status, says.splitlines()[0]) == (1, "degraded:")
    valkey.kill()
    status, says = check(url, PATH=without_curl)
    assert status == 2
    assert "redis down: Redis cannot be reached" in says
    with socket.create_server(("127.0.0.1", 0)) as listener:
        silent = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        assert check(silent, PATH=without_curl, TIMEOUT="1") == (
            2, f"down: {silent} does not answer: no whole answer in 1 s\n",
        )  # fmt: skip


def test_a_document_that_is_cut_off_changes_no_status(tmp_path: Path) -> None:
    curl = tmp_path / "curl"
    curl.write_text("""#!/bin/sh\nprintf '{"status":"%s","parts":{"redis":{' "$SAYS"\n""")
    curl.chmod(0o755)
    path = f"{tmp_path}:/usr/bin:/bin"
    for says, status in (("ok", 0), ("degraded", 1), ("down", 2)):
        assert check("http://127.0.0.1:9/", PATH=path, SAYS=says)[0] == status


def test_a_wrong_call_is_told_how_to_call_it() -> None:
    done = subprocess.run([SCRIPT, "--loud"], capture_output=True, text=True, timeout=10)
    assert done.returncode == 2
    assert "usage: health_check.sh" in done.stderr
