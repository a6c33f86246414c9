"""The tables in docs/operations/monitoring.md, beside what there is."""

from __future__ import annotations

import re

from tests.deploy.machine import Machine
from tests.servers import PROJECT, fetch

PAGE = (PROJECT / "docs" / "operations" / "monitoring.md").read_text()
RULES = PROJECT / "deploy" / "monitoring" / "prometheus" / "rules" / "multi-agent-service.yml"


def test_the_table_names_each_metric_and_who_has_it(machine: Machine) -> None:
    rows = re.findall(r"^\| `(mas_\w+)(\{?)[^|]*\| ([\w, ]+) \|", PAGE, re.MULTILINE)
    table = {name: who.split(", ") for name, _, who in rows}
    labelled = {name for name, labels, _ in rows if labels}  # one of these is there once it has counted something
    with machine.client() as client:
        client.run("echo", {"value": 1})
        of_gateway = client.http.get(f"{machine.gateway_url}/metrics").text
    of_worker = fetch(f"http://127.0.0.1:{machine.metrics_port}/metrics")[1].decode()
    # A gateway of several processes shows what both import as zeros: the worker's own it must not show at all.
    own = {"gateway": _names(of_gateway), "worker": _names(of_worker)}
    assert set(table) == own["gateway"] | own["worker"]
    for name, who in table.items():
        for side in who:
            assert name in own[side] or name in labelled, f"{side} does not show {name}"
    assert "mas_jobs_running" not in own["gateway"]
    assert "mas_gateway_processes" not in own["worker"]


def test_the_table_of_alerts_is_that_of_the_rules() -> None:
    told = re.findall(r"^\| ([A-Z]\w+) \| (page|ticket) \|", PAGE, re.MULTILINE)
    there = re.findall(r"- alert: (\w+)\n(?:.*\n)*?        labels: \{severity: (\w+)\}", RULES.read_text())
    assert sorted(told) == sorted(there)


def _names(exposition: str) -> set[str]:
    return set(re.findall(r"^# TYPE (mas_\w+?)(?<!_created) (?:counter|gauge|histogram)$", exposition, re.MULTILINE))
