"""Probes, commands and time to stop of `deploy/k8s` agree with what gateway and worker do."""

from __future__ import annotations

import re

import pytest

from gateway.main import create_app
from gateway.server import STOP_SECONDS
from shared.settings import Settings
from tests.deploy.cluster import OVERLAYS, Document, containers, of_kind, one, pod, settings
from tests.servers import PROJECT, SECRET_KEY

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
    # A start may take as long as Redis is waited for (15 s), and the first probe of a pod on a busy node.
    startup = container(overlay, "gateway")["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 45
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
    assert "lifecycle" not in container(overlay, "worker"), "its pause is of the grace, too"
    drain = pause + float(said["GATEWAY_DRAIN_SECONDS"]) + STOP_SECONDS
    assert pod(gateway)["terminationGracePeriodSeconds"] >= drain + 10
    assert pod(worker)["terminationGracePeriodSeconds"] >= float(said["DRAIN_SECONDS"]) + 15


@each_overlay
def test_every_command_of_a_container_is_a_module_of_ours(overlay: str) -> None:
    for workload in of_kind(overlay, "Deployment", "Job"):
        for each in containers(pod(workload)):
            assert each["command"][:2] == ["python", "-m"]
            assert each["command"][2] in ("gateway", "worker")


@each_overlay
def test_the_pods_are_made_for_the_image(overlay: str) -> None:
    """Its user and its number; where it has its Python, its graphs and its ports it says itself."""
    dockerfile = (PROJECT / "deploy" / "docker" / "Dockerfile").read_text()
    final = dockerfile[dockerfile.rindex("\nFROM ") :]
    (user,) = re.findall(r"^USER (\d+):(\d+)$", final, flags=re.M)
    (version,) = re.findall(r'^version = "(.+)"$', (PROJECT / "pyproject.toml").read_text(), flags=re.M)
    for workload in of_kind(overlay, "Deployment", "Job"):
        rights = pod(workload)["securityContext"]
        assert (str(rights["runAsUser"]), str(rights["runAsGroup"])) == user
        for each in containers(pod(workload)):
            assert re.search(rf"(^|/)multi-agent-service:{re.escape(version)}$", each["image"])
            assert "workingDir" not in each
    assert re.search(r"PATH=/app/.venv/bin:", final)
    assert re.search(r"GRAPHS_CONFIG=", final)
    assert "GRAPHS_CONFIG" not in settings(overlay)


@each_overlay
def test_a_gateway_has_memory_for_the_bodies_that_it_takes_at_once(overlay: str) -> None:
    limit = container(overlay, "gateway")["resources"]["limits"]["memory"]
    bodies: int = Settings.model_fields["max_body_bytes_at_once"].default
    assert int(limit.removesuffix("Gi")) << 30 > 4 * bodies + (300 << 20)
