"""The results that are kept: one section for each part of the benchmark, replaced when that part has run."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime

from bench.processes import ROOT

RESULTS = ROOT / "bench" / "results.md"
TITLE = "# Results\n"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def measured_on() -> str:
    """What was measured, when, on what."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, stdout=subprocess.PIPE, check=False
    ).stdout
    return (
        f"Commit {commit.decode().strip() or '?'}, {datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, "
        f"{platform.machine()}, Python {platform.python_version()}."
    )


def conditions(repeats: int) -> str:
    """The same, of a part that is repeated."""
    return f"{measured_on()} Median of {repeats} runs, least and most in brackets. Only ratios travel."


def keep(section: str, body: str) -> None:
    """Put this section's text in the place of what it held before, or at the end."""
    old = RESULTS.read_text() if RESULTS.exists() else TITLE
    new = f"## {section}\n\n{body.strip()}\n"
    text, found = re.subn(rf"^## {section}\n.*?(?=^## |\Z)", lambda _: f"{new}\n", old, flags=re.M | re.S)
    RESULTS.write_text((text if found else f"{old.rstrip()}\n\n{new}").rstrip() + "\n")
    print(f"kept in {RESULTS.relative_to(ROOT)}")
