"""The real supervisord with the real files."""

from __future__ import annotations

from tests.deploy.machine import Machine
from tests.servers import fetch


def test_a_gateway_and_two_workers_come_up(machine: Machine) -> None:
    status = machine.supervisorctl("status")
    assert status.count("RUNNING") == 4, status
    for number in range(2):
        assert fetch(f"http://127.0.0.1:{machine.metrics_port + number}/metrics")[0] == 200
    with machine.client() as client:
        ended = client.run("echo", {"value": 1})
    assert ended["status"] == "succeeded"
