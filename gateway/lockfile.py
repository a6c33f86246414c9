"""A lock on a folder that lives exactly as long as the processes that hold it, with a note of who they are."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


class LockFile:
    """A file under `flock(2)`: the system drops the lock when the last process with `fd` is gone, however it died."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fd: int | None = None

    def take(self) -> bool:
        """Take the lock, or give False where someone else holds it."""
        import fcntl  # here, because Windows has none

        fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return False
        self.fd = fd
        return True

    def held(self) -> list[int]:
        """What to hand on to a child that is to hold the lock too: for `Popen(pass_fds=…)`."""
        return [] if self.fd is None else [self.fd]

    def drop(self) -> None:
        """Let go of the lock. A child that was given `fd` still holds it."""
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None

    def note(self, **facts: Any) -> None:
        """Replace what the file says about its holder."""
        content = json.dumps(facts).encode()
        assert self.fd is not None, "only the holder of the lock writes into its file"  # noqa: S101 - as it says
        os.ftruncate(self.fd, 0)
        os.pwrite(self.fd, content, 0)

    def read(self) -> dict[str, Any]:
        """What its last holder noted; empty where there is nothing, or half of it."""
        try:
            facts = json.loads(self.path.read_bytes())
        except (OSError, ValueError):
            return {}
        return facts if isinstance(facts, dict) else {}
