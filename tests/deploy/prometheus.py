"""A real Prometheus with the real files, which scrapes a machine of the tests each half second."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import httpx

from tests.deploy.machine import Machine
from tests.deploy.programs import program
from tests.servers import PROJECT, Process, Processes, free_port, wait_until

FILES = PROJECT / "deploy" / "monitoring" / "prometheus"


class Prometheus:
    """Scrapes this machine, and answers questions about it."""

    def __init__(self, processes: Processes, machine: Machine, folder: Path) -> None:
        self.folder = folder
        key = folder / "ops.key"
        key.touch(0o600)
        key.write_text(machine.api_key)
        text = (FILES / "prometheus.yml").read_text()
        for real, ours in (
            ("interval: 15s", "interval: 500ms"),
            ("/etc/prometheus/multi-agent-service.key", str(key)),
            ("127.0.0.1:8000", f"127.0.0.1:{machine.port}"),
            ("127.0.0.1:8100", f"127.0.0.1:{machine.metrics_port}"),
            ("127.0.0.1:8101", f"127.0.0.1:{machine.metrics_port + 1}"),
            ("127.0.0.1:9093", f"127.0.0.1:{free_port()}"),
        ):
            assert real in text
            text = text.replace(real, ours)
        (folder / "prometheus.yml").write_text(text)
        shutil.copytree(FILES / "rules", folder / "rules")
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.process: Process = processes.start(
            "prometheus",
            [
                str(program("prometheus")), f"--config.file={folder}/prometheus.yml",
                f"--storage.tsdb.path={folder}/data", f"--web.listen-address=127.0.0.1:{port}",
                "--query.lookback-delta=60s",
            ],
        )  # fmt: skip
        wait_until(self._is_ready, 30, what="Prometheus is ready")

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series of an instant query. Raises `AssertionError` where it is wrong."""
        answer = httpx.get(f"{self.url}/api/v1/query", params={"query": expression}, trust_env=False).json()
        assert answer["status"] == "success", (expression, answer)
        return list(answer["data"]["result"])

    def get(self, path: str) -> dict[str, Any]:
        return dict(httpx.get(f"{self.url}/api/v1/{path}", trust_env=False).json()["data"])

    def _is_ready(self) -> bool:
        assert self.process.status is None, self.process.log[-3000:]
        try:
            return httpx.get(f"{self.url}/-/ready", trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False
