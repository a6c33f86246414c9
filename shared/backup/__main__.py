"""`python -m shared.backup`: the steps of backup.sh and restore.sh that need Redis, or the threads' database."""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from dotenv import dotenv_values

from shared.backup.check import Found, Row, look_into, not_pinned
from shared.backup.errors import BackupError
from shared.backup.fill import fill, in_use
from shared.backup.manifest import compare, manifest
from shared.backup.open_files import users_of
from shared.backup.redis_data import holds_data, load_snapshot
from shared.backup.snapshot import write_snapshot
from shared.redis_url import redis_place
from shared.settings import Settings, SettingsError, load_settings
from shared.store import StoreError, connect_sync
from shared.store.errors import store_errors

ANSWER_SECONDS = 30.0


class ThreadDatabase(Protocol):
    """Where the threads' checkpoints are; `dump` and `load` are given what a backup keeps of it."""

    suffix: str

    def __init__(self, url: str) -> None: ...
    def size(self) -> int: ...
    def version(self) -> str: ...
    def users(self) -> int: ...
    def holds_data(self) -> bool: ...
    def threads(self) -> list[str]: ...
    def dump(self, out: BinaryIO) -> None: ...
    def load(self, dump: BinaryIO, begun_since: Sequence[str]) -> None: ...
    def rows(self, dump: BinaryIO) -> Iterable[Row]: ...


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Gives the exit status: 1 where a step failed, after one line that says why, 2 for a wrong call."""
    options = _parser().parse_args(arguments)
    try:
        _COMMANDS[options.command](options)
        sys.stdout.flush()
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    except (BackupError, StoreError, OSError) as error:
        print(error or type(error).__name__, file=sys.stderr)
        return 1
    return 0


def thread_database(url: str) -> ThreadDatabase:
    """The database of this URL."""
    return _kind("sqlite" if url.startswith("sqlite") else "postgresql")(url)


def _kind(kind: str) -> type[ThreadDatabase]:
    if kind == "sqlite":
        from shared.backup.sqlite import SqliteThreads

        return SqliteThreads
    from shared.backup.postgres import PostgresThreads

    return PostgresThreads


def _settings(options: argparse.Namespace) -> Settings:
    """Those in force; with `--env` those of the file on standard input, which the environment goes before as ever."""
    if options.env:
        for name, value in dotenv_values(stream=io.TextIOWrapper(sys.stdin.buffer)).items():
            os.environ.setdefault(name, value or "")
        Settings.model_config["env_file"] = None
    return load_settings()


def _database(options: argparse.Namespace) -> ThreadDatabase:
    return thread_database(_settings(options).thread_database)


def _plan(options: argparse.Namespace) -> None:
    """Print the kind of the threads' database, the number of the Redis database, and the bytes that both may need."""
    settings = _settings(options)
    url = settings.require_redis_url()
    size = thread_database(settings.thread_database).size()
    if not options.without_redis:
        with store_errors(), connect_sync(url, answer_within=ANSWER_SECONDS) as redis:
            memory: Any = redis.info("memory")
        size += int(memory["used_memory"])
    print("sqlite" if settings.thread_database.startswith("sqlite") else "postgresql", redis_place(url)[0], size)


def _unpinned(options: argparse.Namespace) -> None:
    settings = _settings(options)
    threads = thread_database(settings.thread_database).threads()
    with connect_sync(settings.require_redis_url(), answer_within=ANSWER_SECONDS) as redis:
        print(json.dumps(not_pinned(redis, threads)))


def _redis(options: argparse.Namespace) -> None:
    write_snapshot(_settings(options).require_redis_url(), sys.stdout.buffer)


def _dump(options: argparse.Namespace) -> None:
    _database(options).dump(sys.stdout.buffer)


def _check(options: argparse.Namespace) -> None:
    """Print the counts; with `--begun-since` write those threads there, with `--manifest` see that it says the same."""
    found = _look(options)
    if options.manifest is not None:
        with os.fdopen(options.manifest, "rb") as file:
            compare(json.load(file), found.counts)
    print(json.dumps(found.counts))
    if options.begun_since is not None:
        with os.fdopen(options.begun_since, "w") as out:
            json.dump(found.begun_since, out)


