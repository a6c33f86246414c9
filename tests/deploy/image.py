"""What a Dockerfile says, done without Docker: the same commands in the same order, each stage in an empty root.

image = Image.build(machine, {"GRAPHS": "my-graphs"})
image.start("python", "-m", "gateway", REDIS_URL="redis://…")

A new Debian with a Python in /usr/local stands in for the base image; its Python may be another than the image's. The
context is /source, without what .dockerignore leaves out. An instruction that is not known here is an error.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, Self

import orjson
from docker.utils.build import exclude_paths
from dockerfile_parse import DockerfileParser

from tests.deploy.new_machine import NewMachine
from tests.servers import PROJECT

DOCKERFILE = PROJECT / "deploy" / "docker" / "Dockerfile"
BASE = "python:3.12-slim"
_VARIABLE = re.compile(r"\$\{(\w+)\}")


def instructions(dockerfile: str) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile with what follows them, continued lines in one."""
    parsed: list[dict[str, Any]] = DockerfileParser(fileobj=BytesIO(dockerfile.encode())).structure
    return [(one["instruction"], one["value"]) for one in parsed if one["instruction"] != "COMMENT"]


class Image:
    """The last stage: its root on the machine, and what its instructions say about running it."""

    def __init__(self, machine: NewMachine, given: Mapping[str, str]) -> None:
        self.machine = machine
        self.given = given
        self.arguments: dict[str, str] = {}
        self.environment: dict[str, str] = {}
        self.stages: dict[str, str] = {}
        self.ran: list[str] = []
        self.labels: dict[str, str] = {}
        self.command: list[str] = []
        self.health: list[str] = []
        self.context = Path()
        self.root, self.folder, self.user = "", "/", ""

    @classmethod
    def build(cls, machine: NewMachine, given: Mapping[str, str]) -> Self:
        """Do all of it. Raises `AssertionError` with what was printed where a command fails."""
        image = cls(machine, given)
        install = ("apt-get", "install", "--yes", "-qq", "--no-install-recommends", "python3-venv")
        machine.check(*install, DEBIAN_FRONTEND="noninteractive")
        machine.check("python3", "-m", "venv", "/usr/local")
        image.context = _context(machine.root / "source", machine.root / "context")
        for instruction, value in instructions(DOCKERFILE.read_text()):
            getattr(image, f"_{instruction.lower()}")(value)
        return image

    def start(self, *command: str, **environment: str) -> subprocess.Popen[str]:
        """Start a command as the image's user, in its folder and its environment, and in nothing else."""
        return self.machine.start(*self._inside(command, environment))

    def check(self, *command: str, **environment: str) -> str:
        """Run one to its end, where it has to succeed: what it printed."""
        return self.machine.check(*self._inside(command, environment))

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run one to its end."""
        return self.machine.run(*self._inside(command, environment))

    def path(self, inside: str) -> Path:
        """A path of the image, from outside."""
        return self._on_machine(self.root) / inside.lstrip("/")

    def _on_machine(self, path: str) -> Path:
        return self.machine.root / path.lstrip("/")

    def _inside(self, command: tuple[str, ...], environment: Mapping[str, str]) -> list[str]:
        variables = [f"{name}={value}" for name, value in {**self.environment, **environment}.items()]
        enter = ["chroot", *([f"--userspec={self.user}", "--groups="] if self.user else []), self.root]
        in_folder = ["/bin/sh", "-c", 'cd "$0" && exec "$@"', self.folder, *command]
        return [*enter, "/usr/bin/env", "--ignore-environment", *variables, *in_folder]

    def _value(self, text: str) -> str:
        return _VARIABLE.sub(lambda found: {**self.environment, **self.arguments}[found[1]], text)

    def _arg(self, value: str) -> None:
        name, _, default = value.partition("=")
        self.arguments[name] = self.given.get(name, default)

    def _from(self, value: str) -> None:
        if not self.stages:
            self.of_all_stages = self.arguments
        base, *name = _VARIABLE.sub(lambda found: self.of_all_stages[found[1]], value).split(" AS ")
        assert base == BASE
        self.arguments = {}  # a stage sees those that it names itself
        self.root, self.folder, self.user = f"/stages/{len(self.stages)}", "/", ""
        self.stages[name[0] if name else ""] = self.root
        self.environment = {"PATH": "/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin", "HOME": "/root"}
        left_out = " ".join(f"--exclude=./{name}" for name in ("stages", "source", "context", "var/cache"))
        self.machine.check(
            "sh", "-ec",
            f"mkdir -p {self.root}/tmp\n"
            f"tar --one-file-system {left_out} -C / -cf - . | tar -C {self.root} -xf -\n"
            f"mount --rbind {self.root} {self.root}\n"
            f"mount -t proc proc {self.root}/proc\n"
            f"mount --rbind /dev {self.root}/dev",
        )  # fmt: skip

    def _env(self, value: str) -> None:
        for pair in shlex.split(value):
            name, _, text = pair.partition("=")
            self.environment[name] = self._value(text)

    def _workdir(self, value: str) -> None:
        self.folder = value
        self.path(value).mkdir(parents=True, exist_ok=True)

    def _copy(self, value: str) -> None:
        *sources, target = self._value(value).split()
        origin = self.context
        if sources[0].startswith("--from="):
            origin = self._on_machine(self.stages[sources.pop(0).removeprefix("--from=")])
        into = self.path(f"{self.folder}/{target}")
        for source in sources:
            found = origin / source.lstrip("/")
            if found.is_dir():
                shutil.copytree(found, into, symlinks=True, dirs_exist_ok=True)
            else:
                shutil.copy2(found, into / found.name if target.endswith("/") else into, follow_symlinks=False)

    def _run(self, value: str) -> None:
        # How the machine reaches the registries comes with it, and uv's cache, so that nothing is loaded twice.
        own = {name: text for name, text in self.machine.environment().items() if name not in ("PATH", "HOME")}
        self.machine.check("sh", "-ec", f"mkdir -p {self.root}/root/uv-cache; cp /root/ca.crt {self.root}/root/")
        self.machine.check("mount", "--bind", "/root/uv-cache", f"{self.root}/root/uv-cache")
        self.machine.check(*self._inside(("/bin/sh", "-c", value), {**own, **self.arguments}))
        self.machine.check("umount", f"{self.root}/root/uv-cache")
        self.ran.append(value)

    def _user(self, value: str) -> None:
        self.user = value

    def _cmd(self, value: str) -> None:
        self.command = orjson.loads(value)

    def _healthcheck(self, value: str) -> None:
        self.health = orjson.loads(value.partition(" CMD ")[2])

    def _label(self, value: str) -> None:
        self.labels |= {name: self._value(text) for name, text in (one.split("=", 1) for one in shlex.split(value))}

    def _expose(self, value: str) -> None:
        self.port = int(value)

    def _stopsignal(self, value: str) -> None:
        self.stop_signal = value


def _context(project: Path, into: Path) -> Path:
    """What a build of this project gets to see: all but what .dockerignore leaves out."""
    ignored = (project / ".dockerignore").read_text().splitlines()
    for name in sorted(exclude_paths(str(project), [line for line in ignored if not line.startswith("#")])):
        if not (project / name).is_dir():
            (into / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(project / name, into / name, follow_symlinks=False)
    return into
