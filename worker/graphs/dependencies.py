"""`python -m worker install`: put the `dependencies` of a `langgraph.json` into the environment that runs this.

An entry that begins with a dot is a local project: it is installed, so that changes in it count, where it can be built;
else what it needs is. Any other entry is a requirement, as pip knows it. What the service itself needs keeps its
version: where both cannot be had, nothing is changed.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

from shared.settings import SettingsError
from worker.graphs.config import GraphsConfig

RELEASE = Path(__file__).resolve().parents[2]
# Where install.sh puts uv, beside the releases; and where `make` does.
UV_PLACES = (RELEASE.parent.parent / "tools" / "uv" / "bin" / "uv", RELEASE / ".tools" / "uv" / "bin" / "uv")
_PINNED = re.compile(r"^([a-z0-9-]+)==", re.MULTILINE)


def install(config: GraphsConfig, *, dry_run: bool = False) -> int:
    """Install them, or print the command that would. Gives the exit status; raises `SettingsError`."""
    wanted = uv_arguments(config)
    if not wanted:
        print("The graphs need no packages.")
        return 0
    uv = find_uv()
    target = ["--python", sys.executable]
    # Compiled now, for who runs the service may not write there.
    command = [uv, "pip", "install", *target, "--compile-bytecode", "--constraints", "-", *wanted]
    if dry_run:
        print("Would run this, with the versions of the service's own packages as its input:")
        print(shlex.join(command))
        return 0
    done = subprocess.run(  # noqa: S603 - uv, with words of the operator's own file
        command, input=_own_packages(uv, target), cwd=config.folder, env=_environment(uv), text=True, check=False
    )
    if done.returncode:
        print(
            "The graphs' dependencies cannot be installed, for the reason above. Nothing was changed: what the service "
            "itself needs keeps its version.",
            file=sys.stderr,
        )
    return 1 if done.returncode else 0


def uv_arguments(config: GraphsConfig) -> list[str]:
    """What `uv pip install` is told of the dependencies: local projects and files first, then requirements."""
    local: list[str] = []
    requirements: list[str] = []
    for dependency in config.dependencies:
        if dependency.startswith("."):
            local += _local(config.folder / dependency, dependency)
        elif dependency.startswith("-") or not dependency.strip():
            raise SettingsError(f'GRAPHS_CONFIG is wrong: "{dependency}" in "dependencies" is no requirement')
        else:
            requirements.append(dependency)
    return [*local, *(["--", *requirements] if requirements else [])]


def _local(folder: Path, dependency: str) -> list[str]:
    if not folder.is_dir():
        raise SettingsError(f'GRAPHS_CONFIG is wrong: "dependencies" names {dependency}, and there is no {folder}')
    folder = folder.resolve()
    pyproject, requirements = folder / "pyproject.toml", folder / "requirements.txt"
    project = _read(pyproject)
    is_package = project.get("tool", {}).get("uv", {}).get("package", True)
    if is_package and ("build-system" in project or (folder / "setup.py").is_file()):
        return ["--editable", str(folder)]
    if "project" in project:
        return ["--requirements", str(pyproject)]
    return ["--requirements", str(requirements)] if requirements.is_file() else []


def _read(pyproject: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(pyproject.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise SettingsError(f"GRAPHS_CONFIG is wrong: a dependency's {pyproject} cannot be read: {error}") from None


def find_uv() -> str:
    """The uv to call. Raises `SettingsError` where there is none."""
    named = os.environ.get("UV")
    found = shutil.which(named) if named else shutil.which("uv") or next((str(p) for p in UV_PLACES if p.is_file()), "")
    if not found:
        looked = f"UV is {named}" if named else f"it is neither on the PATH nor {' nor '.join(map(str, UV_PLACES))}"
        raise SettingsError(f"There is no uv to install packages with: {looked}. Install it, or set UV to where it is")
    return found


def _environment(uv: str) -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    if Path(uv) in UV_PLACES:  # what it has downloaded lies beside it
        environment.setdefault("UV_CACHE_DIR", str(Path(uv).parents[2] / "cache"))
    return environment


def _own_packages(uv: str, target: list[str]) -> str:
    """The service's own packages as constraints: locked ones, in the versions that are installed."""
    installed = _ask(uv, "pip", "freeze", *target).splitlines()
    pinned = [line for line in installed if _PINNED.match(line)]
    if not (RELEASE / "uv.lock").is_file():
        return "\n".join(pinned)
    export = ("export", "--frozen", "--no-dev", "--no-hashes", "--no-emit-project", "--project", str(RELEASE))
    own = set(_PINNED.findall(_ask(uv, *export)))
    return "\n".join(line for line in pinned if line.partition("==")[0] in own)


def _ask(uv: str, *arguments: str) -> str:
    asked = subprocess.run(  # noqa: S603 - uv, with words of the operator's own file
        [uv, "--quiet", *arguments], cwd=RELEASE, env=_environment(uv), capture_output=True, text=True, check=False
    )
    if asked.returncode:
        raise SettingsError(f"uv cannot tell which packages the service has: {asked.stderr.strip()}")
    return asked.stdout
