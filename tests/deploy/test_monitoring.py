"""Prometheus' files and Grafana's dashboard, on a real scrape of a running service."""

from __future__ import annotations

import json
import math
import re
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.deploy.machine import Machine
from tests.deploy.programs import program
from tests.deploy.prometheus import FILES, Prometheus
from tests.receivers import Receiver
from tests.servers import PROJECT, Processes, wait_until

DASHBOARD = json.loads((PROJECT / "deploy" / "monitoring" / "grafana" / "dashboard.json").read_text())
PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = [(f"{panel['title']} {target['refId']}", target["expr"]) for panel in PANELS for target in panel["targets"]]
RULES = FILES / "rules" / "multi-agent-service.yml"
METRIC = re.compile(r"\b(?:mas|process)_[a-z_]+\b|\bup\b")


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    """One on which few jobs may wait."""
    with Machine(MAX_QUEUE_DEPTH="10") as laid_out:
        laid_out.start()
        yield laid_out


@pytest.fixture(scope="module")
def prometheus(machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """One that has seen jobs of each outcome, retries, refusals and webhooks."""
    folder = tmp_path_factory.mktemp("prometheus")
    with Processes(folder / "processes") as processes:
        started = Prometheus(processes, machine, folder)
        work(machine, started)
        yield started


def work(machine: Machine, prometheus: Prometheus) -> None:
    """Two rounds, for a rate is of what changed between two scrapes."""
    with machine.client() as client, Receiver() as receiver:
        for _ in range(2):
            webhook = {"url": receiver.url}
            jobs = [client.submit("echo", {"value": value}, webhook=webhook) for value in range(5)]
            jobs += [client.submit("faulty", {}) for _ in range(2)]
            assert {job["status"] for job in client.wait_all(jobs)} == {"succeeded", "failed"}
            for _ in range(11):
                job = {"graph": "echo", "input": {"value": 1}, "queue": "full"}
                refused = client.http.post("/jobs", json=job)
            assert refused.status_code == 429
            scrapes = prometheus.query("sum(scrape_samples_scraped)")
            seen = time.time()
            wait_until(lambda since=seen: _scraped_since(prometheus, since), 30, what=f"a scrape after {scrapes}")


def _scraped_since(prometheus: Prometheus, since: float) -> bool:
    times = [float(one["value"][1]) for one in prometheus.query("timestamp(up)")]
    return len(times) == 3 and min(times) > since


def test_all_is_scraped_by_the_file_as_it_stands(prometheus: Prometheus) -> None:
    targets = prometheus.get("targets")["activeTargets"]
    assert {target["health"] for target in targets} == {"up"}, targets
    assert len(targets) == 3


def test_promtool_finds_nothing_wrong_with_the_files(prometheus: Prometheus) -> None:
    for arguments in (["check", "config", prometheus.folder / "prometheus.yml"], ["check", "rules", RULES]):
        done = subprocess.run([program("promtool"), *arguments], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_fires_when_it_must_and_is_silent_when_it_must_not() -> None:
    tests = FILES / "tests" / "multi-agent-service.yml"
    done = subprocess.run([program("promtool"), "test", "rules", tests], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    tested = tests.read_text()
    for alert in re.findall(r"- alert: (\w+)", RULES.read_text()):
        assert tested.count(f"alertname: {alert}") >= 2, f"{alert} is not tested both ways"


def test_no_alert_fires_on_a_service_that_is_well(prometheus: Prometheus) -> None:
    groups = prometheus.get("rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) == RULES.read_text().count("- alert: ")
    assert {rule["health"] for rule in rules} == {"ok"}
    firing = [rule["name"] for rule in rules if rule["state"] == "firing"]
    assert set(firing) <= {"JobsFail"}  # two in seven did


def test_each_metric_that_a_rule_reads_is_there(prometheus: Prometheus) -> None:
    expressions = re.findall(r"expr: (?:\|\n((?:\s{10}.*\n)+)|(.*))", RULES.read_text())
    metrics = {name for both in expressions for text in both for name in METRIC.findall(text)}
    assert len(metrics) > 12
    for name in metrics:
        assert prometheus.query(name), f"nothing exposes {name}"


@pytest.mark.parametrize(("panel", "expression"), QUERIES, ids=[name for name, _ in QUERIES])
def test_each_query_of_the_dashboard_returns_data(prometheus: Prometheus, panel: str, expression: str) -> None:
    # As long as all these tests may take on a busy machine.
    found = prometheus.query(expression.replace("$__rate_interval", "10m"))
    assert found, expression
    values = [float(series["value"][1]) for series in found]
    assert any(not math.isnan(value) for value in values), (expression, found)


def test_the_dashboard_is_well_formed() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken
        assert at["x"] + at["w"] <= 24
        taken |= cells
        if panel["type"] != "row":
            assert panel["datasource"]["uid"] == "${datasource}"
    assert [variable["name"] for variable in DASHBOARD["templating"]["list"]] == ["datasource"]
