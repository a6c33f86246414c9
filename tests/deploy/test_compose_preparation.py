"""What comes before `docker compose up`, and what runs while code is being changed."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from shared.settings import Settings
from tests.deploy.compose import BASE, DEVELOPMENT, compose, resolved
from tests.servers import PROJECT, Gateway, Processes, free_port, wait_until

NAME = "agents.example.com"
SECRETS = ("SECRET_KEY", "REDIS_PASSWORD", "POSTGRES_PASSWORD", "GRAFANA_PASSWORD")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A checkout with what the script and compose look at."""
    (tmp_path / "deploy").mkdir()
    shutil.copytree(PROJECT / "deploy" / "docker", tmp_path / "deploy" / "docker")
    shutil.copytree(PROJECT / "config", tmp_path / "config", ignore=shutil.ignore_patterns("tls", "keys", "acme"))
    shutil.copy(BASE, tmp_path)
    return tmp_path


def prepare(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    script = project / "deploy" / "docker" / "prepare.sh"
    return subprocess.run([script, *arguments], capture_output=True, text=True, timeout=60)


def values(project: Path) -> dict[str, str]:
    lines = (project / ".env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines)


def state(project: Path) -> dict[str, tuple[int, bytes]]:
    files = [path for path in project.rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_mode, path.read_bytes()) for path in files}


def may_give_logs_away() -> bool:
    return os.geteuid() in (0, 1000)


def test_it_makes_all_that_compose_asks_for_and_nothing_twice(project: Path) -> None:
    (project / ".env").write_text("QWEN_API_KEY=of-the-operator")  # without an end of its line
    done = prepare(project, NAME)
    assert done.returncode == (0 if may_give_logs_away() else 1), done.stderr
    first = state(project)
    found = values(project)
    assert found["QWEN_API_KEY"] == "of-the-operator"
    assert found["DOMAIN"] == NAME
    assert len({found[name] for name in SECRETS}) == len(SECRETS)
    assert Settings(_env_file=None, secret_key=found["SECRET_KEY"]).secret_key  # type: ignore[call-arg]
    for name in SECRETS:
        assert found[name] not in done.stdout + done.stderr
    files = (project / "docker-compose.yml", project / "deploy/docker/compose.monitoring.yml")
    assert compose("config", "--quiet", files=files, **found).returncode == 0
    prepare(project, NAME)
    assert state(project) == first


def test_only_their_owner_reads_the_secrets_and_the_containers_write_the_logs(project: Path) -> None:
    if not may_give_logs_away():
        pytest.skip("only root, or the user 1000, has files of the user 1000")
    assert prepare(project, NAME).returncode == 0
    expected = {".env": 0o600, "config/tls/privkey.pem": 0o600, "config/keys": 0o700, "logs": 0o750}
    assert {name: stat.S_IMODE((project / name).stat().st_mode) for name in expected} == expected
    assert (project / "logs").stat().st_uid == 1000


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files of another user")
def test_what_root_makes_belongs_to_whose_the_checkout_is(project: Path) -> None:
    os.chown(project, 1234, 1234)
    (project / "config/tls").mkdir()
    (project / "config/tls/fullchain.pem").write_text("a real one")
    assert prepare(project, NAME).returncode == 0
    for name in (".env", "config/keys", "config/acme"):
        assert ((project / name).stat().st_uid, (project / name).stat().st_gid) == (1234, 1234), name
    assert (project / "config/tls/fullchain.pem").stat().st_uid == 0, "what was there stays as it is"
    assert (project / "logs").stat().st_uid == 1000


def test_the_certificate_is_for_the_domain_and_one_that_is_there_stays(project: Path) -> None:
    prepare(project, NAME)
    certificate = project / "config/tls/fullchain.pem"
    show = ["openssl", "x509", "-in", certificate, "-noout", "-ext", "subjectAltName"]
    shown = subprocess.run(show, capture_output=True, text=True, timeout=60)
    assert f"DNS:{NAME}" in shown.stdout
    certificate.write_text("a real one")
    prepare(project, NAME)
    assert certificate.read_text() == "a real one"


def test_another_domain_than_before_is_refused_and_so_is_what_is_no_name(project: Path) -> None:
    prepare(project, NAME)
    before = state(project)
    assert prepare(project, "other.example.com").returncode == 1
    for wrong in ("", "a;return 200", "UPPER.example.com", "a b", "-x", "a\nb"):
        assert prepare(project, wrong).returncode == 2, wrong
    assert prepare(project).returncode == 2
    assert state(project) == before


def test_development_takes_up_code_as_it_is_changed(tmp_path: Path, processes: Processes, valkey_url: str) -> None:
    code = tmp_path / "app"
    for part in ("gateway", "shared"):
        shutil.copytree(PROJECT / part, code / part, ignore=shutil.ignore_patterns("__pycache__"))
    service = resolved(BASE, DEVELOPMENT)["services"]["gateway"]
    _, *command = (part.replace("/app/", f"{code}/") for part in service["command"])
    port = free_port()
    given = service["environment"] | {"REDIS_URL": valkey_url, "HOST": "127.0.0.1", "PORT": str(port), "LOG_FILE": ""}
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    process = processes.start("watched", [sys.executable, *command], **given, PATH=path, PYTHONPATH=str(code))
    gateway = Gateway(process, port).ready(30)

    def running() -> set[int]:
        found = set()
        for one in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):  # the one before, that ends just now
                found |= {one.pid} if "gateway" in one.cmdline() else set()
        return found

    (before,) = running()
    (code / "gateway" / "version.py").write_text("CHANGED = True\n")
    wait_until(lambda: running() and before not in running(), 20, what="it runs again")
    gateway.ready(30)
    assert process.stop() == 0
