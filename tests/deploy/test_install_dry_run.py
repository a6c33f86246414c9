"""What install.sh would do on each distribution, by a dry run as a user without rights; and what it refuses."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import PROJECT

NAME = "agents.example.com"
DEBIAN_FAMILY = (
    "apt-get --quiet=2 -o DPkg::Lock::Timeout=300 update",
    "supervisord -c /etc/supervisor/supervisord.conf",
    "write /etc/supervisor/conf.d/multi-agent-service.conf",
    "write /etc/nginx/sites-available/multi-agent-service.conf",
    "link /etc/nginx/sites-enabled/multi-agent-service.conf",
)
RHEL_FAMILY = (
    "postgresql-setup --initdb",
    "systemctl enable --now --quiet postgresql",
    "systemctl enable --now --quiet supervisord",
    "write /etc/supervisord.d/multi-agent-redis.ini",
    "write /etc/supervisord.d/multi-agent-service.ini",
    "write /etc/nginx/conf.d/multi-agent-service.conf",
    "setsebool -P httpd_can_network_connect 1",
)
EPEL = "https://dl.fedoraproject.org/pub/epel/epel-release-latest-9.noarch.rpm"
DISTRIBUTIONS = {
    "Debian 12": ('ID=debian\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"', DEBIAN_FAMILY),
    "Ubuntu 22.04": ('ID=ubuntu\nID_LIKE=debian\nPRETTY_NAME="Ubuntu 22.04.5 LTS"', DEBIAN_FAMILY),
    "Ubuntu 24.04": ('ID=ubuntu\nID_LIKE=debian\nPRETTY_NAME="Ubuntu 24.04.1 LTS"', DEBIAN_FAMILY),
    "RHEL 9": (
        'ID="rhel"\nID_LIKE="fedora"\nPRETTY_NAME="Red Hat Enterprise Linux 9.4 (Plow)"',
        (*RHEL_FAMILY, f"dnf --quiet --assumeyes install {EPEL}"),
    ),
    "Rocky 9": (
        'ID="rocky"\nID_LIKE="rhel centos fedora"\nPRETTY_NAME="Rocky Linux 9.4 (Blue Onyx)"',
        (*RHEL_FAMILY, "dnf --quiet --assumeyes install epel-release"),
    ),
}


@pytest.fixture(scope="module")
def script() -> Iterator[Path]:
    """The installer where a user without rights can read it: pytest's own folders are their owner's alone."""
    folder = Path(tempfile.mkdtemp(prefix="mas-"))
    folder.chmod(0o755)
    shutil.copytree(PROJECT / "deploy", folder / "deploy")
    yield folder / "deploy" / "scripts" / "install.sh"
    shutil.rmtree(folder)


def install(script: Path, *arguments: str, os_release: str = "ID=debian") -> subprocess.CompletedProcess[str]:
    about = script.parent / "os-release"
    about.write_text(f"{os_release}\n")
    nobody = pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else None
    return subprocess.run(
        [script, *arguments], user=nobody, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=60, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "OS_RELEASE": str(about)},
    )  # fmt: skip


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_a_dry_run_says_what_is_to_be_done_on_this_distribution_and_needs_no_root(
    script: Path, distribution: str
) -> None:
    os_release, commands = DISTRIBUTIONS[distribution]
    done = install(script, "--dry-run", "--server-name", NAME, os_release=os_release)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert distribution.split()[-1] in done.stdout
    for command in commands:
        assert command in done.stdout, command
    assert done.stdout.endswith("Nothing was changed: this was a dry run.\n")
    other = "dnf " if commands is DEBIAN_FAMILY else "apt-get "
    assert other not in done.stdout


def test_what_is_elsewhere_or_not_wanted_is_not_installed(script: Path) -> None:
    redis, database = "rediss://redis.example.com:6380/0", "postgresql://db.example.com/agents"
    urls = ("--redis-url", redis, "--database-url", database)
    said = install(script, "--dry-run", "--no-nginx", *urls).stdout
    assert "Nothing was changed" in said
    for word in ("postgresql", "multi-agent-redis", "/etc/nginx", "certificate.sh"):
        assert word not in said, word


@pytest.mark.parametrize(
    ("arguments", "words", "status"),
    [
        (["--dry-run"], "give --server-name", 2),
        (["--dry-run", "--server-name", "a b; reboot"], "is no host name", 2),
        (["--server-name"], "--server-name needs a value", 2),
        (["--everything"], "there is no --everything", 2),
        (["--server-name", NAME], "this needs root", 1),
        (["--dry-run", "--server-name", NAME, "--redis-url", "-"], "no REDIS_URL was given", 2),
        (["--dry-run", "--server-name", NAME, "--python", "/bin/false"], "is no Python 3.11 or newer", 1),
    ],
)
def test_a_wrong_call_is_refused_before_anything_is_done(
    script: Path, arguments: list[str], words: str, status: int
) -> None:
    done = install(script, *arguments)
    assert done.returncode == status, done.stderr
    assert words in done.stderr


def test_another_family_is_refused(script: Path) -> None:
    done = install(script, "--dry-run", "--server-name", NAME, os_release='ID=alpine\nPRETTY_NAME="Alpine Linux"')
    assert done.returncode == 1
    assert "Alpine Linux is of neither family that this script knows" in done.stderr
