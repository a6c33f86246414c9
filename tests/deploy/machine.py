"""A machine with the service on it, in a folder: the real files of `deploy/` with other paths, and a supervisord.

with Machine() as machine:
    machine.start()
    machine.supervisorctl("status")
    machine.client().run("echo", {"messages": […]})
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import httpx
import psutil

from shared.api_keys import SCOPES
from tests.clients import Client
from tests.servers import PROJECT, free_port, is_alive, wait_until

# What a release of ours is made of; its packages are those that the tests run with.
PARTS = ("gateway", "worker", "shared", "deploy", "pyproject.toml", "uv.lock", "langgraph.json")
GRAPHS = PROJECT / "tests" / "projects" / "basic"
SUPERVISORD_CONF = """
[unix_http_server]
file={folder}/supervisor.sock
[supervisord]
logfile={folder}/supervisord.log
pidfile={folder}/supervisord.pid
nodaemon=true
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
[supervisorctl]
serverurl=unix://{folder}/supervisor.sock
[include]
files = {folder}/conf.d/*.conf
"""


class Machine:
    """The layout of a production machine below a folder with a short name, for sockets have no longer ones.

    `app` stands for /opt/multi-agent-service, `data` for /var/lib/multi-agent-service, `logs` for
    /var/log/multi-agent-service. `settings` go over those of production.env. SQLite holds the threads, unless
    DATABASE_URL is among them.
    """

    def __init__(self, **settings: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="mas-"))
        self.app, self.data, self.logs = self.folder / "opt", self.folder / "lib", self.folder / "log"
        for folder in (self.app / "releases", self.data / "redis", self.logs / "supervisor", self.folder / "conf.d"):
            folder.mkdir(parents=True)
        self.port = free_port()
        self._kept_port, self.metrics_port = _metrics_ports()
        self.gateway_url = f"http://127.0.0.1:{self.port}"
        self.api = f"{self.gateway_url}/api/v1"
        self.settings = {
            "PORT": str(self.port),
            "SECRET_KEY": secrets.token_hex(32),
            "DATABASE_URL": f"sqlite:///{self.data}/threads.db",
            "LEASE_SECONDS": "3",
            "WEBHOOK_ALLOW_NETWORKS": "127.0.0.0/8",
            **settings,
        }
        self._supervisord: subprocess.Popen[bytes] | None = None
        self._api_key = ""
        shutil.copytree(GRAPHS, self.app / "graphs")
        self.write_settings()
        self.use(self.add_release("20260101000000-0000000"))
        self.install("supervisor/multi-agent-redis.conf", "supervisor/multi-agent-service.conf")

    def redirected(self, text: str) -> str:
        """A file of `deploy/` with this machine's paths, ports and user in place of the real ones."""
        for real, ours in (
            ("/opt/multi-agent-service", self.app),
            ("/var/lib/multi-agent-service", self.data),
            ("/var/log/multi-agent-service", self.logs),
            ("user=multiagent\n", ""),
            ('WORKER_METRICS_PORT="81', f'WORKER_METRICS_PORT="{self.metrics_port // 100}'),
        ):
            text = text.replace(real, str(ours))
        return text

    def add_release(self, name: str, source: Path = PROJECT) -> Path:
        """A new folder below `releases`, made of this source."""
        release = self.app / "releases" / name
        release.mkdir()
        for part in PARTS:
            if (source / part).is_dir():
                # With what is compiled of it: else each of the seven processes would compile it all.
                shutil.copytree(source / part, release / part, symlinks=True)
            else:
                shutil.copy2(source / part, release / part)
        (release / ".venv").symlink_to(sys.prefix)
        (release / ".env").symlink_to("../../.env")
        valkey_conf = release / "deploy" / "redis" / "valkey.conf"
        valkey_conf.write_text(self.redirected(valkey_conf.read_text()))
        return release

    def use(self, release: Path) -> None:
        """Let `current` lead to this release."""
        link = self.app / "current.new"
        link.symlink_to(f"releases/{release.name}")
        link.rename(self.app / "current")

    def install(self, *files: str) -> None:
        """Put these files of `deploy/supervisor` where supervisord looks."""
        for file in files:
            text = self.redirected((PROJECT / "deploy" / file).read_text())
            (self.folder / "conf.d" / Path(file).name).write_text(text)

    def write_settings(self, **changed: str) -> None:
        """Write `.env`: production.env with what this machine and its test have instead."""
        self.settings |= changed
        text = self.redirected((PROJECT / "deploy" / "env" / "production.env").read_text())
        lines = [line for line in text.splitlines() if line.partition("=")[0] not in self.settings]
        lines += [f"{name}={value}" for name, value in self.settings.items()]
        file = self.app / ".env"
        file.touch(0o600)
        file.write_text("\n".join(lines) + "\n")

    def start(self, workers: int = 2) -> None:
        """Start supervisord, and wait until the gateway answers and so many workers are there."""
        conf = self.folder / "supervisord.conf"
        conf.write_text(SUPERVISORD_CONF.format(folder=self.folder))
        with (self.folder / "supervisord.out").open("ab") as output:
            self._supervisord = subprocess.Popen(
                [sys.executable, "-m", "supervisor.supervisord", "-c", conf],
                env=self.environment(), cwd=self.folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True,
            )  # fmt: skip
        self.wait_until_up(workers)

    def wait_until_up(self, workers: int = 2, within: float = 60) -> None:
        """Wait until health is `ok` with so many workers."""

        def up() -> bool:
            assert self._supervisord is not None
            assert self._supervisord.poll() is None, (self.folder / "supervisord.out").read_text()[-4000:]
            health = self.health()
            return health.get("status") == "ok" and health["parts"]["workers"]["count"] == workers

        try:
            wait_until(up, within)
        except AssertionError:
            raise AssertionError(f"the service is not up: {self.health()}\n{self.all_logs()[-6000:]}") from None

    def health(self) -> dict[str, object]:
        """The health document; an empty one where nobody answers."""
        try:
            return dict(httpx.get(f"{self.api}/health", timeout=10, trust_env=False).json())
        except (httpx.HTTPError, ValueError):
            return {}

    def supervisorctl(self, *arguments: str, within: float = 120) -> str:
        """What `supervisorctl` prints. It tells by its words more than by its status: look at them."""
        return subprocess.run(
            [*self.supervisorctl_command, *arguments], env=self.environment(), capture_output=True, text=True,
            timeout=within,
        ).stdout  # fmt: skip

    @property
    def supervisorctl_command(self) -> list[str]:
        return [sys.executable, "-m", "supervisor.supervisorctl", "-c", str(self.folder / "supervisord.conf")]

    def process_id(self, program: str) -> int:
        """Of a program that runs: `multi-agent-worker:multi-agent-worker_00`."""
        return int(self.supervisorctl("pid", program))

    def client(self) -> Client:
        """A client with a key of its own, which may do all. Close it."""
        client = Client(self.api)
        client.http.headers["Authorization"] = f"Bearer {self.api_key}"
        return client

    @property
    def api_key(self) -> str:
        """Made on the machine by the operator's own command."""
        if not self._api_key:
            create = ["gateway", "keys", "create", "--tenant", "default", "--name", "tests"]
            made = self.run(self.app / "current/deploy/scripts/run.sh", *create, "--scopes", ",".join(SCOPES))
            self._api_key = made.stdout.split()[-1]
            wait_until(self._is_known_to_all, 30, what="all gateway processes know the key")
        return self._api_key

    def _is_known_to_all(self) -> bool:
        headers = {"Authorization": f"Bearer {self._api_key}"}
        asked = [httpx.get(f"{self.api}/jobs", headers=headers, trust_env=False) for _ in range(20)]
        return all(answer.status_code == 200 for answer in asked)

    def run(
        self, command: Path, *arguments: str, within: float = 120, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a script of this machine. Raises `CalledProcessError` where it fails."""
        done = subprocess.run(
            [command, *arguments], env=self.environment(**environment), capture_output=True, text=True, timeout=within
        )
        assert done.returncode == 0, f"{command.name} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        return done

    def environment(self, **more: str) -> Mapping[str, str]:
        """What the scripts of `deploy/` find in the environment on this machine."""
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "LANG": "C.UTF-8",
            "APP_DIR": str(self.app),
            "DATA_DIR_ROOT": str(self.data),
            "LOG_DIR": str(self.logs),
            "BACKUP_DIR": str(self.folder / "backups"),
            "SUPERVISORCTL": " ".join(self.supervisorctl_command),
            "SERVICE_USER": "",
            "SERVICE_URL": f"{self.api}/health",
            **more,
        }

    def all_logs(self) -> str:
        """What all programs have said."""
        files = [self.folder / "supervisord.log", *sorted(self.logs.rglob("*.log"))]
        return "\n".join(f"== {file.name}\n{file.read_text(errors='replace')}" for file in files if file.exists())

    def stop(self) -> None:
        """Stop supervisord and all that it started; what does not obey is killed."""
        if self._supervisord is None:
            return
        below = (
            psutil.Process(self._supervisord.pid).children(recursive=True) if self._supervisord.poll() is None else []
        )
        self._supervisord.send_signal(signal.SIGTERM)
        try:
            self._supervisord.wait(60)
        except subprocess.TimeoutExpired:
            self._supervisord.kill()
        deadline = time.monotonic() + 20
        while any(is_alive(process.pid) for process in below) and time.monotonic() < deadline:
            time.sleep(0.05)
        for process in below:
            if is_alive(process.pid):
                process.kill()
        self._supervisord = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._kept_port.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def _metrics_ports() -> tuple[socket.socket, int]:
    """The first of a hundred ports for workers; they are another machine's only once the socket is closed."""
    while True:
        first = free_port() // 100 * 100
        kept = socket.socket()
        try:
            kept.bind(("127.0.0.1", first + 99))
            for port in range(first, first + 10):
                with socket.socket() as free:
                    free.bind(("127.0.0.1", port))
        except OSError:
            kept.close()
            continue
        return kept, first
