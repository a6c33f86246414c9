"""The service behind nginx: a gateway of two processes set up as in production, a worker, and an API key."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.deploy.nginx import NAME
from tests.servers import PROJECT, SECRET_KEY, Gateway, Processes, wait_until


def start_service(processes: Processes, redis_url: str, **more: str) -> tuple[Gateway, str]:
    """A gateway as production.env has it, a worker with the tests' graphs, and an API key."""
    graphs = str(PROJECT / "tests" / "projects" / "basic" / "langgraph.json")
    environment = {"GATEWAY_WORKERS": "2", "GATEWAY_DRAIN_SECONDS": "8", **more}
    gateway = processes.gateway(
        redis_url, AUTH_REQUIRED="true", TRUSTED_PROXIES="127.0.0.1/32", ALLOWED_HOSTS=NAME, **environment
    )
    worker = processes.worker(redis_url, GRAPHS_CONFIG=graphs, WORKER_CONCURRENCY="50")
    command = [sys.executable, "-m", "gateway", "keys", "create", "--name", "test", "--tenant", "acme"]
    made = subprocess.run(
        [*command, "--scopes", "jobs:read,jobs:write,ops"], cwd=PROJECT, capture_output=True, text=True, timeout=60,
        env={"REDIS_URL": redis_url, "SECRET_KEY": SECRET_KEY, "PYTHONWARNINGS": "ignore"},
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    worker.wait_for_line("worker ready", 30)
    gateway.ready(30)
    log = Path(more["LOG_FILE"]) if "LOG_FILE" in more else gateway.process.log_file
    count = int(environment["GATEWAY_WORKERS"])
    wait_until(lambda: log.read_text().count("Application startup complete") == count, 30, what="all of them serve")
    return gateway, made.stdout.splitlines()[-1]
