"""Compose's site on a real nginx and real gateways: it follows them as they are scaled, and lets nobody else in."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.deploy.compose_nginx import ComposeNginx, Names
from tests.servers import PROJECT, Gateway, Processes, free_port, wait_until
from tests.submitters import Submitters

GRAPHS = str(PROJECT / "tests" / "projects" / "basic" / "langgraph.json")


class Gateways:
    """`docker compose up --scale gateway=…`: all on one port, each on an address of its own, under one name."""

    def __init__(self, processes: Processes, names: Names, redis_url: str) -> None:
        self.processes, self.names, self.redis_url = processes, names, redis_url
        self.port = free_port()
        self.running: dict[str, Gateway] = {}

    def add(self, address: str) -> None:
        """Start one more; its name leads to it once it is well."""
        gateway = self.processes.gateway(
            self.redis_url, HOST=address, PORT=str(self.port), TRUSTED_PROXIES="127.0.0.0/8", GATEWAY_DRAIN_SECONDS="8"
        )
        gateway.url = f"http://{address}:{self.port}"
        gateway.api = f"{gateway.url}/api/v1"
        self.running[address] = gateway.ready(30)
        self.names.addresses.append(address)

    def remove(self, address: str) -> None:
        """Stop one; a container's name goes when its process is gone."""
        assert self.running[address].process.stop() == 0
        self.names.addresses.remove(address)

    def accepted(self) -> Counter[str]:
        """How many jobs each of them has accepted."""
        return Counter({address: one.process.log.count('"job accepted"') for address, one in self.running.items()})


class ThroughNginx(Submitters):
    """Two clients of the site."""

    def __init__(self, nginx: ComposeNginx) -> None:
        super().__init__([], count=2)
        self.nginx = nginx

    def client(self, number: int) -> httpx.Client:
        return self.nginx.client()


@pytest.fixture
def names() -> Iterator[Names]:
    with Names() as server:
        yield server


@pytest.fixture
def gateways(processes: Processes, names: Names, valkey_url: str) -> Gateways:
    processes.worker(valkey_url, GRAPHS_CONFIG=GRAPHS).wait_for_line("worker ready", 30)
    return Gateways(processes, names, valkey_url)


def test_nginx_starts_without_gateways_and_follows_them_as_they_come_and_go(
    gateways: Gateways, names: Names, tmp_path: Path
) -> None:
    with ComposeNginx(tmp_path / "nginx", names, gateways.port) as nginx:
        with nginx.client() as client:
            assert client.get("/health").status_code == 502
            gateways.add("127.0.0.2")
            wait_until(lambda: client.get("/health").status_code == 200, 15, what="the first gateway is found")
        with ThroughNginx(nginx) as clients:
            gateways.add("127.0.0.3")
            gateways.add("127.0.0.4")
            wait_until(lambda: min(gateways.accepted().values()) >= 5, 20, what="all three work")
            gateways.remove("127.0.0.2")
            before = gateways.accepted()
            wait_until(lambda: (gateways.accepted() - before).total() > 20, 20, what="the others go on")
        assert not clients.broken
        assert [refusal.told for refusal in clients.refused] == []
        assert gateways.accepted().total() == len(clients.accepted)


def test_the_site_is_well_and_closed_to_other_names(gateways: Gateways, names: Names, tmp_path: Path) -> None:
    with ComposeNginx(tmp_path / "nginx", names, gateways.port) as nginx:
        checked = nginx.check()
        assert checked.returncode == 0
        assert "[warn]" not in checked.stderr
        plain = f"http://127.0.0.1:{nginx.http_port}"
        redirect = httpx.get(plain, headers={"Host": "localhost"}, trust_env=False)
        assert (redirect.status_code, redirect.headers["location"]) == (308, "https://localhost/")
        with pytest.raises(httpx.RemoteProtocolError):
            httpx.get(plain, headers={"Host": "other.example.com"}, trust_env=False)
        # As the container's health check does it.
        probe = f"{plain}/.well-known/acme-challenge/"
        assert curl("--max-time", "4", "--header", "Host: localhost", probe) == 0
        other = f"other.example.com:{nginx.https_port}"
        assert curl("--insecure", "--resolve", f"{other}:127.0.0.1", f"https://{other}/") == 35, "a handshake"


def curl(*arguments: str) -> int:
    return subprocess.run(["curl", "--silent", *arguments], capture_output=True, timeout=10).returncode
