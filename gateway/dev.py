"""`python -m gateway --dev`: the whole service on this machine, with nothing to install or to set.

    this process ─┬─ Valkey                embedded, unless REDIS_URL is set
                  ├─ python -m worker      started again when its code, or a graph's, changes
                  └─ python -m gateway     started again when its code changes

It only watches over them: what serves is what serves in production. All data is in `DATA_DIR`, which one `--dev` at a
time may use.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import httpx

from gateway.embedded import EmbeddedValkey
from gateway.lockfile import LockFile
from gateway.reload import GATEWAY, WORKER, affected, watch_code
from shared.child import Child, FirstRunError
from shared.settings import Settings, SettingsError, is_loopback, load_settings

VALKEY = "valkey"
LOOPBACK_NETWORKS = ("127.0.0.0/8", "::1/128")
DRAIN_SECONDS = 1.0
STOP_SECONDS = 3.0  # for a process to end after its drain, before it is killed
FREE_PORT_SECONDS = 1.0


BANNER = """
  The service is up.
    API docs   {address}/docs
    Try it     curl -s {address}/api/v1/jobs -H 'content-type: application/json' -d '{job}'
    Then       curl -s '{address}/api/v1/jobs/<id>?wait=30'
    Data       {data_dir}
    Stop       Ctrl-C
"""


def main() -> int:
    """Run until Ctrl-C or SIGTERM. Gives the exit status: 2 where it cannot start, after one line that says why."""
    try:
        return run()
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # before there was anything to stop
        return 130


def run() -> int:
    """Make `DATA_DIR` ready, and run the service on it. Gives the exit status. Raises `SettingsError`."""
    if sys.platform == "win32":
        raise SettingsError("--dev needs Linux or macOS: on Windows run it inside WSL, or run the service with Docker")
    settings = load_settings(auth_required=True)  # it is switched off below, where HOST is sure to be loopback
    lock = lock_data_dir(settings.data_dir)
    left_behind = lock.read().get("children", {})
    lock.note(pid=os.getpid())
    try:
        if sys.platform != "linux":  # which ends them itself
            end_orphans(left_behind)
        host = settings.host.strip("[]") if is_loopback(settings.host) else "127.0.0.1"
        check_port(host, settings.port)
        valkey = None
        if settings.redis_url is None:
            valkey = EmbeddedValkey(settings.data_dir)
            valkey.reserve()
        environment = dev_environment(settings, host, valkey.url if valkey else settings.require_redis_url())
        return asyncio.run(_Dev(settings, environment, lock, valkey).run())
    finally:
        lock.drop()


def lock_data_dir(data_dir: Path) -> LockFile:
    """Make the folder this process's own. Raises `SettingsError` where it cannot be, or another `--dev` lives in it."""
    lock = LockFile(data_dir / "dev.lock")
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        taken = lock.take()
    except OSError as error:
        raise SettingsError(f"DATA_DIR is wrong: cannot write to {data_dir}: {error.strerror}") from None
    if not taken:
        holder = lock.read().get("pid", "unknown")
        raise SettingsError(
            f"DATA_DIR is in use: another --dev (process {holder}) runs on {data_dir}; "
            "stop it, or set DATA_DIR and PORT to others"
        )
    return lock


def end_orphans(children: Mapping[str, int]) -> None:
    """Kill the gateway and the worker that a killed `--dev` has noted and left behind."""
    for module, pid in children.items():
        question = ["ps", "-ww", "-o", "command=", "-p", str(pid)]
        command = subprocess.run(question, capture_output=True, text=True, check=False).stdout  # noqa: S603 - asks `ps` only
        if command.strip().endswith(f"-m {module}"):  # else its process id has gone to a stranger
            os.kill(pid, signal.SIGKILL)


