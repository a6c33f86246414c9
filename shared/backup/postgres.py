"""The threads' PostgreSQL: its own pg_dump and pg_restore, which are given no credential on their command line."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, LiteralString

import psycopg
from psycopg.pq import Conninfo

from shared.backup.check import Row
from shared.backup.errors import BackupError

CONNECT_SECONDS = 10
TABLES: tuple[LiteralString, ...] = ("checkpoint_writes", "checkpoint_blobs", "checkpoints")
OTHERS = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""
FOLDERS = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin")  # Debian's and PostgreSQL's own packages
_CHECKPOINTS = re.compile(rb"COPY \S+\.checkpoints \(thread_id, checkpoint_ns, checkpoint_id,")
_ESCAPED = re.compile(rb"\\(.)", re.DOTALL)
_MEANT = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}


class PostgresThreads:
    """The database of a `postgresql://` URL. All raise `BackupError`."""

    suffix = "dump"

    def __init__(self, url: str) -> None:
        self.url = url

    def size(self) -> int:
        """Its bytes, more than a dump of it has."""
        return int(self._ask("SELECT pg_database_size(current_database())")[0][0])

    def version(self) -> str:
        return f"PostgreSQL {self._ask('SHOW server_version')[0][0]}"

    def users(self) -> int:
        """How many others are connected to it."""
        return int(self._ask(OTHERS)[0][0])

    def holds_data(self) -> bool:
        return self._has_checkpoints() and bool(self._ask("SELECT 1 FROM checkpoints LIMIT 1"))

    def threads(self) -> list[str]:
        """The names of all threads."""
        if not self._has_checkpoints():
            return []
        return [row[0] for row in self._ask("SELECT DISTINCT thread_id FROM checkpoints")]

    def dump(self, out: BinaryIO) -> None:
        """Write all of it, as of one moment, to `out`."""
        command = [str(self._newest("pg_dump")), "--format=custom", "--no-owner", "--no-privileges", "--no-password"]
        self._run(command, stdout=out, environment=self._environment())

    def load(self, dump: BinaryIO, begun_since: Sequence[str]) -> None:
        """Put the dump in the place of what is there, all of it or nothing, without the threads `begun_since`."""
        command = [str(self._newest("pg_restore")), "--dbname=", "--single-transaction", "--exit-on-error", "--clean"]
        command += ["--if-exists", "--no-owner", "--no-privileges", "--no-password"]
        environment = self._environment()
        command[1] += environment.get("PGDATABASE", "")  # it asks for a name; the rest comes from the environment
        self._run(command, stdin=dump, environment=environment)
        with self._connect() as connection, connection.transaction():
            for table in TABLES if begun_since else ():
                one_thread = f"DELETE FROM {table} WHERE thread_id = ANY(%s)"  # noqa: S608 - of constants
                connection.execute(one_thread, (list(begun_since),))

    def rows(self, dump: BinaryIO) -> Iterator[Row]:
        """The checkpoints of a dump, all of which is read and unpacked: no server is asked."""
        command = [str(_newest("pg_restore")), "--file=-", "--no-owner"]
        with _started(command, stdin=dump, stdout=subprocess.PIPE) as reading:
            assert reading.stdout is not None  # noqa: S101 - for the type
            inside = False
            for line in reading.stdout:
                if not inside:
                    inside = bool(_CHECKPOINTS.match(line))
                elif line == b"\\.\n":
                    inside = False
                else:
                    thread, space, point = (_plain(part) for part in line.split(b"\t", 3)[:3])
                    yield thread, space, point
            _ended(reading, "pg_restore")

    def _has_checkpoints(self) -> bool:
        return self._ask("SELECT to_regclass('checkpoints')")[0][0] is not None

    def _connect(self) -> psycopg.Connection[tuple[Any, ...]]:
        try:
            return psycopg.connect(self.url, connect_timeout=CONNECT_SECONDS, autocommit=True)
        except psycopg.Error as error:
            raise BackupError(f"DATABASE_URL is wrong, or its server is down: {_one_line(error)}") from None

    def _ask(self, question: LiteralString) -> list[tuple[Any, ...]]:
        with self._connect() as connection:
            return connection.execute(question).fetchall()

    def _environment(self) -> dict[str, str]:
        """The URL as libpq's variables: a command line can be read by everyone on the machine."""
        given = {
            option.envvar.decode(): option.val.decode()
            for option in Conninfo.parse(self.url.encode())
            if option.val is not None and option.envvar
        }
        return {**os.environ, **given}

    def _newest(self, program: str) -> Path:
        """The newest of this program, which must be as new as the server."""
        found, needed = _newest(program), int(self._ask("SHOW server_version_num")[0][0]) // 10_000
        if _major(found) < needed:
            raise BackupError(f"{found} is older than the server: install postgresql-client-{needed}, or set PG_BIN")
        return found

    def _run(self, command: list[str], *, environment: dict[str, str], **streams: BinaryIO) -> None:
        with _started(command, env=environment, **streams) as running:
            _ended(running, Path(command[0]).name)


def _newest(program: str) -> Path:
    if folder := os.environ.get("PG_BIN"):
        found = [Path(folder, program)]
    else:
        found = [Path(one) for pattern in FOLDERS for one in Path("/").glob(f"{pattern[1:]}/{program}")]
        if on_path := shutil.which(program):
            found.append(Path(on_path))
    there = [one for one in found if os.access(one, os.X_OK)]
    if not there:
        raise BackupError(f"there is no {program}: install postgresql-client, or set PG_BIN to the folder that has it")
    return max(there, key=_major)


def _major(program: Path) -> int:
    asked = [str(program), "--version"]
    said = subprocess.run(asked, capture_output=True, text=True, check=False).stdout  # noqa: S603 - PostgreSQL's own
    version = re.search(r"\) (\d+)", said)
    return int(version.group(1)) if version else 0


def _started(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stderr=subprocess.PIPE, **options)  # noqa: S603 - PostgreSQL's own tools


def _ended(process: subprocess.Popen[bytes], name: str) -> None:
    assert process.stderr is not None  # noqa: S101 - for the type
    said = process.stderr.read().decode(errors="replace")
    if process.wait():
        raise BackupError(f"{name} failed: {_one_line(said) or process.returncode}")


def _one_line(what: object) -> str:
    with suppress(IndexError):
        return str(what).strip().splitlines()[0]
    return ""


def _plain(value: bytes) -> str:
    """A column as COPY writes it."""
    return _ESCAPED.sub(lambda found: _MEANT.get(found.group(1), found.group(1)), value).decode()
