"""Upgrades of a `Machine`: what to upgrade to, the script, clients that work all the time, what must not happen."""

from __future__ import annotations

import http.client
import itertools
import json
import shutil
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import psutil

from tests.deploy.machine import PARTS, Machine
from tests.servers import PROJECT, wait_until

IDLE_SECONDS = (
    0.3  # for how long these clients keep an idle connection: shorter than GATEWAY_DRAIN_SECONDS, as nginx does
)
PAUSE_SECONDS = 0.1  # between two jobs of a client
GATEWAY = "multi-agent-service"
WORKERS = ("multi-agent-worker:multi-agent-worker_00", "multi-agent-worker:multi-agent-worker_01")
# Stands for uv, which would fetch all packages: the tests' own environment has them.
UV = f'#!/bin/sh\n[ "$1" != sync ] || exec ln -sfn "{PROJECT}/.venv" .venv\n'


def with_uv(machine: Machine) -> None:
    """Put uv's place on this machine."""
    uv = machine.app / "tools" / "uv" / "bin" / "uv"
    uv.parent.mkdir(parents=True)
    uv.write_text(UV)
    uv.chmod(0o755)


def with_fewer_gateways(machine: Machine) -> None:
    """Two processes do here: each reload starts all of them anew."""
    file = machine.folder / "conf.d" / "multi-agent-service.conf"
    file.write_text(file.read_text().replace('GATEWAY_WORKERS="4"', 'GATEWAY_WORKERS="2"'))


def source(folder: Path, changes: Mapping[str, tuple[str, str]] | None = None) -> Path:
    """A checkout of the code as it is, with `(old, new)` replaced once in each of these files."""
    folder.mkdir(parents=True)
    for part in PARTS:
        copy = shutil.copytree if (PROJECT / part).is_dir() else shutil.copy
        copy(PROJECT / part, folder / part, **_ignored(PROJECT / part))
    for name, (old, new) in (changes or {}).items():
        text = (folder / name).read_text()
        assert text.count(old) >= 1, f"{name} has no {old!r}"
        (folder / name).write_text(text.replace(old, new, 1))
    return folder


def _ignored(path: Path) -> dict[str, Any]:
    return {"ignore": shutil.ignore_patterns("__pycache__")} if path.is_dir() else {}


def upgrade(machine: Machine, *arguments: str | Path, within: float = 150) -> subprocess.CompletedProcess[str]:
    """Run `upgrade.sh` to its end."""
    with upgrading(machine, *arguments) as script:
        output, _ = script.communicate(timeout=within)
    return subprocess.CompletedProcess(script.args, script.returncode, output, "")


def upgrading(machine: Machine, *arguments: str | Path) -> subprocess.Popen[str]:
    """`upgrade.sh` of the release in use, under way; in a process group of its own."""
    return subprocess.Popen(
        [machine.app / "current/deploy/scripts/upgrade.sh", *arguments],
        env={**machine.environment(), "SUPERVISOR_CONF_DIR": str(machine.folder / "conf.d"), "WORKER_SECONDS": "30"},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def current(machine: Machine) -> Path:
    return (machine.app / "current").resolve()


def releases(machine: Machine) -> set[Path]:
    return {folder for folder in (machine.app / "releases").iterdir() if folder.is_dir()}


def releases_that_serve(machine: Machine) -> set[Path]:
    """Where the gateway's processes and the workers run."""
    found = set()
    gateway = psutil.Process(machine.process_id(GATEWAY))
    for process in (gateway, *gateway.children(), *(psutil.Process(machine.process_id(name)) for name in WORKERS)):
        found.add(Path(process.cwd()))
    return found


def process_ids(machine: Machine) -> list[int]:
    return [machine.process_id(name) for name in (GATEWAY, *WORKERS)]


@dataclass
class Accepted:
    """A job that was answered with 202."""

    id: str
    trace: Path
    long: bool
    record: dict[str, Any] = field(default_factory=dict)


class Load:
    """Clients that submit jobs and wait for them all the time, over connections that they keep. Use it with `with`.

    Short jobs end while a worker drains, long ones do not. `failures` has each request that was not answered as it
    should be.
    """

    def __init__(self, machine: Machine, folder: Path, *, short: int = 3, long: int = 3) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.machine, self.folder = machine, folder
        self.failures: list[str] = []
        self.requests = 0
        self.jobs: list[Accepted] = []
        self._numbers = itertools.count()
        self._asked = threading.Event()
        self._key = machine.api_key
        self._threads = [threading.Thread(target=self._run, args=[number >= short]) for number in range(short + long)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        wait_until(lambda: len(self.jobs) > 20, 30, what="the clients are at work")
        return self

    def __exit__(self, *_: object) -> None:
        self._asked.set()
        for thread in self._threads:
            thread.join(90)

    def _run(self, long: bool) -> None:
        client = _Connection(self)
        while not self._asked.wait(PAUSE_SECONDS):
            trace = self.folder / f"{next(self._numbers)}"
            value = {"file": str(trace), "seconds": 3 if long else 0.1}  # a step; there are two
            made = client.ask("POST", "/jobs", {"graph": "traced" if long else "counted", "input": value}, 202)
            if made is None:
                time.sleep(0.1)
                continue
            job = Accepted(made["id"], trace, long)
            self.jobs.append(job)
            deadline = time.monotonic() + 60
            while job.record.get("status") not in ("succeeded", "failed") and time.monotonic() < deadline:
                record = client.ask("GET", f"/jobs/{job.id}?wait=20", None, 200)
                if record is None:
                    time.sleep(0.1)
                else:
                    job.record = record
        client.http.close()


class _Connection:
    """One connection to the gateway, kept as a proxy does."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.http = http.client.HTTPConnection("127.0.0.1", load.machine.port, timeout=30)
        self._used_at = time.monotonic()

    def ask(self, method: str, path: str, body: Any, expected: int) -> dict[str, Any] | None:
        if time.monotonic() - self._used_at > IDLE_SECONDS:
            self.http.close()
        headers = {"authorization": f"Bearer {self.load._key}", "content-type": "application/json"}
        self.load.requests += 1
        try:
            self.http.request(method, f"/api/v1{path}", None if body is None else json.dumps(body), headers)
            answer = self.http.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException) as error:
            self.load.failures.append(f"{method} {path}: {error!r}")
            self.http.close()
            return None
        finally:
            self._used_at = time.monotonic()
        if answer.status != expected:
            self.load.failures.append(f"{method} {path}: {answer.status} {text[:200]!r}")
            return None
        return dict(json.loads(text))


def check(load: Load) -> None:
    """No request failed, and each accepted job has succeeded once. Raises `AssertionError`."""
    assert not load.failures, (len(load.failures), load.requests, load.failures[:5])
    unfinished = [(job.id, job.record.get("status"), job.record.get("error")) for job in load.jobs]
    assert not [one for one in unfinished if one[1] != "succeeded"], [
        one for one in unfinished if one[1] != "succeeded"
    ]
    for job in load.jobs:
        assert job.record["tries"] == 1, job.record
        lines = job.trace.read_text().splitlines()
        if not job.long:
            assert len(lines) == 1, (job.id, lines)
        elif job.record["attempt"] == 1:
            assert [line.split()[0] for line in lines] == ["first", "second"], lines
        else:
            # Handed over: what had ended is not done again, what was under way is.
            steps = [line.split()[0] for line in lines]
            assert steps[0] == "first", steps
            assert steps[-1] == "second", steps
            assert len(steps) <= 1 + job.record["attempt"], (steps, job.record)