def check_port(host: str, port: int) -> None:
    """Raises `SettingsError` where something listens on this port already."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    deadline = time.monotonic() + FREE_PORT_SECONDS  # an orphan's takes a moment to be free
    while True:
        with socket.socket(family, socket.SOCK_STREAM) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((host, port))
            except OSError as error:
                if time.monotonic() > deadline:
                    raise SettingsError(
                        f"PORT is wrong: cannot listen on {host}:{port}: {os.strerror(error.errno or 0).lower()}; "
                        f"stop what listens there, or set PORT to another"
                    ) from None
            else:
                return
        time.sleep(0.05)


def dev_environment(settings: Settings, host: str, redis_url: str) -> dict[str, str]:
    """What `--dev` sets over the environment and `.env`: open to this machine, and to this machine only."""
    networks = [*map(str, settings.webhook_allow_networks), *LOOPBACK_NETWORKS]
    environment = {
        "HOST": host,
        "AUTH_REQUIRED": "false",
        "GATEWAY_WORKERS": "1",
        "GATEWAY_RECYCLE_REQUESTS": "0",
        "WORKER_PROCESSES": "1",
        "REDIS_URL": redis_url,
        "SECRET_KEY": settings.secret_key.get_secret_value()
        if settings.secret_key
        else own_secret_key(settings.data_dir),
        "WEBHOOK_ALLOW_NETWORKS": ",".join(dict.fromkeys(networks)),
    }
    if "log_format" not in settings.model_fields_set:
        environment["LOG_FORMAT"] = "console"
    if "drain_seconds" not in settings.model_fields_set:
        environment["DRAIN_SECONDS"] = str(DRAIN_SECONDS)
    return environment


def own_secret_key(data_dir: Path) -> str:
    """The `SECRET_KEY` of this `DATA_DIR`, made on the first start: what it has signed or encrypted stays readable."""
    file = data_dir / "secret_key"
    with contextlib.suppress(FileNotFoundError):
        return file.read_text().strip()
    draft = data_dir / "secret_key.new"
    with contextlib.suppress(FileNotFoundError):
        draft.unlink()
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as content:
        content.write(secrets.token_hex(32))
    draft.rename(file)
    return file.read_text()


class _Dev:
    """The running processes, from the first start to the last stop."""

    def __init__(
        self, settings: Settings, environment: dict[str, str], lock: LockFile, valkey: EmbeddedValkey | None
    ) -> None:
        host = environment["HOST"]
        self.address = f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"
        self.data_dir = settings.data_dir.resolve()
        self.graphs_config = settings.graphs_config.resolve()
        self.lock = lock
        self.valkey = valkey
        self.stop_asked = asyncio.Event()
        self.children: dict[str, Child] = {}  # in the order of their start
        self.process_ids: dict[str, int] = {}
        if valkey is not None:
            self.children[VALKEY] = Child(
                VALKEY,
                valkey.command,
                folder=valkey.directory,
                log_file=valkey.log_file,
                inherited_fds=valkey.lock.held(),
                stop_within=STOP_SECONDS,
                orphan_signal=signal.SIGTERM,
                started=valkey.note,
                say=_say,
            )
        drain = float(environment.get("DRAIN_SECONDS", settings.drain_seconds))
        for module, seconds in ((WORKER, drain + STOP_SECONDS), (GATEWAY, STOP_SECONDS)):
            self.children[module] = Child(
                module,
                [sys.executable, "-m", module],
                environment={**os.environ, **environment},
                stop_within=seconds,
                started=partial(self._note, module),
                say=_say,
            )

    async def run(self) -> int:
        """Run until a signal asks for the end, or a process turns its settings down. Gives the exit status."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
                loop.add_signal_handler(number, self._on_signal, number)
        asked = asyncio.create_task(self.stop_asked.wait())
        keepers: list[asyncio.Task[None]] = []
        companions = [asked, asyncio.create_task(self._announce()), asyncio.create_task(self._reload())]
        try:
            for name, child in self.children.items():
                keepers.append(asyncio.create_task(child.keep()))
                if name == VALKEY:
                    await self._valkey_answers()
            await asyncio.wait([asked, *keepers], return_when=asyncio.FIRST_COMPLETED)
            for keeper in keepers:
                if keeper.done():
                    keeper.result()
        except FirstRunError:
            return 2
        else:
            return 0
        finally:
            for companion in companions:
                companion.cancel()
            for child in reversed(self.children.values()):
                await child.stop()
            await asyncio.gather(*keepers, *companions, return_exceptions=True)
            self.lock.note()

    def _on_signal(self, number: int) -> None:
        # make forwards a SIGTERM that has reached us already: only a second Ctrl-C is a person's impatience.
        if number == signal.SIGINT and self.stop_asked.is_set():
            for child in self.children.values():
                child.kill()
        self.stop_asked.set()

    def _note(self, module: str, pid: int) -> None:
        self.process_ids[module] = pid
        self.lock.note(pid=os.getpid(), children=self.process_ids)

    async def _valkey_answers(self) -> None:
        assert self.valkey is not None  # noqa: S101 - the order of the start
        while not self.valkey.answers() and not self.stop_asked.is_set():
            if self.children[VALKEY].failures:
                raise SettingsError(f"The embedded Valkey does not start: {self.valkey.last_words()}")
            await asyncio.sleep(0.02)

    async def _reload(self) -> None:
        async def changed(paths: set[Path]) -> None:
            names = sorted(set().union(*map(affected, paths)))
            _say(f"{min(paths).name} changed: restarting {' and '.join(names)}")
            await asyncio.gather(*(self.children[name].restart() for name in names))

        try:
            await watch_code(self.graphs_config, changed)
        except OSError as error:
            _say(f"code changes are not watched: {error}")

    async def _announce(self) -> None:
        graph = await self._first_graph()
        job = {"graph": graph, "input": {"messages": [{"role": "user", "content": "My router blinks red. What now?"}]}}
        banner = BANNER.format(address=self.address, job=json.dumps(job), data_dir=self.data_dir)
        print(banner, flush=True)

    async def _first_graph(self) -> str:
        """The id of a graph that can be used, once there is one."""
        async with httpx.AsyncClient(base_url=f"{self.address}/api/v1", trust_env=False) as client:
            while True:
                with contextlib.suppress(httpx.HTTPError, ValueError, LookupError):
                    workers = (await client.get("/workers")).json()["items"]
                    if graphs := [graph for worker in workers for graph in worker["graphs"]]:
                        return str(graphs[0])
                await asyncio.sleep(0.1)


def _say(line: str) -> None:
    print(f"dev: {line}", file=sys.stderr, flush=True)
