"""Debian's programs that the deployment tests run (`get-programs.sh` gets them), wherever they are."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tests.servers import PROJECT

UNPACKED = PROJECT / ".tools" / "debian"
_FOLDERS = [*os.get_exec_path(), "/usr/sbin", "/sbin", str(UNPACKED / "usr/bin"), str(UNPACKED / "usr/sbin")]


def program(name: str) -> Path:
    """Where this program is. Raises `AssertionError` where it is not: `make deploy-test` gets it."""
    found = shutil.which(name, path=os.pathsep.join(_FOLDERS))
    assert found, f"{name} is missing: make deploy-test gets it"
    return Path(found)


def next_program(path: str) -> list[str]:
    """The command for a program of Debian's next release, by its path there, with the libraries of that release."""
    root = UNPACKED / "forky"
    assert (root / path).is_file(), f"{path} is missing: make deploy-test gets it"
    libraries = root / "usr/lib" / f"{os.uname().machine}-linux-gnu"
    (loader,) = libraries.glob("ld-linux-*")
    return [str(loader), "--library-path", str(libraries), str(root / path)]


def environment(**more: str) -> dict[str, str]:
    """The environment in which unpacked programs find their own modules."""
    return {
        "PATH": os.pathsep.join(_FOLDERS),
        "PYTHONPATH": str(UNPACKED / "usr/lib/python3/dist-packages"),
        **more,
    }
