"""The embedded Valkey of `--dev`: a real server on loopback, persistent, that nobody had to install.

It holds a lock on its folder for as long as it lives, so that two servers never write the same files: one that outlived
a killed `--dev` is shut down before the next one starts.
"""

from __future__ import annotations

import contextlib
import socket
import time
from pathlib import Path

import redis

from gateway.lockfile import LockFile
from shared.settings import SettingsError
from shared.valkey_program import find_server as find_server

SERVER_OPTIONS = (
    *("--bind", "127.0.0.1"),
    *("--appendonly", "yes"),
    *("--appendfsync", "always"),  # nothing that was confirmed is lost, not even by kill -9
    *("--save", ""),
    *("--maxmemory-policy", "noeviction"),
    *("--daemonize", "no"),
)
ORPHAN_SECONDS = 10.0


class EmbeddedValkey:
    """How to run the server on `<data_dir>/valkey`; the caller runs `command` there and hands `lock.fd` on to it."""

    def __init__(self, data_dir: Path) -> None:
        self.program = find_server()
        self.directory = (data_dir / "valkey").resolve()
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.log_file = self.directory / "valkey.log"
        self.lock = LockFile(self.directory / "server.lock")
        self.port = 0

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def command(self) -> list[str]:
        return [str(self.program), "--port", str(self.port), *SERVER_OPTIONS]

    def reserve(self) -> None:
        """Make the folder ours and choose a port. Raises `SettingsError` where an earlier server stays."""
        deadline = time.monotonic() + ORPHAN_SECONDS
        while not self.lock.take():
            self._shut_down_orphan()
            if time.monotonic() > deadline:
                pid = self.lock.read().get("pid", "unknown")
                raise SettingsError(
                    f"An earlier Valkey (process {pid}) still holds {self.directory} and does not obey: "
                    "end it, then try again"
                )
            time.sleep(0.05)
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self.port = listener.getsockname()[1]

    def note(self, pid: int) -> None:
        """Leave word of a started server, for the next start to find it."""
        self.lock.note(pid=pid, port=self.port)

    def answers(self) -> bool:
        """Whether the server has read its data and takes commands."""
        try:
            with redis.Redis.from_url(self.url, socket_timeout=2) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    def last_words(self) -> str:
        """The end of the server's log, on one line."""
        with contextlib.suppress(OSError):
            return " / ".join(self.log_file.read_text(errors="replace").splitlines()[-3:])
        return "no log was written"

    def _shut_down_orphan(self) -> None:
        port = self.lock.read().get("port")
        if not isinstance(port, int):
            return
        # Whoever listens there now may be a stranger: only a server of this very folder is told to go.
        with (
            contextlib.suppress(redis.RedisError),
            redis.Redis(port=port, socket_timeout=2, decode_responses=True) as client,
        ):
            if client.config_get("dir").get("dir") == str(self.directory):
                client.shutdown()
