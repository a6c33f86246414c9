"""The real logrotate with the real file: processes go on writing, and no line is lost."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
from pathlib import Path

import httpx

from tests.deploy.programs import environment, program
from tests.servers import PROJECT, Processes, wait_until

JOBS = 50


def test_a_rotation_restarts_nothing_and_loses_no_line(processes: Processes, valkey_url: str, tmp_path: Path) -> None:
    user = pwd.getpwuid(os.getuid()).pw_name
    logs = tmp_path / "log"
    logs.mkdir(mode=0o750)
    conf = tmp_path / "logrotate.conf"
    text = (PROJECT / "deploy" / "logrotate" / "multi-agent-service").read_text()
    text = text.replace("/var/log/multi-agent-service", str(logs)).replace("multiagent multiagent", f"{user} {user}")
    conf.write_text(text.replace("    compress\n", "").replace("    delaycompress\n", ""))
    conf.chmod(0o644)
    log = logs / "app.log"
    shared = {"LOG_FILE": str(log)}
    gateway = processes.gateway(valkey_url, GATEWAY_WORKERS="2", **shared).ready()
    worker = processes.worker(valkey_url, **shared)
    wait_until(lambda: log.exists() and "worker ready" in log.read_text(), 30, what="the worker is up")
    jobs = []
    with httpx.Client(base_url=gateway.api, trust_env=False, timeout=30) as client:
        for turn in range(3):
            for _ in range(JOBS):
                answer = client.post("/jobs", json={"graph": "customer_service", "input": {"messages": []}})
                jobs.append(answer.json()["id"])
            state = tmp_path / f"state-{turn}"
            wait_until(lambda at=state: rotated(conf, at), 10, what="the second is another one")
        for job in jobs:
            assert client.get(f"/jobs/{job}", params={"wait": 30}).json()["status"] == "succeeded"
    files = sorted(logs.iterdir())
    assert len(files) >= 3
    assert log.stat().st_mode & 0o777 == 0o640
    lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    ended = [line["job"] for line in lines if line["event"] == "job ended"]
    assert sorted(ended) == sorted(jobs)
    assert (worker.status, gateway.process.status) == (None, None)


def rotated(conf: Path, state: Path) -> bool:
    """Rotate. False where a file of this second is there already."""
    done = subprocess.run(
        [program("logrotate"), "--force", "--state", state, conf],
        env=environment(), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    if "already exists" in done.stderr:
        return False
    assert done.returncode == 0, done.stderr
    return True
