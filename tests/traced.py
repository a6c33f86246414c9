"""The test's side of the traced graphs (tests/projects/basic/traced.py): what they left, and letting them go on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any


class Trace:
    """The lines of one job, or of several that share a file: one for each start of a step."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.path.touch()

    def input(self, *, hold: Sequence[str] = (), **more: Any) -> dict[str, Any]:
        """A job's input: the steps in `hold` wait until `let` is called for them."""
        # All that says how a job behaves, for a thread remembers what the one before was given.
        return {"file": str(self.path), "hold": list(hold), "fail": {}, "seconds": 0, **more}

    def let(self, *steps: str, pid: int | None = None) -> None:
        """Let these steps go on, whenever they are started; only in the process `pid`, where one is given."""
        for step in steps:
            Path(f"{self.path}.{step}" if pid is None else f"{self.path}.{step}.{pid}").touch()

    @property
    def starts(self) -> list[tuple[str, int]]:
        """(step, pid) of each start, in order."""
        return [(step, int(pid)) for step, pid in (line.split() for line in self.path.read_text().splitlines())]

    @property
    def steps(self) -> list[str]:
        return [step for step, _ in self.starts]

    def pids(self, step: str) -> list[int]:
        """Where this step was started, in order."""
        return [pid for one, pid in self.starts if one == step]
