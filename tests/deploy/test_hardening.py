"""SSH, kernel settings and limits: what sshd makes of ours, and that each setting exists and has its reason."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from gateway.connections import OTHER_FILES, SURPLUS_CONNECTIONS
from shared.settings import Settings
from tests.deploy.programs import UNPACKED, environment, program
from tests.servers import PROJECT

DEPLOY = PROJECT / "deploy"
SSH = DEPLOY / "ssh" / "multi-agent-hardening.conf"
SYSCTL = DEPLOY / "sysctl" / "90-multi-agent-service.conf"
LIMITS = sorted((DEPLOY / "limits").rglob("*.conf"))
COMMENTED = [SSH, SYSCTL, *LIMITS]
# sshd wants a user of its own; a copy of the list of users lies over this machine's, for this process only.
WITH_ITS_USER = """
set -eu
cp /etc/passwd {folder}/passwd
grep -q ^sshd: {folder}/passwd || echo 'sshd:x:65533:65534::/run/sshd:/usr/sbin/nologin' >> {folder}/passwd
mount --bind {folder}/passwd /etc/passwd
mkdir -p {folder}/run/sshd
mount --bind {folder}/run /run
exec {sshd} "$@"
"""


def sshd(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The real sshd on Debian's main file, what a cloud brings, and ours, in the places that the page says."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("needs root and a mount namespace of its own")
    parts = folder / "sshd_config.d"
    parts.mkdir(exist_ok=True)
    (parts / "50-cloud-init.conf").write_text("PasswordAuthentication yes\nPermitRootLogin yes\n")
    (parts / "00-multi-agent-hardening.conf").write_text(SSH.read_text())
    key = folder / "host_key"
    key.write_bytes(Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    key.chmod(0o600)
    main = folder / "sshd_config"
    main.write_text(
        f"Include {parts}/*.conf\nHostKey {key}\nKbdInteractiveAuthentication no\nUsePAM yes\nX11Forwarding yes\n"
    )
    libraries = f"{UNPACKED}/usr/lib/{os.uname().machine}-linux-gnu"
    command = WITH_ITS_USER.format(folder=folder, sshd=program("sshd"))
    return subprocess.run(
        ["unshare", "--mount", "sh", "-c", command, "sshd", "-f", str(main), *arguments],
        capture_output=True, text=True, timeout=30, env=environment(LD_LIBRARY_PATH=libraries),
    )  # fmt: skip


def test_sshd_takes_our_file_and_it_goes_before_what_a_cloud_brings(tmp_path: Path) -> None:
    checked = sshd(tmp_path, "-t")
    assert (checked.returncode, checked.stderr) == (0, "")
    told = sshd(tmp_path, "-T").stdout.splitlines()
    for line in (
        "permitrootlogin no", "passwordauthentication no", "kbdinteractiveauthentication no",
        "pubkeyauthentication yes", "denyusers multiagent", "maxauthtries 6", "logingracetime 30", "x11forwarding no",
        "allowagentforwarding no", "allowtcpforwarding local", "clientaliveinterval 300", "clientalivecountmax 2",
    ):  # fmt: skip
        assert line in told


def test_a_file_that_is_wrong_is_found_before_sshd_is_reloaded(tmp_path: Path) -> None:
    assert sshd(tmp_path, "-t", "-o", "PermitRootLogin=perhaps").returncode != 0


def settings(path: Path) -> dict[str, str]:
    lines = [line for line in path.read_text().splitlines() if line.strip() and not line.startswith("#")]
    return {name.strip(): value.strip() for name, _, value in (line.partition("=") for line in lines)}


@pytest.mark.skipif(sys.platform != "linux", reason="these are Linux' settings")
@pytest.mark.parametrize("name", settings(SYSCTL))
def test_every_kernel_setting_exists_and_takes_such_a_value(name: str) -> None:
    place = Path("/proc/sys") / name.replace(".", "/")
    if name.startswith("net.ipv6") and not Path("/proc/sys/net/ipv6").exists():
        pytest.skip("this machine has no IPv6")
    assert place.exists()
    try:
        now = place.read_text()
    except PermissionError:
        pytest.skip("not readable here")
    assert now.strip().isdecimal()
    assert settings(SYSCTL)[name].isdecimal()


@pytest.mark.parametrize("path", COMMENTED, ids=lambda path: str(path.relative_to(DEPLOY)))
def test_every_setting_stands_below_its_reason(path: Path) -> None:
    blocks = [block.splitlines() for block in path.read_text().split("\n\n")]
    for block in blocks:
        for number, line in enumerate(block):
            if line and not line.startswith(("#", "[")):
                before = block[:number]
                assert any(one.startswith("# ") for one in before), f"{path.name}: {line} has no reason"


def test_the_queue_of_connections_that_the_gateway_asks_for_is_granted() -> None:
    from gateway.__main__ import BACKLOG

    assert int(settings(SYSCTL)["net.core.somaxconn"]) >= BACKLOG


def test_the_limit_of_files_lets_a_gateway_take_its_connections() -> None:
    units = configparser.ConfigParser()
    units.read(DEPLOY / "limits" / "supervisor.service.d" / "limits.conf")
    needed = Settings.model_fields["max_connections"].default + OTHER_FILES + SURPLUS_CONNECTIONS
    assert int(units["Service"]["LimitNOFILE"]) >= needed


def test_no_limit_is_given_where_it_does_not_count_and_none_is_lowered() -> None:
    assert "fs.file-max" not in settings(SYSCTL)
    assert [path.name for path in (DEPLOY / "limits").iterdir() if path.is_file()] == [], "PAM is for logins"
