"""Two deployments with a primary each behind one nginx, as docs/operations/scale.md parts tenants among them."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.deploy.nginx import NAME, Nginx
from tests.servers import PROJECT, SECRET_KEY, Gateway, Processes, Valkey

PAGE = PROJECT / "docs" / "operations" / "scale.md"
GRAPHS = str(PROJECT / "tests" / "projects" / "basic" / "langgraph.json")


@dataclass(frozen=True)
class Deployment:
    """A gateway and a worker on a primary of their own, under a name of their own."""

    name: str
    gateway: Gateway
    key: str


@pytest.fixture
def deployments(processes: Processes, tmp_path: Path) -> Iterator[tuple[Deployment, Deployment]]:
    primaries = [Valkey(tmp_path / f"valkey-{name}") for name in "ab"]
    workers = [processes.worker(primary.url, GRAPHS_CONFIG=GRAPHS) for primary in primaries]
    started = [
        Deployment(name, processes.gateway(primary.url, AUTH_REQUIRED="true", ALLOWED_HOSTS=name), _key(primary.url))
        for name, primary in zip(_names(), primaries, strict=True)
    ]
    for worker, one in zip(workers, started, strict=True):
        worker.wait_for_line("worker ready", 30)
        _ready(one)
    yield started[0], started[1]
    for primary in primaries:
        primary.stop()


def test_each_name_leads_to_a_deployment_of_its_own(deployments: tuple[Deployment, Deployment], tmp_path: Path) -> None:
    a, b = deployments
    with _nginx(tmp_path / "nginx", a, b) as nginx, nginx.client() as client:
        jobs = {one.name: _submit(client, one) for one in deployments}
        for one, other in ((a, b), (b, a)):
            ended = _ask(client, one, f"/api/v1/jobs/{jobs[one.name]}?wait=20", one.key)
            assert ended.json()["status"] == "succeeded"
            # The other deployment knows neither the job nor the key.
            assert _ask(client, other, f"/api/v1/jobs/{jobs[one.name]}", other.key).status_code == 404
            assert _ask(client, other, f"/api/v1/jobs/{jobs[one.name]}", one.key).status_code == 401


def _names() -> list[str]:
    found = re.findall(r"^    (\S+\.example\.com)\s+deployment_", PAGE.read_text(), re.M)
    assert len(found) == 2
    return found


def _nginx(folder: Path, a: Deployment, b: Deployment) -> Nginx:
    """The site with what the page adds to it."""
    page = re.search(r"^```nginx\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    assert page
    added = page[1].replace("127.0.0.1:8000", f"127.0.0.1:{a.gateway.port}")
    added = added.replace("127.0.0.1:8010", f"127.0.0.1:{b.gateway.port}")
    return Nginx(
        folder,
        a.gateway.port,
        {
            "upstream multi_agent_gateway {": f"{added}\nupstream multi_agent_gateway {{",
            "proxy_pass http://multi_agent_gateway": "proxy_pass http://$deployment",
            f"server_name {NAME};": f"server_name {a.name} {b.name};",
        },
        sites="multi-agent-service",
    )


def _key(redis_url: str) -> str:
    command = [sys.executable, "-m", "gateway", "keys", "create", "--name", "test", "--tenant", "acme"]
    made = subprocess.run(
        command, cwd=PROJECT, capture_output=True, text=True, timeout=60, check=True,
        env={"REDIS_URL": redis_url, "SECRET_KEY": SECRET_KEY, "PYTHONWARNINGS": "ignore"},
    )  # fmt: skip
    return made.stdout.splitlines()[-1]


def _ready(one: Deployment) -> None:
    one.gateway.process.wait_for_line("Application startup complete", 30)


def _ask(client: httpx.Client, one: Deployment, path: str, key: str) -> httpx.Response:
    return client.get(path, headers=_headers(one, key), extensions={"sni_hostname": NAME})


def _submit(client: httpx.Client, one: Deployment) -> str:
    answer = client.post(
        "/api/v1/jobs",
        json={"graph": "echo", "input": {"value": one.name}},
        headers=_headers(one, one.key),
        extensions={"sni_hostname": NAME},
    )
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def _headers(one: Deployment, key: str) -> dict[str, str]:
    return {"host": one.name, "authorization": f"Bearer {key}"}
