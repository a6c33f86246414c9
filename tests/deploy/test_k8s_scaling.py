"""How many pods there are by `deploy/k8s`, and what Prometheus is asked for that."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.deploy.cluster import OVERLAYS, Document, of_kind, one, pod, read_documents, settings
from tests.deploy.programs import program
from tests.servers import PROJECT, Processes


def test_in_production_nobody_but_the_autoscalers_says_how_many_there_are() -> None:
    base = read_documents(PROJECT / "deploy/k8s/base/gateway.yaml")[0]
    assert (
        base["spec"]["replicas"] == one("production", "HorizontalPodAutoscaler", "gateway")["spec"]["minReplicas"] == 3
    )
    for name in ("gateway", "worker"):
        assert "replicas" not in one("production", "Deployment", name)["spec"]
        assert one("development", "Deployment", name)["spec"]["replicas"] == 1


@pytest.mark.parametrize("name", ["gateway", "worker"])
def test_pods_stand_apart_and_a_node_can_always_be_drained_of_them(name: str) -> None:
    for overlay in OVERLAYS:
        spread = pod(one(overlay, "Deployment", name))["topologySpreadConstraints"]
        assert [each["topologyKey"] for each in spread] == ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]
        # On a cluster of one node, or one zone, they start all the same.
        assert {each["whenUnsatisfiable"] for each in spread} == {"ScheduleAnyway"}
        # A number that must stay would forbid it, where there are no more pods than that.
        budget = one(overlay, "PodDisruptionBudget", name)["spec"]
        assert budget["maxUnavailable"] == 1
        assert "minAvailable" not in budget


def test_scaling_asks_for_what_the_gateways_say_and_never_counts_it_once_a_gateway(
    processes: Processes, tmp_path: Path
) -> None:
    spec = one("production", "ScaledObject", "worker")["spec"]
    assert spec["minReplicaCount"] < spec["fallback"]["replicas"] < spec["maxReplicaCount"]
    queries = {trigger["name"]: trigger["metadata"]["query"] for trigger in spec["triggers"]}
    thresholds = {trigger["name"]: float(trigger["metadata"]["threshold"]) for trigger in spec["triggers"]}
    assert thresholds["depth"] < float(settings("production")["WORKER_CONCURRENCY"])
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "none", "rules": []}]}))

    def state(depth: int, oldest: int, running: int, workers: int) -> list[Document]:
        values = {
            'mas_queue_depth{queue="default",': depth, 'mas_queue_depth{queue="other",': 1000,
            'mas_queue_oldest_seconds{queue="default",': oldest, "mas_workers_running{": running,
            'mas_workers{role="jobs",': workers,
        }  # fmt: skip
        return [
            {"series": f'{name}namespace="multi-agent-service",pod="gateway-{pod_number}"}}', "values": f"{value}+0x4"}
            for name, value in values.items() for pod_number in range(3)
        ]  # fmt: skip

    cases = [
        (state(50, 0, 30, 4), 80.0, 0.0),
        (state(5, 30, 40, 4), 45.0, 4.0),  # as many as there are
        (state(5, 3000, 40, 4), 45.0, 8.0),  # twice as many, however old
        (state(0, 0, 0, 0), 0.0, 0.0),
        # No queue has been used yet.
        ([one for one in state(0, 0, 7, 2) if "queue" not in one["series"]], 7.0, 0.0),
    ]  # fmt: skip
    tests = [
        {
            "interval": "15s",
            "input_series": series,
            "promql_expr_test": [
                {"expr": queries[name], "eval_time": "1m", "exp_samples": [{"labels": "{}", "value": value}]}
                for name, value in (("depth", depth), ("age", age))
            ],
        }
        for series, depth, age in cases
    ]
    # No gateway is scraped: no answer, which KEDA takes for an error (ignoreNullValues), and falls back.
    tests.append({"interval": "15s", "input_series": [], "promql_expr_test": [
        {"expr": query, "eval_time": "1m", "exp_samples": []} for query in queries.values()
    ]})  # fmt: skip
    assert {trigger["metadata"]["ignoreNullValues"] for trigger in spec["triggers"]} == {"false"}
    (tmp_path / "tests.yml").write_text(yaml.safe_dump({"rule_files": ["rules.yml"], "tests": tests}))
    run = processes.start("promtool", [str(program("promtool")), "test", "rules", str(tmp_path / "tests.yml")])
    assert run.wait(30) == 0, run.log


def test_scaling_falls_back_on_triggers_that_can() -> None:
    triggers = one("production", "ScaledObject", "worker")["spec"]["triggers"]
    assert {trigger["metricType"] for trigger in triggers} == {"AverageValue"}


def test_the_monitors_name_their_jobs_as_the_rules_and_the_scrape_configuration_do() -> None:
    known = {
        job["job_name"]
        for job in yaml.safe_load((PROJECT / "deploy/monitoring/prometheus/prometheus.yml").read_text())[
            "scrape_configs"
        ]
    }
    said = {
        relabeling["replacement"]
        for each in of_kind("production", "ServiceMonitor", "PodMonitor")
        for end in each["spec"].get("endpoints", []) + each["spec"].get("podMetricsEndpoints", [])
        for relabeling in end["relabelings"]
        if relabeling["targetLabel"] == "job"
    }
    assert said == {"multi-agent-gateway", "multi-agent-worker"} <= known
