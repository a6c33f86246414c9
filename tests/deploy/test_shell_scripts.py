"""Every shell script of the project passes shellcheck, and says of itself what it is for."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.deploy.programs import program
from tests.servers import PROJECT

SCRIPTS = sorted(
    [*(PROJECT / "deploy").rglob("*.sh"), *(PROJECT / "tests" / "deploy").rglob("*.sh"), PROJECT / ".ci" / "run"]
)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(PROJECT)))
def test_shellcheck_finds_nothing(script: Path) -> None:
    found = subprocess.run([program("shellcheck"), script], capture_output=True, text=True, timeout=60)
    assert found.returncode == 0, found.stdout + found.stderr


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(PROJECT)))
def test_a_script_says_what_it_is_for_and_stops_at_the_first_error(script: Path) -> None:
    first, second, *_ = lines = script.read_text().splitlines()
    assert first.startswith("#!")
    assert second.startswith("# ")
    assert any(line.startswith(("set -eu", "exec ")) for line in lines)
