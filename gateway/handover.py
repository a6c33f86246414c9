"""What one gateway process leaves to the next: the socket, and the processes that still serve from it.

Either systemd has opened the socket (`LISTEN_FDS`, sd_listen_fds(3)), or this very process did before it became the
code that runs now (`gateway/processes.py`).
"""

from __future__ import annotations

import json
import os
import socket
from dataclasses import asdict, dataclass
from typing import NoReturn

VARIABLE = "GATEWAY_HANDOVER"
FIRST_SYSTEMD_FD = 3


@dataclass(frozen=True, slots=True)
class Handover:
    """`fd` is the socket's, `processes` are the ids of those that serve from it, `metrics` is where they count."""

    fd: int
    processes: list[int]
    metrics: str

    def become(self, command: list[str]) -> NoReturn:
        """Make this process `command`. Raises `OSError` where that cannot be run; then nothing has changed."""
        os.set_inheritable(self.fd, True)
        try:
            os.execvpe(command[0], command, {**os.environ, VARIABLE: json.dumps(asdict(self))})  # noqa: S606 - the operator's own
        except OSError:
            os.set_inheritable(self.fd, False)
            raise


def take_handover() -> Handover | None:
    """What was left to this process; None where it begins anew. Children do not see it."""
    text = os.environ.pop(VARIABLE, None)
    return None if text is None else Handover(**json.loads(text))


def inherited_socket(handover: Handover | None) -> socket.socket | None:
    """The socket that is open already; None where there is none."""
    if handover is not None:
        return _adopt(handover.fd)
    for_whom, count = os.environ.pop("LISTEN_PID", ""), os.environ.pop("LISTEN_FDS", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    return _adopt(FIRST_SYSTEMD_FD) if for_whom == str(os.getpid()) and count not in ("", "0") else None


def _adopt(fd: int) -> socket.socket:
    os.set_inheritable(fd, False)
    return socket.socket(fileno=fd)
