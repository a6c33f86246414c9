"""`python -m worker check`: what would keep a worker from starting, told without starting one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers import PROJECT, SECRET_KEY

URL = "redis://127.0.0.1:1/0"  # nobody is asked


def _check(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "worker", "check"],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(PROJECT), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_each_graph_is_named_with_what_is_wrong_with_it(tmp_path: Path) -> None:
    graphs = PROJECT / "tests/projects/basic/langgraph.json"
    done = _check(tmp_path, REDIS_URL=URL, SECRET_KEY=SECRET_KEY, GRAPHS_CONFIG=str(graphs))
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert "ok two_nodes" in lines
    assert [line for line in lines if not line.startswith("ok ")] == [
        "broken broken RuntimeError: this file cannot be imported"
    ]


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"SECRET_KEY": SECRET_KEY}, "REDIS_URL is not set"),
        ({"REDIS_URL": URL}, "SECRET_KEY is not set"),
        ({"REDIS_URL": URL, "SECRET_KEY": SECRET_KEY, "WORKER_CONCURRENCY": "0"}, "WORKER_CONCURRENCY is wrong"),
        ({"REDIS_URL": URL, "SECRET_KEY": SECRET_KEY, "GRAPHS_CONFIG": "none.json"}, "GRAPHS_CONFIG is wrong"),
    ],
)
def test_a_wrong_setting_is_one_line_and_status_2(tmp_path: Path, environment: dict[str, str], says: str) -> None:
    done = _check(tmp_path, **environment)
    assert done.returncode == 2
    assert done.stderr.startswith(says)
    assert len(done.stderr.splitlines()) == 1
