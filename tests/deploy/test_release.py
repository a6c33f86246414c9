"""release.sh: a release is complete or not there, whatever its code comes from; with the real uv, and no network."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.servers import PROJECT, wait_until
from worker.graphs.dependencies import find_uv

SCRIPT = PROJECT / "deploy" / "scripts" / "release.sh"
PYPROJECT = """
[project]
name = "small"
version = "1"
requires-python = ">=3.11"
[tool.uv]
package = false
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A project of the same form as this one, without packages; each other user's umask may have been at work."""
    folder = tmp_path / "source"
    for name in ("gateway", "worker", "shared", "data", ".venv"):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text("")
    (folder / "pyproject.toml").write_text(PYPROJECT)
    (folder / "gateway" / "main.py").write_text("word = 'committed'\n")
    (folder / "gateway" / "main.py").chmod(0o600)
    (folder / ".env").write_text("SECRET_KEY=of-the-source\n")
    subprocess.run([find_uv(), "lock", "--quiet", "--offline"], cwd=folder, check=True, env=environment(tmp_path))
    return folder


def environment(tmp_path: Path, **more: str) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "APP_DIR": str(tmp_path / "app"),
        "UV": find_uv(),
        "UV_PYTHON": sys.executable,
        "UV_OFFLINE": "1",
        **more,
    }


def release(tmp_path: Path, *arguments: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SCRIPT, *arguments], env=environment(tmp_path, **more), capture_output=True, text=True, timeout=120
    )


def made(done: subprocess.CompletedProcess[str]) -> Path:
    """The folder that it printed, which has to have all that a release needs."""
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.splitlines()[-1])
    assert os.readlink(folder / ".env") == "../../.env"
    assert not (folder / "data").exists()
    assert (folder / "gateway" / "main.py").stat().st_mode & 0o777 == 0o644
    assert list((folder / "gateway" / "__pycache__").glob("main.*.pyc"))
    word = [folder / ".venv" / "bin" / "python", "-c", "import sys, gateway.main; print(sys.prefix, gateway.main.word)"]
    prefix, what = subprocess.run(word, cwd=folder, capture_output=True, text=True, check=True).stdout.split()
    assert prefix == str(folder / ".venv")
    assert what == "committed"
    return folder


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", folder, "-c", "user.name=test", "-c", "user.email=test@localhost", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.strip()


def commit(source: Path) -> str:
    git(source, "init", "--quiet", "--initial-branch=main")
    git(source, "add", "gateway", "worker", "shared", "pyproject.toml", "uv.lock")
    git(source, "commit", "--quiet", "--message=first")
    return git(source, "rev-parse", "--short=12", "HEAD")


def test_of_a_checkout_it_takes_what_is_committed_and_says_what_it_leaves_out(source: Path, tmp_path: Path) -> None:
    name = commit(source)
    (source / "gateway" / "main.py").write_text("word = 'changed'\n")
    done = release(tmp_path, "--source", source)
    assert made(done).name.endswith(f"-{name}")
    assert "changes that are not committed: they are left out" in done.stderr


def test_of_a_repository_it_takes_a_branch_a_tag_or_a_commit(source: Path, tmp_path: Path) -> None:
    first = commit(source)
    git(source, "tag", "v1")
    git(source, "switch", "--quiet", "--create", "next")
    git(source, "commit", "--quiet", "--allow-empty", "--message=second")
    second = git(source, "rev-parse", "--short=12", "HEAD")
    git(source, "switch", "--quiet", "main")
    for ref, wanted in (("v1", first), ("next", second), (first, first)):
        folder = made(release(tmp_path, "--source", f"file://{source}", "--ref", ref))
        assert folder.name.endswith(f"-{wanted}")
        folder.rename(tmp_path / ref)
    done = release(tmp_path, "--source", f"file://{source}", "--ref", "nothing")
    assert done.returncode == 1
    assert f"there is no nothing in file://{source}" in done.stderr


def test_a_folder_or_a_tarball_will_do(source: Path, tmp_path: Path) -> None:
    folder = made(release(tmp_path, "--source", source))
    folder.rename(tmp_path / "first")
    with tarfile.open(tmp_path / "code.tar.gz", "w:gz") as archive:
        for name in ("gateway", "worker", "shared", "pyproject.toml", "uv.lock"):
            archive.add(source / name, f"small-1.0/{name}")
    made(release(tmp_path, "--source", tmp_path / "code.tar.gz"))


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_what_was_interrupted_leaves_no_release(source: Path, tmp_path: Path, how: signal.Signals) -> None:
    slow = tmp_path / "slow-uv"
    slow.write_text(f'#!/bin/sh\n"{find_uv()}" "$@"\ntouch "{tmp_path}/called"\nsleep 2\n')
    slow.chmod(0o755)
    process = subprocess.Popen(
        [SCRIPT, "--source", source], env=environment(tmp_path, UV=str(slow)), stderr=subprocess.DEVNULL,
        stdout=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    wait_until((tmp_path / "called").exists, 60)
    os.killpg(process.pid, how)
    output, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert output == b""
    releases = tmp_path / "app" / "releases"
    assert [folder.name for folder in releases.iterdir() if not folder.name.startswith(".")] == []
    folder = made(release(tmp_path, "--source", source))
    assert [path for path in releases.iterdir() if path.is_dir()] == [folder]


def test_where_the_packages_cannot_be_had_there_is_no_release(source: Path, tmp_path: Path) -> None:
    (source / "uv.lock").write_text("version = 99\n")
    done = release(tmp_path, "--source", source)
    assert done.returncode == 1
    assert f"the packages of {source} cannot be installed" in done.stderr
    assert done.stdout == ""
    assert [path for path in (tmp_path / "app" / "releases").iterdir() if path.is_dir()] == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [([], "give --source"), (["--source"], "needs a value"), (["--all"], "there is no --all")],
)
def test_a_wrong_call_is_refused(tmp_path: Path, arguments: list[str], words: str) -> None:
    done = release(tmp_path, *arguments)
    assert done.returncode == 2
    assert words in done.stderr


def test_what_is_not_this_project_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    done = release(tmp_path, "--source", tmp_path / "other")
    assert done.returncode == 1
    assert "is not this project" in done.stderr
