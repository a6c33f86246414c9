"""The threads' SQLite file: copied while it is written to, and put back as a whole."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

from shared.backup.check import Row
from shared.backup.errors import BackupError
from shared.backup.open_files import users_of

TABLES = ("writes", "checkpoints")
LOCK_SECONDS = 30
COMPANIONS = ("", "-wal", "-shm")
CHUNK = 1 << 20


class SqliteThreads:
    """The file of a `sqlite:///` URL. All raise `BackupError`."""

    suffix = "db"

    def __init__(self, url: str) -> None:
        self.file = Path(url.removeprefix("sqlite:///"))

    def size(self) -> int:
        return sum(file.stat().st_size for file in self._files())

    def version(self) -> str:
        return f"SQLite {sqlite3.sqlite_version}"

    def users(self) -> int:
        """How many processes have it open."""
        return users_of(*self._files())

    def holds_data(self) -> bool:
        return self.file.exists() and bool(_ask(self.file, "SELECT 1 FROM checkpoints LIMIT 1"))

    def threads(self) -> list[str]:
        """The names of all threads."""
        return [row[0] for row in _ask(self.file, "SELECT DISTINCT thread_id FROM checkpoints")]

    def dump(self, out: BinaryIO) -> None:
        """Write a copy of one moment to `out`. Nobody's writes wait for it, as long as the file is in WAL mode."""
        if not self.file.exists():
            return  # nothing is what an empty database has
        with tempfile.TemporaryDirectory(prefix="mas-backup-", dir=self.file.parent) as folder:
            copy = Path(folder, "copy.db")
            try:
                with closing(_open(self.file)) as source, closing(sqlite3.connect(copy)) as target:
                    source.backup(target)  # in one step: what is written meanwhile would have it start again
                    target.execute("PRAGMA journal_mode=DELETE")
            except sqlite3.Error as error:
                raise BackupError(f"the threads' file cannot be copied: {error}") from None
            with copy.open("rb") as copied:
                shutil.copyfileobj(copied, out, CHUNK)

    def load(self, dump: BinaryIO, begun_since: Sequence[str]) -> None:
        """Put the copy in the place of the file, without the threads `begun_since`; what was there stays beside it."""
        self.file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        new = Path(f"{self.file}.restoring")
        new.unlink(missing_ok=True)
        with new.open("xb") as copy:
            os.fchmod(copy.fileno(), 0o600)
            shutil.copyfileobj(dump, copy, CHUNK)
            os.fsync(copy.fileno())
        _look(new)
        with closing(sqlite3.connect(new)) as connection, connection:
            for table in TABLES if begun_since else ():
                one_thread = f"DELETE FROM {table} WHERE thread_id = ?"  # noqa: S608 - of constants
                connection.executemany(one_thread, [(thread,) for thread in begun_since])
        if self._files():
            aside = Path(f"{self.file}.before-restore-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}")
            aside.mkdir(mode=0o700)
            for file in self._files():
                file.rename(aside / file.name)
        new.rename(self.file)

    def rows(self, dump: BinaryIO) -> Iterator[Row]:
        """The checkpoints of a copy, which is looked through first."""
        with tempfile.TemporaryDirectory(prefix="mas-check-") as folder:
            copy = Path(folder, "copy.db")
            with copy.open("wb") as file:
                shutil.copyfileobj(dump, file, CHUNK)
            _look(copy)
            yield from _ask(copy, "SELECT thread_id, checkpoint_ns, checkpoint_id FROM checkpoints")

    def _files(self) -> list[Path]:
        return [file for end in COMPANIONS if (file := Path(f"{self.file}{end}")).exists()]


def _open(file: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{file.absolute().as_uri()}?mode=rw", uri=True, timeout=LOCK_SECONDS)


def _ask(file: Path, question: str) -> list[Row]:
    """The answer; nothing where no thread was ever kept."""
    if not file.exists():
        return []
    try:
        with closing(_open(file)) as connection:
            if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'checkpoints'").fetchone():
                return []
            return connection.execute(question).fetchall()
    except sqlite3.Error as error:
        raise BackupError(f"the threads' file cannot be read: {error}") from None


def _look(file: Path) -> None:
    try:
        with closing(_open(file)) as connection:
            said = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
    except sqlite3.Error as error:
        said = str(error)
    if said != "ok":
        raise BackupError(f"the copy of the threads' file is broken: {said}")
