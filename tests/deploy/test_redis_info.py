"""What `redis_info.sh` says of the service's Redis."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import PROJECT, Valkey, free_port

SCRIPT = PROJECT / "deploy" / "scripts" / "redis_info.sh"
PASSWORD = "a-password-for-tests"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with_password = Valkey(tmp_path_factory.mktemp("valkey"), password=PASSWORD, requirepass=PASSWORD)
    yield with_password
    with_password.stop()


def say(folder: Path, url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    if not (folder / "current").is_symlink():
        (folder / "current").symlink_to(PROJECT)
    settings = {"APP_DIR": str(folder), "SERVICE_USER": "", "REDIS_URL": url, "PATH": os.environ["PATH"]}
    return subprocess.run([SCRIPT, *arguments], env=settings, capture_output=True, text=True, timeout=60)


def test_it_prints_the_sections_that_are_asked_for(tmp_path: Path, server: Valkey) -> None:
    plain = say(tmp_path, server.url)
    assert plain.returncode == 0, plain.stderr
    for line in ("# memory\n", "maxmemory_policy:noeviction\n", "aof_last_write_status:ok\n", "blocked_clients:0\n"):
        assert line in plain.stdout
    asked = say(tmp_path, server.url, "server", "slowlog").stdout
    assert "redis_version:" in asked
    assert "# slowlog\n" in asked
    assert "# memory\n" not in asked


def test_it_says_that_redis_is_away_and_no_password(tmp_path: Path) -> None:
    done = say(tmp_path, f"redis://:{PASSWORD}@127.0.0.1:{free_port()}/0")
    assert done.returncode == 1
    assert "Redis does not answer" in done.stderr
    assert PASSWORD not in done.stdout + done.stderr


def test_a_wrong_call_is_status_2(tmp_path: Path) -> None:
    assert say(tmp_path, "redis://127.0.0.1:1/0", "--memory").returncode == 2
    assert "usage:" in say(tmp_path, "redis://127.0.0.1:1/0", "--help").stdout
