"""Put a snapshot in the place of a server's data on this machine, in the form that its own configuration reads."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import BinaryIO

import redis

from shared.backup.errors import BackupError
from shared.backup.open_files import users_of
from shared.backup.scratch import LOADS_ONLY, scratch_server
from shared.store.census import count_all

POLL_SECONDS = 0.05


def holds_data(folder: Path) -> bool:
    """Whether anything is kept there."""
    return folder.is_dir() and any(not entry.is_socket() for entry in folder.iterdir())


def load_snapshot(snapshot: BinaryIO, folder: Path, config: Path | None, *, db: int = 0) -> Path | None:
    """Make the snapshot the data of the server that works in `folder` with the file `config`; it must not run.

    A server with an append-only file reads nothing else, so one is made. All is done beside `folder`, tried with the
    server's own settings, and then moved into place. Gives where the data went that were there. Raises `BackupError`.
    """
    if users_of(folder):
        raise BackupError(f"a server works in {folder}: stop it first")
    new = folder.with_name(f"{folder.name}.restoring")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True, mode=0o700)
    keeps = _kept_as(new, config)
    with (new / keeps["dbfilename"]).open("xb") as copy:
        shutil.copyfileobj(snapshot, copy, 1 << 20)
    with scratch_server(new, {"dbfilename": keeps["dbfilename"], **LOADS_ONLY}, config=config, db=db) as client:
        loaded = count_all(client)
        if keeps["appendonly"] == "yes":
            client.config_set("appendonly", "yes")
            _wait_for_rewrite(client)
    if keeps["appendonly"] == "yes":
        (new / keeps["dbfilename"]).unlink()
    with scratch_server(new, {"save": ""}, config=config, db=db) as client:
        kept = count_all(client)
    if kept != loaded:
        raise BackupError(f"Redis would start with other data than the snapshot has: {kept} and not {loaded}")
    aside = None
    if folder.exists():
        aside = folder.with_name(f"{folder.name}.before-restore-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}")
        folder.rename(aside)
    new.rename(folder)
    return aside


def _kept_as(folder: Path, config: Path | None) -> dict[str, str]:
    """How a server with this configuration keeps its data."""
    with scratch_server(folder, {"save": ""}, config=config) as client:
        answers = [client.config_get(name) for name in ("appendonly", "dbfilename")]
    shutil.rmtree(folder)
    folder.mkdir(mode=0o700)
    told: dict[str, str] = {}
    for answer in answers:
        told |= {_text(name): _text(value) for name, value in answer.items()}  # type: ignore[union-attr]
    return told


def _wait_for_rewrite(client: redis.Redis) -> None:
    """Return once all data are in the append-only file, however long that takes."""
    while True:
        state = client.info("persistence")
        if not state["aof_rewrite_in_progress"] and not state["aof_rewrite_scheduled"]:  # type: ignore[index]
            break
        time.sleep(POLL_SECONDS)
    if state["aof_last_bgrewrite_status"] != "ok" or not state["aof_enabled"]:  # type: ignore[index]
        raise BackupError("Redis could not write its append-only file: is the disk full?")


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
