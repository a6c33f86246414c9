"""restore.sh on a machine with Supervisor: it stops the service, puts the data back, and the service is up again."""

from __future__ import annotations

import shutil
import subprocess

from tests.deploy.machine import Machine
from tests.servers import wait_until


def test_a_machine_that_lost_its_data_is_up_again_with_one_command(machine: Machine) -> None:
    scripts = machine.app / "current" / "deploy" / "scripts"
    places = {"ETC_DIR": str(machine.folder / "etc"), "HEALTH_SECONDS": "60"}
    (machine.folder / "etc").mkdir()
    with machine.client() as client:
        job = client.run("traced", {"file": str(machine.folder / "trace")}, thread_id="a thread")
        machine.run(scripts / "backup.sh", **places)
        lost = client.submit("echo", {"value": 1})

        refused = subprocess.run(
            [scripts / "restore.sh", "latest", "--yes"], env=machine.environment(**places), capture_output=True,
            text=True, timeout=60,
        )  # fmt: skip
        assert refused.returncode == 1
        assert "the service runs" in refused.stderr
        assert "multi-agent-worker:multi-agent-worker_01" in refused.stderr

        machine.supervisorctl("stop", "multi-agent-redis")
        shutil.rmtree(machine.data / "redis")
        said = machine.run(scripts / "restore.sh", "latest", "--yes", "--stop", **places).stdout
        assert said.splitlines()[-1] == "ok", said
        machine.wait_until_up()
        assert client.job(job["id"]) == job
        assert client.http.get(f"/jobs/{lost}").status_code == 404
        further = client.run("traced", {"file": str(machine.folder / "trace")}, thread_id="a thread")
        assert len(further["output"]["trail"]) == 4
        machine.supervisorctl("restart", "multi-agent-redis")
        wait_until(lambda: machine.health().get("status") == "ok", 30, what="Redis is back")
        assert client.job(further["id"])["status"] == "succeeded"
