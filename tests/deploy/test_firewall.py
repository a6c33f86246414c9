"""The firewall scripts: what they open, in which order, and that they lock nobody out."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.deploy.programs import environment, program
from tests.servers import PROJECT

FOLDER = PROJECT / "deploy" / "firewall"
BOTH = ["ufw.sh", "firewalld.sh"]
NO_SSHD = {"SSHD": "/nonexistent"}
# ufw's own places are this machine's: a copy of each lies over them, for this process and its children only.
IN_A_NAMESPACE = """
set -eu
cd {folder}
for place in etc/ufw etc/default lib/ufw; do
  mkdir -p $place
  cp -a /$place/. $place
  mount --bind $place /$place
done
{commands}
"""


def run(script: str, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [FOLDER / script, *arguments], capture_output=True, text=True, timeout=60, env=environment(**NO_SSHD, **more)
    )


def a_namespace_can_be_had() -> bool:
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "--net", "--mount", "true"], capture_output=True, timeout=20).returncode == 0


def recorder(folder: Path, name: str, status: int = 0) -> Path:
    """A program that only writes down how it was called."""
    made = folder / name
    made.write_text(f'#!/bin/sh\necho "{name} $*" >> {folder}/called\nexit {status}\n')
    made.chmod(0o755)
    return made


def test_a_dry_run_of_ufw_prints_the_commands_and_ssh_comes_before_the_door_is_closed() -> None:
    done = run("ufw.sh", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "+ ufw limit 22/tcp comment SSH",
        "+ ufw allow 80/tcp comment HTTP: redirect, certbot",
        "+ ufw allow 443/tcp comment HTTPS",
        "+ ufw default deny incoming",
        "+ ufw default allow outgoing",
        "+ ufw --force enable",
    ]


@pytest.mark.skipif(not a_namespace_can_be_had(), reason="needs root and a network namespace of its own")
def test_the_real_ufw_lets_in_ssh_http_and_https_only_however_often_it_is_asked(tmp_path: Path) -> None:
    script = FOLDER / "ufw.sh"
    commands = f"{script} >first.txt\n{script} >second.txt\nufw status verbose\necho =====\niptables -S INPUT\n"
    done = subprocess.run(
        ["unshare", "--net", "--mount", "sh", "-c", IN_A_NAMESPACE.format(folder=tmp_path, commands=commands)],
        capture_output=True, text=True, timeout=120, env=environment(**NO_SSHD),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    status, _, rules = done.stdout.partition("=====")
    assert "Status: active" in status
    assert "Default: deny (incoming), allow (outgoing)" in status
    opened = {tuple(line.split()[:2]) for line in status.splitlines() if "/tcp" in line}
    assert opened == {("22/tcp", "LIMIT"), ("80/tcp", "ALLOW"), ("443/tcp", "ALLOW"), ("22/tcp", "(v6)"),
                      ("80/tcp", "(v6)"), ("443/tcp", "(v6)")}  # fmt: skip
    assert "-P INPUT DROP" in rules
    assert (tmp_path / "second.txt").read_text().count("Skipping adding existing rule") >= 3
    assert program("ufw")


@pytest.mark.parametrize("running", [True, False])
def test_firewalld_is_asked_for_ssh_http_and_https_and_cockpit_goes(tmp_path: Path, running: bool) -> None:
    online = recorder(tmp_path, "firewall-cmd", 0 if running else 252)
    offline = recorder(tmp_path, "firewall-offline-cmd")
    recorder(tmp_path, "systemctl")
    path = f"{tmp_path}:{os.environ['PATH']}"
    if os.geteuid() != 0:
        pytest.skip("the script is for root")
    done = subprocess.run(
        [FOLDER / "firewalld.sh"], capture_output=True, text=True, timeout=60,
        env={"PATH": path, "FIREWALL_CMD": str(online), "FIREWALL_OFFLINE_CMD": str(offline), **NO_SSHD},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    called = (tmp_path / "called").read_text().splitlines()
    change = "firewall-cmd --permanent --zone=public" if running else "firewall-offline-cmd --zone=public"
    remove = "--remove-service" if running else "--remove-service-from-zone"
    assert called == [
        "firewall-cmd --state",
        f"{change} --add-service=ssh",
        f"{change} --add-service=http",
        f"{change} --add-service=https",
        f"{change} --query-service=cockpit",
        f"{change} {remove}=cockpit",
        "firewall-cmd --reload" if running else "systemctl enable --now firewalld",
    ]


@pytest.mark.parametrize("script", BOTH)
def test_who_is_connected_by_another_port_is_not_locked_out(script: str) -> None:
    connected = {"SSH_CONNECTION": "203.0.113.5 50022 198.51.100.1 2222"}
    refused = run(script, "--dry-run", **connected)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "--ssh-port 2222" in refused.stderr
    allowed = run(script, "--dry-run", "--ssh-port", "2222", **connected)
    assert allowed.returncode == 0
    assert "2222/tcp" in allowed.stdout
    assert "22/tcp " not in allowed.stdout.replace("2222/tcp", "")


@pytest.mark.parametrize("script", BOTH)
def test_the_port_is_the_one_that_sshd_itself_names(script: str, tmp_path: Path) -> None:
    sshd = tmp_path / "sshd"
    sshd.write_text("#!/bin/sh\nprintf 'port 2022\\nport 2023\\nx11forwarding no\\n'\n")
    sshd.chmod(0o755)
    done = subprocess.run(
        [FOLDER / script, "--dry-run"], capture_output=True, text=True, timeout=60, env=environment(SSHD=str(sshd))
    )
    assert [port in done.stdout for port in ("2022/tcp", "2023/tcp")] == [True, True]
    assert "=ssh" not in done.stdout


@pytest.mark.parametrize("script", BOTH)
@pytest.mark.parametrize("arguments", [["--ssh-port"], ["--ssh-port", "x"], ["--ssh-port", "22;id"], ["enable"], [""]])
def test_a_wrong_call_is_status_2_and_changes_nothing(script: str, arguments: list[str]) -> None:
    done = run(script, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Usage: " in done.stderr
    assert run(script, "--help").stdout.startswith("Usage: ")
