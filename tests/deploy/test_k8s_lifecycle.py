"""Probes, time to stop, networks and scaling of `deploy/k8s` agree with what gateway and worker do."""

from __future__ import annotations

import ast
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.main import create_app
from gateway.server import STOP_SECONDS
from shared.settings import Settings
from tests.deploy.cluster import OVERLAYS, WORKLOADS, labels, manifests, of_kind, one, pod, selects, settings
from tests.deploy.kustomize import Document, containers, read_documents
from tests.deploy.programs import program
from tests.servers import PROJECT, SECRET_KEY, Processes

each_overlay = pytest.mark.parametrize("overlay", OVERLAYS)
PROBES = ("startupProbe", "livenessProbe", "readinessProbe")


def container(overlay: str, name: str) -> Document:
    return pod(one(overlay, "Deployment", name))["containers"][0]


def ports(overlay: str, name: str) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for port in container(overlay, name)["ports"]}


@each_overlay
def test_the_gateways_probes_ask_its_own_routes_on_its_own_port(overlay: str) -> None:
    asked = {probe: container(overlay, "gateway")[probe]["httpGet"] for probe in PROBES}
    served = create_app(Settings(_env_file=None, secret_key=SECRET_KEY, redis_url="redis://127.0.0.1:1/0")).openapi()
    assert {each["path"] for each in asked.values()} <= set(served["paths"])
    # What asks Redis may take a pod out of the service, and must never have it killed.
    assert asked["livenessProbe"]["path"] == asked["startupProbe"]["path"] == "/api/v1/health/live"
    assert asked["readinessProbe"]["path"] == "/api/v1/health/ready"
    assert {each["port"] for each in asked.values()} == {"http"}
    assert ports(overlay, "gateway") == {"http": int(settings(overlay)["PORT"])}


@each_overlay
def test_the_workers_probes_ask_its_metrics_port(overlay: str) -> None:
    asked = {probe: container(overlay, "worker")[probe]["httpGet"] for probe in PROBES}
    assert {probe: each["path"] for probe, each in asked.items()} == {
        "startupProbe": "/live", "livenessProbe": "/live", "readinessProbe": "/ready",
    }  # fmt: skip
    assert {each["port"] for each in asked.values()} == {"metrics"}
    said = settings(overlay)
    assert ports(overlay, "worker") == {"metrics": int(said["WORKER_METRICS_PORT"])}
    assert (said["HOST"], said["WORKER_METRICS_HOST"]) == ("0.0.0.0", "0.0.0.0")


