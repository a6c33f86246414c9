"""What the Dockerfile, the compose files and their nginx file say agrees with each other and with the settings."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from shared.settings import Settings
from tests.servers import PROJECT

SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((PROJECT / "docker-compose.yml").read_text())["services"]
SITE = (PROJECT / "deploy/docker/nginx.conf").read_text()


def seconds(text: str) -> float:
    return float(text.removesuffix("s"))


@pytest.mark.parametrize("name", sorted(set(SERVICES) - {"nginx"}))
def test_only_nginx_is_published(name: str) -> None:
    assert "ports" not in SERVICES[name]


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_each_part_can_be_scaled_is_checked_limited_and_confined(name: str) -> None:
    service = SERVICES[name]
    assert "container_name" not in service
    assert "hostname" not in service
    assert service["restart"] == "unless-stopped"
    assert service["healthcheck"]["test"]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory"}
    assert all(part["condition"] == "service_healthy" for part in service.get("depends_on", {}).values())


def test_a_stop_waits_longer_than_the_drain() -> None:
    gateway, worker = SERVICES["gateway"], SERVICES["worker"]
    assert seconds(gateway["stop_grace_period"]) > float(gateway["environment"]["GATEWAY_DRAIN_SECONDS"]) + 10
    assert seconds(worker["stop_grace_period"]) > float(worker["environment"]["DRAIN_SECONDS"])


def test_nginx_closes_idle_connections_before_a_gateway_that_leaves_does() -> None:
    kept = re.search(r"^ +keepalive_timeout (\d+)s;", SITE, re.MULTILINE)
    assert kept is not None
    assert int(kept[1]) < float(SERVICES["gateway"]["environment"]["GATEWAY_DRAIN_SECONDS"])


def test_nginx_asks_for_the_gateways_again() -> None:
    port = Settings.model_fields["port"].default
    assert f"server gateway:{port} resolve;" in SITE
    assert "resolver 127.0.0.11 " in SITE
    assert re.search(r"^ +zone multi_agent_gateway ", SITE, re.MULTILINE)
    version = re.fullmatch(r"nginx:(\d+)\.(\d+)(\.\d+)?-alpine", SERVICES["nginx"]["image"])
    assert version is not None
    assert (int(version[1]), int(version[2])) >= (1, 28)


def test_the_site_is_that_of_a_machine_but_for_its_upstream_and_logs() -> None:
    def kept(text: str) -> list[str]:
        lines = text[text.index("upstream ") :].splitlines()
        own = r" *(server (gateway|127\.)|zone |http2 on|(access|error)_log )"
        return [line.replace(" ssl http2;", " ssl;") for line in lines if not re.match(own, line)]

    assert kept(SITE) == kept((PROJECT / "deploy/nginx/multi-agent-service.conf").read_text())


def test_redis_keeps_what_it_has_confirmed() -> None:
    command = " ".join(SERVICES["redis"]["command"])
    for option in ("--appendonly yes", "--appendfsync always", "--maxmemory-policy noeviction", "requirepass"):
        assert option in command


def test_every_variable_of_the_environment_is_a_setting() -> None:
    known = {name.upper() for name in Settings.model_fields} | {"HEALTH_URL"}
    for name in ("gateway", "worker"):
        assert set(SERVICES[name]["environment"]) <= known


def test_the_metrics_port_that_health_asks_is_the_workers() -> None:
    worker = SERVICES["worker"]["environment"]
    assert worker["HEALTH_URL"] == f"http://127.0.0.1:{worker['WORKER_METRICS_PORT']}/metrics"
