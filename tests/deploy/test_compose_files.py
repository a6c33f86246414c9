"""What the compose files say is valid, agrees with the settings, the image and nginx, and confines what it runs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from gateway.auth import OPEN_PATHS
from gateway.routes.jobs import MAX_WAIT_SECONDS
from shared.settings import Settings
from tests.deploy.compose import BASE, DEVELOPMENT, MONITORING, SECRETS, compose, resolved
from tests.deploy.compose_nginx import TEMPLATE
from tests.deploy.image import DOCKERFILE, instructions
from tests.deploy.programs import program
from tests.servers import PROJECT

DOCKER = PROJECT / "deploy" / "docker"
STACKS = {
    "alone": (BASE,),
    "for development": (BASE, DEVELOPMENT),
    "watched": (BASE, MONITORING),
    "all": (BASE, DEVELOPMENT, MONITORING),
}
PARTS: dict[str, Any] = resolved(BASE, MONITORING)
SERVICES: dict[str, dict[str, Any]] = PARTS["services"]
DEFAULTS = {name: field.default for name, field in Settings.model_fields.items()}
MB = 1 << 20


def seconds(duration: str) -> int:
    """Of "1m30s"."""
    return sum(int(count) * {"h": 3600, "m": 60, "s": 1}[unit] for count, unit in re.findall(r"(\d+)([hms])", duration))


def memory(name: str) -> int:
    """What a service may take, in bytes."""
    return int(SERVICES[name]["deploy"]["resources"]["limits"]["memory"])


def schema_errors(file: Path) -> str:
    """What the schema of the Compose Specification finds wrong."""
    check = [Path(sys.executable).with_name("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", file]
    done = subprocess.run(check, capture_output=True, text=True, timeout=60)
    assert done.returncode in (0, 1), done.stderr
    return done.stdout if done.returncode else ""


@pytest.mark.parametrize("file", [BASE, DEVELOPMENT, MONITORING], ids=lambda file: file.name)
def test_each_file_is_valid_by_the_specification(file: Path, tmp_path: Path) -> None:
    assert schema_errors(file) == ""
    wrong = tmp_path / file.name
    wrong.write_text(file.read_text().replace("    ports:", "    prots:", 1))
    assert "'prots' was unexpected" in schema_errors(wrong)


@pytest.mark.parametrize("stack", STACKS)
def test_each_stack_is_valid_with_its_variables_substituted(stack: str, tmp_path: Path) -> None:
    found = resolved(*STACKS[stack])
    assert "${" not in json.dumps(found).replace(r"\${", "")
    file = tmp_path / "resolved.json"
    file.write_text(json.dumps(found))
    assert schema_errors(file) == ""


@pytest.mark.parametrize("name", sorted(SECRETS))
def test_a_missing_secret_is_told_before_anything_starts(name: str) -> None:
    given = {other: value for other, value in SECRETS.items() if other != name}
    done = compose("config", files=(BASE, MONITORING), **given)
    assert done.returncode != 0
    assert f"required variable {name} is missing a value: is missing in .env" in done.stderr
    assert "prepare.sh" in done.stderr


def test_no_secret_stands_in_the_files() -> None:
    for file in (BASE, DEVELOPMENT, MONITORING):
        for line in file.read_text().splitlines():
            if re.search(r"(PASSWORD|SECRET_KEY|API_KEY)\b.*:", line):
                assert "${" in line or "$$" in line, line


def test_only_nginx_is_published_and_grafana_to_this_machine() -> None:
    published = {
        name: [f"{port.get('host_ip', '')}:{port['published']}" for port in service.get("ports", [])]
        for name, service in SERVICES.items()
    }
    assert {name: ports for name, ports in published.items() if ports} == {
        "nginx": [":80", ":443"],
        "grafana": ["127.0.0.1:3000"],
    }


@pytest.mark.parametrize("name", ["gateway", "worker"])
def test_gateways_and_workers_can_be_many(name: str) -> None:
    assert not {"ports", "container_name", "hostname"} & set(SERVICES[name])
    assert all("ipv4_address" not in (network or {}) for network in SERVICES[name]["networks"].values())


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_each_part_is_confined_checked_limited_and_started_again(name: str) -> None:
    service = SERVICES[name]
    assert service["restart"] == "unless-stopped"
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service.get("read_only", False) is (name != "grafana")
    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory"}
    assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")
    assert all(needed["condition"] == "service_healthy" for needed in service.get("depends_on", {}).values())
    assert re.search(r":[\w.-]*\d[\w.-]*$", service["image"]), "a version, not what is the latest"


def test_who_needs_whom_is_waited_for() -> None:
    assert set(SERVICES["gateway"]["depends_on"]) == set(SERVICES["worker"]["depends_on"]) == {"redis", "postgres"}
    assert set(SERVICES["nginx"]["depends_on"]) == {"gateway"}


def test_the_data_is_reached_by_gateways_and_workers_only_and_leads_nowhere() -> None:
    networks = {name: set(service["networks"]) for name, service in SERVICES.items()}
    assert networks["redis"] == networks["postgres"] == {"back"}
    assert PARTS["networks"]["back"]["internal"] is True
    assert networks["nginx"] == {"front"}
    assert {name for name, joined in networks.items() if "front" in joined} == {"nginx", "gateway"}
    assert "out" in networks["worker"]
    (front,) = PARTS["networks"]["front"]["ipam"]["config"]
    assert SERVICES["gateway"]["environment"]["TRUSTED_PROXIES"] == front["subnet"]


@pytest.mark.parametrize("name", ["gateway", "worker"])
def test_what_they_are_given_are_settings_that_are_right(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = SERVICES[name]["environment"]
    assert {variable.lower() for variable in given} <= set(Settings.model_fields)
    for variable, value in given.items():
        monkeypatch.setenv(variable, value)
    loaded = Settings(_env_file=None)  # type: ignore[call-arg]
    assert loaded.require_redis_url() == f"redis://:{SECRETS['REDIS_PASSWORD']}@redis:6379/0"
    assert loaded.thread_database.startswith("postgresql://multiagent:")
    assert loaded.auth_required


def test_ports_are_the_settings_defaults_everywhere() -> None:
    gateway, worker = SERVICES["gateway"]["environment"], SERVICES["worker"]["environment"]
    port, metrics = DEFAULTS["port"], worker["WORKER_METRICS_PORT"]
    assert gateway["PORT"] == str(port)
    assert dict(instructions(DOCKERFILE.read_text()))["EXPOSE"] == str(port)
    assert f"server gateway:{port} resolve;" in TEMPLATE.read_text()
    scraped = (DOCKER / "prometheus.yml").read_text()
    assert f"names: [gateway], type: A, port: {port}," in scraped
    assert f"names: [worker], type: A, port: {metrics}," in scraped
    assert worker["WORKER_METRICS_HOST"] == "0.0.0.0"
    image = " ".join(value for instruction, value in instructions(DOCKERFILE.read_text()) if instruction == "ENV")
    assert f"PORT={port} WORKER_METRICS_PORT={metrics} " in image


def test_health_is_asked_of_paths_that_need_no_key() -> None:
    check = (DOCKER / "healthcheck.py").read_text()
    assert '"/api/v1/health/ready"' in check
    assert "/api/v1/health/ready" in OPEN_PATHS
    health = [value for instruction, value in instructions(DOCKERFILE.read_text()) if instruction == "HEALTHCHECK"]
    assert json.loads(health[0].partition(" CMD ")[2]) == SERVICES["gateway"]["healthcheck"]["test"][1:]
    assert SERVICES["worker"]["healthcheck"] == SERVICES["gateway"]["healthcheck"]


def test_a_stop_waits_longer_than_what_is_under_way_takes() -> None:
    grace = {name: seconds(service.get("stop_grace_period", "10s")) for name, service in SERVICES.items()}
    gateway, worker = SERVICES["gateway"]["environment"], SERVICES["worker"]["environment"]
    assert grace["gateway"] >= float(gateway["GATEWAY_DRAIN_SECONDS"]) + DEFAULTS["request_seconds"]
    assert grace["worker"] >= float(worker["DRAIN_SECONDS"]) + DEFAULTS["lease_seconds"]
    assert grace["nginx"] > MAX_WAIT_SECONDS
    (shutdown,) = re.findall(r"--shutdown-timeout (\d+)", SERVICES["redis"]["command"][-1])
    assert grace["redis"] > int(shutdown)
    assert SERVICES["nginx"]["stop_signal"] == "SIGQUIT"


def test_nginx_takes_what_the_gateway_takes_and_waits_as_long() -> None:
    site = TEMPLATE.read_text()
    (body,) = re.findall(r"client_max_body_size (\d+);", site)
    assert int(body) == DEFAULTS["max_body_bytes"]
    (read,) = re.findall(r"proxy_read_timeout (\d+)s;", site)
    assert int(read) > MAX_WAIT_SECONDS
    (kept,) = re.findall(r"^ +keepalive_timeout (\d+)s;", site, re.MULTILINE)
    assert int(kept) < float(SERVICES["gateway"]["environment"]["GATEWAY_DRAIN_SECONDS"])
    major, minor = re.fullmatch(r"nginx:(\d+)\.(\d+)", SERVICES["nginx"]["image"]).groups()  # type: ignore[union-attr]
    assert (int(major), int(minor)) >= (1, 28), "`resolve` came with 1.27.3"


def test_the_site_is_that_of_a_machine_but_for_its_upstream_and_logs() -> None:
    def kept(text: str) -> list[str]:
        lines = text[text.index("upstream ") :].splitlines()
        own = r" *(listen \[::\]|server (gateway|127\.)|zone |http2 on|(access|error)_log )"
        lines = [line.replace(" ssl http2;", " ssl;").replace("${DOMAIN}", "your-domain.com") for line in lines]
        return [line for line in lines if not re.match(own, line)]

    assert kept(TEMPLATE.read_text()) == kept((PROJECT / "deploy/nginx/multi-agent-service.conf").read_text())


def test_only_the_domain_is_put_into_the_site() -> None:
    assert set(re.findall(r"\$\{(\w+)\}", TEMPLATE.read_text())) == {"DOMAIN"}
    (filtered,) = [SERVICES["nginx"]["environment"]["NGINX_ENVSUBST_FILTER"]]
    assert [name for name in ("DOMAIN", "host", "scheme", "status") if re.search(filtered, name)] == ["DOMAIN"]


def test_redis_keeps_what_it_has_confirmed_and_has_room_for_a_rewrite() -> None:
    command = SERVICES["redis"]["command"][-1]
    for option in ("--appendonly yes", "--appendfsync always", "--maxmemory-policy noeviction", "--dir /data"):
        assert option in command
    assert [one["target"] for one in SERVICES["redis"]["volumes"]] == ["/data"]
    (most,) = re.findall(r"--maxmemory (\d+)mb", command)
    assert int(most) * MB < memory("redis") * 0.67
    assert SECRETS["REDIS_PASSWORD"] not in command


def test_a_gateway_has_memory_for_the_bodies_that_it_takes_at_once() -> None:
    assert memory("gateway") > 4 * DEFAULTS["max_body_bytes_at_once"] + 300 * MB


def test_image_and_version_are_the_projects() -> None:
    version = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["version"]
    assert SERVICES["gateway"]["image"] == SERVICES["worker"]["image"] == f"multi-agent-service:{version}"
    build = SERVICES["worker"]["build"]
    assert (build["context"], build["dockerfile"]) == (str(PROJECT), str(DOCKERFILE.relative_to(PROJECT)))


def test_the_image_is_built_once_and_nobody_looks_for_it_elsewhere() -> None:
    """Two services that build one name are built at the same time, and the second export of it is refused."""
    for stack in STACKS.values():
        ours = {name: one for name, one in resolved(*stack)["services"].items() if "multi-agent" in one["image"]}
        assert [name for name, one in ours.items() if "build" in one] == ["worker"]
        assert ours["gateway"]["pull_policy"] == "never"


def test_graphs_are_those_of_the_image_until_the_folder_changes() -> None:
    given = resolved(GRAPHS="examples/mine")["services"]["worker"]
    assert given["build"]["args"] == {"GRAPHS": "examples/mine"}
    (mounted,) = [one for one in given["volumes"] if one["target"] == "/app/graphs"]
    assert (mounted["source"], mounted["read_only"]) == (str(PROJECT / "examples/mine"), True)


def test_what_is_mounted_is_there_or_made_by_the_preparation() -> None:
    made = {"logs", "config/tls", "config/acme", "config/keys/prometheus"}
    for stack in STACKS.values():
        for name, service in resolved(*stack)["services"].items():
            for volume in service.get("volumes", []):
                if volume["type"] == "bind":
                    source = Path(volume["source"]).relative_to(PROJECT)
                    assert (PROJECT / source).exists() or str(source) in made, (name, source)
    assert made >= {"logs", "config/tls"}


def test_prometheus_takes_its_file(tmp_path: Path) -> None:
    mounted = {one["target"]: one.get("source") for one in SERVICES["prometheus"]["volumes"]}
    folder = tmp_path / "prometheus"
    folder.mkdir()
    (folder / "rules").symlink_to(mounted["/etc/prometheus/rules"])
    key = folder / "key"
    key.touch()
    text = Path(mounted["/etc/prometheus/prometheus.yml"]).read_text()
    secret = "/etc/prometheus/multi-agent-service.key"
    assert secret in text
    assert secret in mounted
    (folder / "prometheus.yml").write_text(text.replace(secret, str(key)))
    check = [program("promtool"), "check", "config", folder / "prometheus.yml"]
    done = subprocess.run(check, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "rules found" in done.stdout


def test_grafana_finds_our_dashboard_and_its_prometheus() -> None:
    mounted = {one["target"]: one.get("source") for one in SERVICES["grafana"]["volumes"]}
    provider = next(Path(mounted["/etc/grafana/provisioning/dashboards"]).iterdir()).read_text()
    (folder,) = re.findall(r"path: (\S+)", provider)
    assert mounted[f"{folder}/dashboard.json"] == str(PROJECT / "deploy/monitoring/grafana/dashboard.json")
    source = Path(mounted["/etc/grafana/provisioning/datasources/multi-agent-service.yml"]).read_text()
    assert "url: http://prometheus:9090" in source
    of_machine = PROJECT / "deploy/monitoring/grafana/provisioning/datasources/prometheus.yml"
    assert source.partition("apiVersion")[2] == of_machine.read_text().partition("apiVersion")[2].replace(
        "127.0.0.1:9090", "prometheus:9090"
    )


def test_development_runs_the_code_of_this_folder() -> None:
    services = resolved(BASE, DEVELOPMENT)["services"]
    assert "nginx" not in services, "it would need a certificate"
    for name in ("gateway", "worker"):
        assert services[name]["environment"]["LOG_FILE"] == "", "to the terminal"
        mounted = {one["target"]: one["source"] for one in services[name]["volumes"]}
        for part in ("shared", name):
            assert mounted[f"/app/{part}"] == str(PROJECT / part)
        assert services[name]["command"][:3] == ["python", "-m", "watchfiles"]
        assert {f"/app/{part}" for part in ("shared", name)} <= set(services[name]["command"])
