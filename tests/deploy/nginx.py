"""Debian's nginx with the project's real site, in a folder of its own: ports, paths and the name are redirected."""

from __future__ import annotations

import os
import re
import signal
import socket
import ssl
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import httpx
import trustme

from tests.deploy.programs import program
from tests.servers import PROJECT, Process, free_port, wait_until

SITES = PROJECT / "deploy" / "nginx"
NAME = "localhost"  # stands for your-domain.com
_MAIN = """
{user}
pid {folder}/nginx.pid;
error_log {folder}/nginx-error.log;
worker_processes 2;
daemon off;
events {{ worker_connections 4096; }}
http {{
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    access_log {folder}/other-access.log;
    # As Debian's nginx.conf has them, for the site to overrule.
    types {{ text/html html; text/css css; application/javascript js; }}
    default_type application/octet-stream;
    ssl_protocols TLSv1 TLSv1.1 TLSv1.2 TLSv1.3;
    ssl_prefer_server_ciphers on;
    gzip on;
    include {folder}/sites/*.conf;
}}
"""


class Nginx:
    """A folder with nginx's configuration, and nginx running on it. Use it in a `with` block."""

    def __init__(
        self, folder: Path, gateway_port: int, replaced: Mapping[str, str] | None = None, *, sites: str = "*"
    ) -> None:
        self.folder = folder
        self.http_port, self.https_port = free_port(), free_port()
        self.authority = trustme.CA()
        self.certificates = folder / "ssl"
        self.webroot = folder / "www"
        for part in (self.certificates, self.webroot, folder / "sites"):
            part.mkdir(parents=True)
        self.put_certificate()
        self.configuration = folder / "nginx.conf"
        user = "user root;" if os.geteuid() == 0 else ""
        self.configuration.write_text(_MAIN.format(folder=folder, user=user))
        for site in sorted(SITES.glob(f"{sites}.conf")):
            text = self._redirected(site.read_text(), gateway_port)
            for old, new in (replaced or {}).items():
                if site.name == "multi-agent-service.conf":
                    assert old in text, old
                text = text.replace(old, new)
            (folder / "sites" / site.name).write_text(text)

    @property
    def command(self) -> list[str]:
        return [str(program("nginx")), "-c", str(self.configuration), "-p", str(self.folder)]

    @property
    def access_log(self) -> Path:
        return self.folder / "logs" / "multi-agent-service.access.log"

    @property
    def error_log(self) -> Path:
        return self.folder / "logs" / "multi-agent-service.error.log"

    def put_certificate(self) -> None:
        """A certificate of this test's own authority, where the site looks for it."""
        made = self.authority.issue_cert(NAME)
        (self.certificates / "fullchain.pem").write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
        made.private_key_pem.write_to_path(str(self.certificates / "privkey.pem"))

    def trusting(self) -> ssl.SSLContext:
        """What a client needs to believe this server."""
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        return context

    def client(self, source: str = "127.0.0.1", **headers: str) -> httpx.Client:
        """A client of the site that comes from this address."""
        transport = httpx.HTTPTransport(verify=self.trusting(), local_address=source, trust_env=False)
        base = f"https://{NAME}:{self.https_port}"
        return httpx.Client(base_url=base, transport=transport, headers=headers, timeout=75, trust_env=False)

    def check(self) -> subprocess.CompletedProcess[str]:
        """`nginx -t`."""
        return subprocess.run([*self.command, "-t"], capture_output=True, text=True, timeout=30)

    def reload(self) -> None:
        self.process.send(signal.SIGHUP)

    def __enter__(self) -> Self:
        environment = {"PATH": os.environ["PATH"]}
        self.process = Process("nginx", self.command, self.folder, environment)
        wait_until(self._accepts, what="nginx listens")
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.status is None:
            self.process.stop()

    def _accepts(self) -> bool:
        assert self.process.status is None, self.process.log
        try:
            socket.create_connection(("127.0.0.1", self.https_port), 1).close()
        except OSError:
            return False
        return True

    def _redirected(self, text: str, gateway_port: int) -> str:
        ports = {"80": self.http_port, "443": self.https_port}

        def listen(match: re.Match[str]) -> str:
            return f"listen {'[::1]' if match[1] else '127.0.0.1'}:{ports[match[2]]}"

        logs = self.folder / "logs"
        logs.mkdir(exist_ok=True)
        if not socket.has_ipv6 or not _ipv6_loopback():
            text = re.sub(r"^ *listen \[::\].*\n", "", text, flags=re.MULTILINE)
        text = re.sub(r"\blisten (\[::\]:)?(80|443)\b", listen, text)
        for old, new in {
            "127.0.0.1:8000": f"127.0.0.1:{gateway_port}",
            "your-domain.com": NAME,
            "/etc/ssl/multi-agent-service": str(self.certificates),
            "/var/www/multi-agent-service": str(self.webroot),
            "/var/log/nginx": str(logs),
        }.items():
            text = text.replace(old, new)
        return text


def _ipv6_loopback() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as one:
            one.bind(("::1", 0))
    except OSError:
        return False
    return True
