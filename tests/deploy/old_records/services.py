"""A service whose gateway and workers each run from a checkout of its own, on a Valkey and files that can be kept."""

from __future__ import annotations

import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from tests.receivers import Receiver
from tests.servers import PROJECT, SECRET_KEY, Gateway, Process, Processes, Valkey, free_port

CENTURY_SECONDS = 100 * 366 * 24 * 3600  # what is kept must still be there when it is read in some years
# A loopback address that nothing else takes: deliveries that wait name it.
RECEIVER_ADDRESS, RECEIVER_PORT = "127.83.12.7", 18083
LEASE_SECONDS = "1"
GRAPHS = PROJECT / "tests" / "projects" / "basic" / "langgraph.json"
FILES = "files"
DATABASE = "threads.db"
VALKEY = "appendonlydir"


class Service:
    """Valkey in `folder`, and what is started of gateway and workers. Paths in inputs are below `folder/files`."""

    def __init__(self, folder: Path, *, gateway: Path = PROJECT, worker: Path = PROJECT, auth: bool) -> None:
        self.folder = folder
        self.checkouts = {"gateway": gateway, "worker": worker}
        self.auth = auth
        self.files = folder / FILES
        self.files.mkdir(parents=True, exist_ok=True)
        self.valkey = Valkey(folder / "valkey")
        self.processes = Processes(self.files)
        self.http = httpx.Client()
        self.workers: list[Process] = []

    def start_gateway(self) -> None:
        """Start it and wait until it is ready."""
        port = free_port()
        process = self.processes.python("gateway", **self._environment("gateway", PORT=str(port)))
        self.http = httpx.Client(base_url=Gateway(process, port).ready().api, timeout=70, trust_env=False)

    def start_worker(self) -> Process:
        """Start one and wait until it is ready."""
        worker = self.processes.python("worker", **self._environment("worker"))
        self.workers.append(worker)
        worker.wait_for_line("worker ready")
        return worker

    def stop_workers(self) -> None:
        for worker in self.workers:
            if worker.status is None:
                worker.stop()

    def kill_workers(self) -> None:
        for worker in self.workers:
            if worker.status is None:
                worker.kill()

    def new_api_key(self, tenant: str) -> str:
        """A key that may do all, made by the gateway's own command."""
        scopes = "jobs:read,jobs:write,ops"
        command = ["keys", "create", "--tenant", tenant, "--name", "records", "--scopes", scopes]
        done = subprocess.run(
            [sys.executable, "-m", "gateway", *command],
            cwd=self.files, env=self._environment("gateway"), capture_output=True, text=True, timeout=30,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.split()[-1]

    def revoke_api_key(self, text: str) -> None:
        command = [sys.executable, "-m", "gateway", "keys", "revoke", text.split("_")[1]]
        subprocess.run(command, cwd=self.files, env=self._environment("gateway"), check=True, timeout=30)

    def use_api_key(self, text: str) -> None:
        if text:
            self.http.headers["authorization"] = f"Bearer {text}"

    def submit(self, graph: str, value: Any, **fields: Any) -> str:
        """The id of an accepted job."""
        return str(self.ask("POST", "/jobs", 202, json={"graph": graph, "input": value, **fields})["id"])

    def job(self, job_id: str, wait: float = 0) -> dict[str, Any]:
        return self.ask("GET", f"/jobs/{job_id}", params={"wait": wait} if wait else None)

    def ask(self, method: str, path: str, status: int = 200, **how: Any) -> dict[str, Any]:
        """The answer's document. Raises `AssertionError` where the status is another one."""
        answer = self.http.request(method, path, **how)
        assert answer.status_code == status, f"{method} {path}: {answer.status_code} {answer.text}"
        return dict(answer.json()) if answer.content else {}

    def stop(self) -> None:
        self.http.close()
        self.processes.__exit__()
        self.valkey.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _environment(self, part: str, **more: str) -> dict[str, str]:
        return {
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": str(self.checkouts[part]),
            "REDIS_URL": self.valkey.url,
            "DATABASE_URL": f"sqlite:///{self.folder / DATABASE}",
            "SECRET_KEY": SECRET_KEY,
            "HOST": "127.0.0.1",
            "AUTH_REQUIRED": str(self.auth).lower(),
            "GRAPHS_CONFIG": str(GRAPHS),
            "LEASE_SECONDS": LEASE_SECONDS,
            "RESULT_TTL_SECONDS": str(CENTURY_SECONDS),
            "WEBHOOK_ALLOW_NETWORKS": "127.0.0.0/8",
            **more,
        }


def receiver() -> Receiver:
    """Where all webhooks of the records go."""
    return Receiver(address=RECEIVER_ADDRESS, port=RECEIVER_PORT)


def keep(service: Service, records: Path) -> None:
    """Copy what a machine would find on its disks after all was stopped at once. `service` is not usable after it."""
    with service.valkey.client() as client:
        client.execute_command("BGREWRITEAOF")
        while client.info("persistence")["aof_rewrite_in_progress"]:
            pass
    service.valkey.process.send(signal.SIGKILL)
    records.mkdir(parents=True)
    shutil.copytree(service.folder / "valkey" / VALKEY, records / VALKEY)
    with closing(sqlite3.connect(service.folder / DATABASE)) as database:
        database.execute("VACUUM")
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    shutil.copy(service.folder / DATABASE, records)
    (records / FILES).mkdir()
    for file in service.files.glob("*.trace"):
        shutil.copy(file, records / FILES)


def laid_out(records: Path, folder: Path) -> Path:
    """`folder`, with these records where a `Service` finds them."""
    shutil.copytree(records / VALKEY, folder / "valkey" / VALKEY)
    shutil.copy(records / DATABASE, folder)
    shutil.copytree(records / FILES, folder / FILES)
    return folder
