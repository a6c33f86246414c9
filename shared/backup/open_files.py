"""Who has files open, or works in a folder: what is in use must not be replaced."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def users_of(*paths: Path) -> int:
    """How many other processes of this user have one of these files open, or work in one of these folders."""
    wanted = {str(path.resolve()) for path in paths}
    return sum(1 for process in Path("/proc").glob("[0-9]*") if _uses(process, wanted))


def _uses(process: Path, wanted: set[str]) -> bool:
    with suppress(OSError):  # it has ended, or is somebody else's
        links = [process / "cwd", *(process / "fd").iterdir()]
        return process.name != "self" and any(_target(link) in wanted for link in links)
    return False


def _target(link: Path) -> str:
    with suppress(OSError):
        return str(link.readlink())
    return ""
