"""The systemd units: understood, closed to what is not needed, and like the Supervisor files where they overlap."""

from __future__ import annotations

import re
import shutil
import subprocess
from configparser import RawConfigParser
from pathlib import Path

import pytest

from tests.deploy.programs import environment, program
from tests.deploy.supervisor_files import programs
from tests.servers import PROJECT

FILES = PROJECT / "deploy" / "systemd"
SERVICES = {
    "multi-agent-redis.service": "multi-agent-redis",
    "multi-agent-service.service": "multi-agent-service",
    "multi-agent-worker@00.service": "multi-agent-worker",
}
UNITS = [*SERVICES, "multi-agent-service.socket", "multi-agent.target"]
MOST_EXPOSED = 2.5  # of 10; a service without any of this has 9.2


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root folder with the units where systemd looks, and what they start."""
    units = tmp_path / "etc" / "systemd" / "system"
    shutil.copytree(FILES, units)
    shutil.copy(units / "multi-agent-worker@.service", units / "multi-agent-worker@00.service")
    scripts = tmp_path / "opt" / "multi-agent-service" / "current" / "deploy" / "scripts"
    scripts.mkdir(parents=True)
    shutil.copy(PROJECT / "deploy" / "scripts" / "run.sh", scripts)
    (tmp_path / "bin").mkdir()
    shutil.copy("/bin/kill", tmp_path / "bin")
    return tmp_path


def analyze(root: Path, *arguments: str) -> str:
    """What systemd-analyze says of the units below this root."""
    folder = root / "etc" / "systemd" / "system"
    done = subprocess.run(
        [program("systemd-analyze"), f"--root={root}", *arguments],
        cwd=folder, env=environment(), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    return done.stdout + done.stderr


def section(name: str, part: str = "Service") -> dict[str, str]:
    parser = RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(FILES / name.replace("@00", "@"))
    return dict(parser[part])


def test_systemd_understands_each_line(root: Path) -> None:
    assert _complaints(analyze(root, "verify", *UNITS)) == []


@pytest.mark.parametrize(
    ("file", "line", "wrong"),
    [
        ("multi-agent-service.service", "TimeoutStopSec", "TimeoutStopSecs"),
        ("multi-agent-.service.d/hardening.conf", "ProtectHome=yes", "ProtectHome=maybe"),
    ],
)
def test_a_line_that_systemd_does_not_understand_would_be_seen(root: Path, file: str, line: str, wrong: str) -> None:
    unit = root / "etc" / "systemd" / "system" / file
    unit.write_text(unit.read_text().replace(line, wrong, 1))
    assert _complaints(analyze(root, "verify", *UNITS))


@pytest.mark.parametrize("unit", SERVICES)
def test_a_unit_is_closed_to_what_it_does_not_need(root: Path, unit: str) -> None:
    says = analyze(root, "security", "--offline=true", unit)
    found = re.search(r"exposure level for \S+: ([0-9.]+)", says)
    assert found, says
    assert float(found[1]) <= MOST_EXPOSED, says


@pytest.mark.parametrize(("unit", "name"), SERVICES.items())
def test_a_unit_starts_what_its_supervisor_program_starts_and_gives_it_as_long_to_stop(unit: str, name: str) -> None:
    service, supervised = section(unit), programs()[name]
    assert service["ExecStart"] == supervised["command"]
    assert int(service["TimeoutStopSec"]) == int(supervised["stopwaitsecs"])
    if "environment" in supervised:
        said = supervised["environment"].replace('"', "").replace("%(process_num)02d", "%i")
        assert service["Environment"] == said


def test_the_socket_is_the_one_that_nginx_asks() -> None:
    settings = (PROJECT / "deploy" / "env" / "production.env").read_text()
    host, port = (re.search(rf"^{name}=(.+)$", settings, re.MULTILINE)[1] for name in ("HOST", "PORT"))  # type: ignore[index]
    assert section("multi-agent-service.socket", "Socket")["ListenStream"] == f"{host}:{port}"


def test_the_target_has_as_many_workers_as_supervisor_starts() -> None:
    wanted = section("multi-agent.target", "Unit")["Wants"].split()
    workers = [unit for unit in wanted if unit.startswith("multi-agent-worker@")]
    assert len(workers) == int(programs()["multi-agent-worker"]["numprocs"])
    assert set(SERVICES) <= set(wanted)


def _complaints(says: str) -> list[str]:
    """Of our units; a root without a system in it lacks others."""
    return [line for line in says.splitlines() if "multi-agent" in line and "not found" not in line]