@each_overlay
def test_nobody_is_killed_before_it_has_drained(overlay: str) -> None:
    said = settings(overlay)
    gateway, worker = one(overlay, "Deployment", "gateway"), one(overlay, "Deployment", "worker")
    pause = container(overlay, "gateway")["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pause >= 5
    drain = pause + float(said["GATEWAY_DRAIN_SECONDS"]) + STOP_SECONDS
    assert pod(gateway)["terminationGracePeriodSeconds"] >= drain + 10
    assert pod(worker)["terminationGracePeriodSeconds"] >= float(said["DRAIN_SECONDS"]) + 15


def test_in_production_nobody_but_the_autoscalers_says_how_many_there_are() -> None:
    base = read_documents(PROJECT / "deploy/k8s/base/gateway.yaml")[0]
    assert (
        base["spec"]["replicas"] == one("production", "HorizontalPodAutoscaler", "gateway")["spec"]["minReplicas"] == 3
    )
    for name in ("gateway", "worker"):
        assert "replicas" not in one("production", "Deployment", name)["spec"]
        assert one("development", "Deployment", name)["spec"]["replicas"] == 1


@each_overlay
def test_the_graphs_of_the_config_map_are_those_that_a_worker_can_load(overlay: str, tmp_path: Path) -> None:
    from worker.graphs.config import read_graphs_config
    from worker.graphs.loading import load_graphs

    (found,) = [each for each in of_kind(overlay, "ConfigMap") if "graphs" in each["metadata"]["name"]]
    mounted = {mount["name"]: mount["mountPath"] for mount in container(overlay, "worker")["volumeMounts"]}
    assert settings(overlay)["GRAPHS_CONFIG"] == f"{mounted['graphs']}/langgraph.json"
    file = tmp_path / "langgraph.json"
    file.write_text(found["data"]["langgraph.json"])
    loaded, broken = load_graphs(read_graphs_config(file))
    assert [each.id for each in loaded] == ["customer_service"]
    assert broken == []


def policies(overlay: str, workload: Document, direction: str) -> list[Document]:
    """The rules, of all policies that take this workload's pods, for what comes in or goes out."""
    taken = [
        each["spec"]
        for each in of_kind(overlay, "NetworkPolicy")
        if selects(each["spec"]["podSelector"], labels(workload))
    ]
    assert any(direction in each["policyTypes"] for each in taken), "all is allowed"
    return [rule for each in taken if direction in each["policyTypes"] for rule in each.get(direction.lower(), [])]


def may_reach(overlay: str, workload: Document, address: str, port: int) -> bool:
    """Whether its pods may open a TCP connection to this address, outside of the cluster."""
    for rule in policies(overlay, workload, "Egress"):
        blocks = [peer["ipBlock"] for peer in rule["to"] if "ipBlock" in peer]
        inside = any(
            ip_address(address) in ip_network(block["cidr"])
            and not any(ip_address(address) in ip_network(no) for no in block.get("except", []))
            for block in blocks
        )
        if inside and port in [each["port"] for each in rule["ports"] if each.get("protocol", "TCP") == "TCP"]:
            return True
    return False


def peers(overlay: str, workload: Document, direction: str) -> set[tuple[str, int]]:
    """(namespace or pods, port) that may come in, or be gone to, within the cluster."""
    side = "from" if direction == "Ingress" else "to"
    found = set()
    for rule in policies(overlay, workload, direction):
        for peer in rule[side]:
            selector = peer.get("namespaceSelector") or peer.get("podSelector")
            if selector:
                name = ",".join(selector["matchLabels"].values())
                found |= {(name, port["port"]) for port in rule["ports"]}
    return found


def test_in_production_each_reaches_what_it_needs_and_no_more() -> None:
    reach: dict[str, dict[str, Any]] = {}
    for workload in of_kind("production", *WORKLOADS):
        reach[workload["metadata"]["name"]] = {
            what: may_reach("production", workload, address, port)
            for what, address, port in (
                ("redis", "10.20.0.7", 6379), ("sentinel", "10.20.0.7", 26379), ("postgresql", "10.20.1.7", 5432),
                ("provider", "93.184.215.14", 443), ("provider6", "2606:2800::1", 443), ("mail", "93.184.215.14", 25),
                ("metadata", "169.254.169.254", 443), ("neighbour", "10.1.2.3", 443),
            )
        }  # fmt: skip
    redis_only = {"redis": True, "sentinel": True}
    all_false = dict.fromkeys(reach["worker"], False)
    assert reach["gateway"] == reach["first-keys"] == all_false | redis_only
    assert reach["worker"] == all_false | redis_only | {"postgresql": True, "provider": True, "provider6": True}


@each_overlay
def test_only_the_ingress_controller_and_prometheus_come_in(overlay: str) -> None:
    gateway, worker = one(overlay, "Deployment", "gateway"), one(overlay, "Deployment", "worker")
    assert peers(overlay, gateway, "Ingress") == {("ingress-nginx", 8000), ("monitoring", 8000)}
    assert peers(overlay, worker, "Ingress") == {("monitoring", 8100)}
    assert peers(overlay, one(overlay, "Job", "first-keys"), "Ingress") == set()
    for workload in of_kind(overlay, *WORKLOADS):
        assert ("kube-system", 53) in peers(overlay, workload, "Egress")


def test_in_development_both_ends_of_each_connection_allow_it() -> None:
    ours = "multi-agent-service"
    said = {name: one("development", "StatefulSet", name) for name in ("valkey", "postgresql")}
    assert peers("development", said["valkey"], "Ingress") == {(ours, 6379)}
    assert peers("development", said["postgresql"], "Ingress") == {(f"{ours},worker", 5432)}
    for name, wanted in (("gateway", {("valkey", 6379)}), ("worker", {("valkey", 6379), ("postgresql", 5432)})):
        found = peers("development", one("development", "Deployment", name), "Egress") - {("kube-system", 53)}
        assert found == wanted
    for each in said.values():
        assert peers("development", each, "Egress") == {("kube-system", 53)}


def test_the_ingress_serves_what_is_public_over_tls_and_not_the_metrics() -> None:
    spec = one("production", "Ingress", "gateway")["spec"]
    host = spec["rules"][0]["host"]
    assert spec["tls"] == [{"hosts": [host], "secretName": "multi-agent-tls"}]
    paths = [path["path"] for path in spec["rules"][0]["http"]["paths"]]
    app = create_app(Settings(_env_file=None, secret_key=SECRET_KEY, redis_url="redis://127.0.0.1:1/0"))
    routes = {getattr(route, "path", "") for route in app.routes} | set(app.openapi()["paths"])
    outside = {route for route in routes if route and not any(route.startswith(path) for path in paths)}
    assert outside <= {"/metrics", "/"}
    assert one("production", "Ingress", "gateway")["metadata"]["annotations"]["cert-manager.io/cluster-issuer"]


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


@each_overlay
def test_every_command_of_a_container_is_a_module_of_ours(overlay: str) -> None:
    for workload in of_kind(overlay, "Deployment", "Job"):
        for each in containers(pod(workload)):
            assert each["command"][:2] == ["python", "-m"]
            assert each["command"][2] in ("gateway", "worker")
            ast.parse((PROJECT / each["command"][2] / "__main__.py").read_text())
    assert manifests(overlay)
