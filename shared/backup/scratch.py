"""A Valkey for a moment, on a socket nobody else reaches: to look into a snapshot, or to make it a server's data."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import redis
from redis.exceptions import RedisError

from shared.backup.errors import BackupError
from shared.store.errors import store_errors
from shared.valkey_program import find_server

STOP_SECONDS = 60.0
POLL_SECONDS = 0.02
QUIET = {
    "port": "0", "tls-port": "0", "unixsocketperm": "700", "requirepass": "", "daemonize": "no", "supervised": "no",
    "pidfile": "", "logfile": "", "syslog-enabled": "no",
}  # fmt: skip
LOADS_ONLY = {"appendonly": "no", "save": ""}


@contextmanager
def scratch_server(
    folder: Path, options: Mapping[str, str], *, config: Path | None = None, db: int = 0
) -> Iterator[redis.Redis]:
    """A server on the data in `folder`, once it has loaded them, and until the block is left: it saves nothing then.

    `config` is another server's file, `options` go before it. Raises `BackupError` where it does not load its data.
    """
    # Below /tmp, for the path of a socket has no more than 107 bytes.
    with tempfile.TemporaryDirectory(prefix="mas-", dir="/tmp") as own:
        socket, log = Path(own, "socket"), Path(own, "log")
        settings = {**QUIET, "dir": str(folder), "unixsocket": str(socket), **options}
        command = [str(find_server()), *([_without_folder(config, Path(own, "conf"))] if config else [])]
        command += [part for name, value in settings.items() for part in (f"--{name}", value)]
        with log.open("wb") as written:
            server = subprocess.Popen(  # noqa: S603 - the server, with settings of ours
                command, stdin=subprocess.DEVNULL, stdout=written, stderr=subprocess.STDOUT, start_new_session=True
            )
        try:
            with redis.Redis(unix_socket_path=str(socket), db=db) as client:
                _wait(client, server, log)
                with store_errors():
                    yield client
                    client.shutdown(nosave=True)
            server.wait(STOP_SECONDS)
        finally:
            if server.poll() is None:
                server.kill()
                server.wait()


def _without_folder(config: Path, copy: Path) -> str:
    """A copy of this configuration that does not lead into its own folder, which may not be there."""
    lines = config.read_text().splitlines()
    copy.write_text("\n".join(line for line in lines if line.split(maxsplit=1)[:1] != ["dir"]) + "\n")
    return str(copy)


def _wait(client: redis.Redis, server: subprocess.Popen[bytes], log: Path) -> None:
    """Return once it has loaded its data, however long that takes."""
    while server.poll() is None:
        try:
            if client.ping():
                return
        except RedisError:  # not up, or loading
            time.sleep(POLL_SECONDS)
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    raise BackupError(f"Valkey does not load this snapshot of Redis: {' / '.join(lines[-3:])}")
