"""Who may reach whom by the policies of `deploy/k8s`, and what its Ingress lets in."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from gateway.main import create_app
from shared.settings import Settings
from tests.deploy.cluster import OVERLAYS, WORKLOADS, Document, labels, of_kind, one, selects
from tests.servers import SECRET_KEY

each_overlay = pytest.mark.parametrize("overlay", OVERLAYS)


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
                name = ",".join(value for _, value in sorted(selector["matchLabels"].items(), reverse=True))
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


def test_cert_manager_can_prove_the_host_name() -> None:
    solver = {"spec": {"template": {"metadata": {"labels": {"acme.cert-manager.io/http01-solver": "true"}}}}}
    assert peers("production", solver, "Ingress") == {("ingress-nginx", 8089)}


@each_overlay
def test_the_ingress_lets_large_bodies_long_waits_and_streams_through(overlay: str) -> None:
    said = one(overlay, "Ingress", "gateway")["metadata"]["annotations"]
    said = {name.removeprefix("nginx.ingress.kubernetes.io/"): value for name, value in said.items()}
    assert int(said["proxy-body-size"].removesuffix("m")) << 20 > Settings(_env_file=None).max_body_bytes
    assert said["proxy-buffering"] == "off"
    assert int(said["proxy-read-timeout"]) >= 3600
    # A POST that may have been taken is not sent to another gateway.
    assert "non_idempotent" not in said["proxy-next-upstream"]
