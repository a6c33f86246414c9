"""`certificate.sh` with the real nginx and openssl: a first start without a certificate, and what a renewal does."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import socket
import ssl
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from tests.deploy.nginx import NAME, Nginx
from tests.servers import PROJECT, free_port, wait_until

SCRIPT = PROJECT / "deploy" / "scripts" / "certificate.sh"


@pytest.fixture
def nginx(tmp_path: Path) -> Nginx:
    """Not started, and without a certificate."""
    made = Nginx(tmp_path / "nginx", free_port())
    shutil.rmtree(made.certificates)
    return made


@pytest.fixture
def running(nginx: Nginx) -> Iterator[Nginx]:
    assert run(nginx, "self-signed", NAME).returncode == 0
    with nginx:
        yield nginx


def run(nginx: Nginx, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    places = {
        "PATH": os.environ["PATH"],
        "CERT_DIR": str(nginx.certificates),
        "WEBROOT": str(nginx.webroot),
        "NGINX": shlex.join(nginx.command),
        "LIVE": str(nginx.folder / "live"),
    }
    return subprocess.run(
        [SCRIPT, *arguments], capture_output=True, text=True, timeout=60, env={**places, **environment}
    )


def served(nginx: Nginx) -> bytes:
    """The certificate that clients get."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", nginx.https_port), 10) as plain,
        context.wrap_socket(plain, server_hostname=NAME) as connection,
    ):
        return connection.getpeercert(binary_form=True) or b""


def lineage(folder: Path) -> Path:
    """A certificate as certbot leaves it."""
    folder.mkdir(parents=True)
    made = trustme.CA().issue_cert(NAME)
    (folder / "fullchain.pem").write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
    made.private_key_pem.write_to_path(str(folder / "privkey.pem"))
    return folder


def test_nginx_starts_before_there_is_a_real_certificate(nginx: Nginx) -> None:
    assert nginx.check().returncode != 0, "that is what guides get wrong"
    made = run(nginx, "self-signed", NAME)
    assert made.returncode == 0, made.stderr
    assert nginx.check().returncode == 0, nginx.check().stderr
    key = nginx.certificates / "self-signed" / "privkey.pem"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    with nginx:
        context = ssl.create_default_context(cafile=str(nginx.certificates / "fullchain.pem"))
        with (
            socket.create_connection(("127.0.0.1", nginx.https_port), 10) as plain,
            context.wrap_socket(plain, server_hostname=NAME) as connection,
        ):
            assert connection.version() == "TLSv1.3"


def test_a_certificate_that_is_there_is_left_alone(nginx: Nginx) -> None:
    run(nginx, "self-signed", NAME)
    before = hashlib.sha256((nginx.certificates / "privkey.pem").read_bytes()).digest()
    again = run(nginx, "self-signed", NAME)
    assert (again.returncode, "nothing to do" in again.stdout) == (0, True)
    assert hashlib.sha256((nginx.certificates / "privkey.pem").read_bytes()).digest() == before


def test_a_renewed_certificate_is_served_without_a_restart(running: Nginx) -> None:
    first = served(running)
    new = lineage(running.folder / "live" / NAME)
    done = run(running, "deployed", RENEWED_LINEAGE=str(new))
    assert done.returncode == 0, done.stdout + done.stderr
    wait_until(
        lambda: (
            served(running) == ssl.PEM_cert_to_DER_cert((new / "fullchain.pem").read_text().split("\n-----BEGIN", 1)[0])
        )
    )
    assert served(running) != first
    assert running.process.status is None


def test_a_broken_certificate_changes_nothing(running: Nginx) -> None:
    before = served(running)
    broken = lineage(running.folder / "live" / NAME)
    shutil.copy(running.certificates / "privkey.pem", broken / "privkey.pem")  # of another certificate
    done = run(running, "deployed", RENEWED_LINEAGE=str(broken))
    assert done.returncode == 1
    assert "the one before stays" in done.stderr
    assert running.check().returncode == 0, "a restart works"
    assert served(running) == before


def test_a_wrong_site_is_not_loaded(running: Nginx) -> None:
    site = running.folder / "sites" / "multi-agent-service.conf"
    site.write_text(site.read_text().replace("server_tokens off;", "server_tokens off"))
    done = run(running, "reload")
    assert (done.returncode, "was not reloaded" in done.stderr) == (1, True)
    assert served(running)


def test_certbot_is_asked_for_the_folder_that_nginx_serves_and_calls_back(running: Nginx) -> None:
    """certbot's part is played: there is no authority to ask here. Its own options are checked below."""
    new = lineage(running.folder / "issued")
    played = running.folder / "certbot"
    played.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {running.folder}/asked\nmkdir -p {running.folder}/live\n'
                      f"cp -r {new} {running.folder}/live/{NAME}\n")  # fmt: skip
    played.chmod(0o755)
    done = run(running, "obtain", NAME, "ops@example.com", "--staging", CERTBOT=str(played))
    assert done.returncode == 0, done.stdout + done.stderr
    asked = (running.folder / "asked").read_text().splitlines()
    assert asked[asked.index("--webroot-path") + 1] == str(running.webroot)
    assert asked[asked.index("--deploy-hook") + 1].endswith("current/deploy/scripts/certificate.sh deployed")
    assert asked[-1] == "--staging"
    assert "--nginx" not in asked
    assert os.readlink(running.certificates / "fullchain.pem") == f"{running.folder}/live/{NAME}/fullchain.pem"


@pytest.mark.parametrize(
    "arguments",
    [[], ["else"], ["self-signed"], ["self-signed", "a", "b"], ["obtain", "a"], ["deployed", "x"], ["reload", "x"]],
)
def test_a_wrong_call_is_status_2_and_the_usage(nginx: Nginx, arguments: list[str]) -> None:
    done = run(nginx, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Usage: ")
    assert run(nginx, "--help").stdout.startswith("Usage: ")


@pytest.mark.parametrize("name", ["-x", "a b", "a/CN=b", "a\nb", "a,DNS:b", ""])
def test_what_is_no_host_name_is_refused(nginx: Nginx, name: str) -> None:
    done = run(nginx, "self-signed", name)
    assert (done.returncode, "is no host name" in done.stderr) == (1, True)
    assert not nginx.certificates.exists()


def test_the_script_and_the_site_speak_of_the_same_places() -> None:
    site = (PROJECT / "deploy" / "nginx" / "multi-agent-service.conf").read_text()
    defaults = dict(re.findall(r"^([A-Z_]+)=\$\{\1:-(.*)\}$", SCRIPT.read_text(), re.MULTILINE))
    assert f"ssl_certificate {defaults['CERT_DIR']}/fullchain.pem;" in site
    assert f"ssl_certificate_key {defaults['CERT_DIR']}/privkey.pem;" in site
    assert f"root {defaults['WEBROOT']};" in site
