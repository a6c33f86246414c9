"""Logs, in a process of their own: configuring them changes what the whole process logs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.servers import PROJECT

SETUP = """
import logging, os, structlog
from shared.logs import configure_logs
from shared.settings import Settings
configure_logs(Settings(_env_file=None))
log = structlog.get_logger("here")
"""


def _run(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", SETUP + code],
        env={"PYTHONPATH": str(PROJECT), **environment},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stdout == ""
    return done.stderr


def test_a_line_is_json_with_the_ids_that_are_bound_also_from_the_standard_library() -> None:
    code = "structlog.contextvars.bind_contextvars(job='j1', attempt=2)\nlog.info('ours')\nlogging.warning('theirs')"
    ours, theirs = (json.loads(line) for line in _run(code).splitlines())
    assert (ours["event"], ours["job"], ours["attempt"], ours["level"]) == ("ours", "j1", 2, "info")
    assert (theirs["event"], theirs["job"], theirs["level"]) == ("theirs", "j1", "warning")


def test_the_level_and_the_form_are_settings() -> None:
    said = _run("log.info('quiet')\nlog.error('loud')", LOG_LEVEL="ERROR", LOG_FORMAT="console")
    assert "quiet" not in said
    assert "loud" in said
    assert not said.startswith("{")


def test_a_log_file_that_was_rotated_is_opened_anew(tmp_path: Path) -> None:
    file = tmp_path / "logs" / "app.log"
    code = f"log.info('before')\nos.rename({str(file)!r}, {str(file) + '.1'!r})\nlog.info('after')"
    assert _run(code, LOG_FILE=str(file)) == ""
    assert json.loads(file.with_name("app.log.1").read_text())["event"] == "before"
    assert json.loads(file.read_text())["event"] == "after"