def _look(options: argparse.Namespace) -> Found:
    unpinned: set[str] = set()
    if options.unpinned is not None:
        with os.fdopen(options.unpinned, "rb") as file:
            unpinned = set(json.load(file))
    snapshot = None if options.redis is None else os.fdopen(options.redis, "rb")
    rows: Callable[[], Iterable[Row]] | None = None
    if options.database is not None:
        dump = os.fdopen(options.database, "rb")
        database = _kind(options.kind)("")
        rows = lambda: database.rows(dump)  # noqa: E731
    return look_into(snapshot, rows, unpinned, db=options.db)


def _state(options: argparse.Namespace) -> None:
    """Print a line for each target that holds data, or is in use, and whether Redis is on this machine."""
    settings = _settings(options)
    database = thread_database(settings.thread_database)
    url = settings.require_redis_url()
    here = _is_here(url, options.redis_dir)
    if here:
        holds, users = holds_data(options.redis_dir), users_of(options.redis_dir)
    else:
        holds, users = in_use(url)
    facts = {
        "redis is here": here,
        "redis holds data": holds,
        "redis in use": users,
        "database holds data": database.holds_data(),
        "database in use": database.users(),
    }
    print("\n".join(name for name, so in facts.items() if so))


def _is_here(url: str, folder: Path) -> bool:
    """Whether the server is the one of this machine, which works in `folder`: its socket is there."""
    socket = redis_place(url)[1]
    return bool(socket) and Path(socket).parent.resolve() == folder.resolve()


def _fill_redis(options: argparse.Namespace) -> None:
    fill(sys.stdin.buffer, _settings(options).require_redis_url(), db=options.db)


def _load_redis(options: argparse.Namespace) -> None:
    if aside := load_snapshot(sys.stdin.buffer, options.redis_dir, options.redis_conf, db=options.db):
        print(f"What was in {options.redis_dir} is in {aside} now")


def _load_database(options: argparse.Namespace) -> None:
    with os.fdopen(options.begun_since, "rb") as file:
        begun_since = json.load(file)
    _database(options).load(sys.stdin.buffer, begun_since)


def _manifest(options: argparse.Namespace) -> None:
    settings = _settings(options)
    versions = {"database": thread_database(settings.thread_database).version()}
    if not options.without_redis:
        with store_errors(), connect_sync(settings.require_redis_url(), answer_within=ANSWER_SECONDS) as redis:
            server: Any = redis.info("server")
        versions["redis"] = (
            f"{server.get('server_name', 'redis')} {server.get('valkey_version') or server['redis_version']}"
        )
    print(manifest(options.fact, versions, counts=json.loads(options.counts)))


_COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {
    "plan": _plan,
    "unpinned": _unpinned,
    "redis": _redis,
    "database": _dump,
    "check": _check,
    "state": _state,
    "load-redis": _load_redis,
    "fill-redis": _fill_redis,
    "load-database": _load_database,
    "manifest": _manifest,
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m shared.backup", description="What deploy/scripts/backup.sh and restore.sh call. Use those."
    )
    parser.add_argument("command", choices=_COMMANDS)
    parser.add_argument("--env", action="store_true", help="take the settings from standard input")
    parser.add_argument("--without-redis", action="store_true")
    parser.add_argument("--kind", choices=("sqlite", "postgresql"), help="of the dump")
    parser.add_argument("--redis", type=int, metavar="FD", help="the snapshot")
    parser.add_argument("--database", type=int, metavar="FD", help="the dump")
    parser.add_argument("--unpinned", type=int, metavar="FD", help="threads that Redis did not know before")
    parser.add_argument("--begun-since", type=int, metavar="FD", help="threads that the snapshot does not know of")
    parser.add_argument("--manifest", type=int, metavar="FD", help="the manifest")
    parser.add_argument("--redis-dir", type=Path, default=Path("redis"), help="the folder of the server's data")
    parser.add_argument("--redis-conf", type=Path, help="the server's configuration")
    parser.add_argument("--db", type=int, default=0, help="the number of the Redis database")
    parser.add_argument("--counts", default="{}", help="JSON, from check")
    parser.add_argument("--fact", action="append", default=[], help="for the manifest: name=value")
    return parser


if __name__ == "__main__":
    sys.exit(main())
