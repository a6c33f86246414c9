"""`deploy/k8s`, rendered: valid by the schemas of Kubernetes and of the operators, and in agreement with itself."""

from __future__ import annotations

import base64
import json
import re
import shutil
from pathlib import Path

import jsonschema_rs
import pytest
import yaml

from shared.api_keys import id_of
from shared.redis_url import is_sentinel_url, parse_sentinel_url
from shared.settings import Settings
from tests.deploy.cluster import (
    FOLDER,
    OVERLAYS,
    WORKLOADS,
    Document,
    build,
    containers,
    labels,
    manifests,
    of_kind,
    one,
    pod,
    read_documents,
    selects,
    settings,
)  # fmt: skip

# `sleep` of preStop came with the first of these; the second is the newest whose schemas are at hand.
VERSIONS = ("1.30", "1.37")
CUSTOM = ("ScaledObject", "ServiceMonitor", "PodMonitor")
SCHEMAS = Path(__file__).parent / "custom_schemas"

each_overlay = pytest.mark.parametrize("overlay", OVERLAYS)


def test_there_are_two_overlays() -> None:
    assert OVERLAYS == ["development", "production"]


@each_overlay
@pytest.mark.parametrize("version", VERSIONS)
def test_every_manifest_is_valid_by_the_schemas_of_kubernetes(overlay: str, version: str) -> None:
    import kubernetes_validate

    for each in manifests(overlay):
        if each["kind"] not in CUSTOM:
            kubernetes_validate.validate(each, version, strict=True)


@pytest.mark.parametrize("kind", CUSTOM)
def test_every_manifest_of_an_operator_is_valid_by_its_documentation(kind: str) -> None:
    schema = jsonschema_rs.Draft202012Validator(json.loads((SCHEMAS / f"{kind}.json").read_text()))
    found = of_kind("production", kind)
    assert found
    for each in found:
        schema.validate(each)
    with pytest.raises(jsonschema_rs.ValidationError):
        schema.validate({**found[0], "spec": {**found[0]["spec"], "pollInterval": 1}})


def test_the_template_of_the_secrets_is_valid_and_names_settings() -> None:
    import kubernetes_validate

    secrets, keys = read_documents(FOLDER / "base" / "secret.template.yaml")
    for each in (secrets, keys):
        kubernetes_validate.validate(each, VERSIONS[0], strict=True)
        assert set(each["stringData"].values()) == {""}
    assert set(secrets["stringData"]) <= {name.upper() for name in Settings.model_fields}


def test_development_needs_no_operator_and_production_brings_none_of_its_data_stores() -> None:
    kinds = {each["kind"] for each in manifests("development")}
    assert not kinds & {*CUSTOM, "HorizontalPodAutoscaler"}
    assert {each["metadata"]["name"] for each in of_kind("development", "StatefulSet")} == {"valkey", "postgresql"}
    assert not of_kind("production", "StatefulSet", "Secret")
    assert {each["kind"] for each in manifests("production")} >= {*CUSTOM, "HorizontalPodAutoscaler"}


def secret_keys(overlay: str, name: str) -> set[str]:
    """What a Secret has: one that kustomize makes, or one that is made by hand, as the template says."""
    made = [each for each in of_kind(overlay, "Secret") if each["metadata"]["name"] == name]
    if not made:
        made = [
            each for each in read_documents(FOLDER / "base/secret.template.yaml") if each["metadata"]["name"] == name
        ]
    return set(made[0].get("data") or made[0]["stringData"])


def test_no_secret_is_among_the_files_of_base_and_production() -> None:
    secret = {name.upper() for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)}
    assert {"SECRET_KEY", "REDIS_URL", "DATABASE_URL", "OPENAI_API_KEY"} <= secret
    for overlay in OVERLAYS:
        assert not secret & set(settings(overlay))
        for workload in of_kind(overlay, *WORKLOADS):
            for container in containers(pod(workload)):
                for variable in container.get("env", []):
                    assert "value" not in variable or variable["name"] not in secret | {"POSTGRES_PASSWORD"}
    for file in [*(FOLDER / "base").iterdir(), *(FOLDER / "overlays" / "production").iterdir()]:
        said = "".join(line for line in file.read_text().splitlines(keepends=True) if not line.lstrip().startswith("#"))
        assert (
            re.findall(r"mas_[a-z0-9]{12}_\w+|sk-\w{8,}|-----BEGIN|://[^/\s]*:[^/\s]+@|\b[0-9a-f]{32,}\b", said) == []
        )


def test_the_addresses_of_the_template_are_such_as_the_service_takes() -> None:
    text = (FOLDER / "base" / "secret.template.yaml").read_text()
    redis = re.findall(r"redi\S+://\S+:\S+", text)
    assert [url.partition("://")[0] for url in redis] == ["rediss", "redis+sentinel"]
    for url in [*redis, redis[1].replace("redis+sentinel", "rediss+sentinel")]:
        assert Settings(_env_file=None, redis_url=url).require_redis_url() == url
        if is_sentinel_url(url):
            assert len(parse_sentinel_url(url).sentinels) == 2
    (database,) = re.findall(r"postgresql://\S+", text)
    assert Settings(_env_file=None, database_url=database).thread_database == database


def test_a_pod_that_is_not_restricted_is_refused_by_the_cluster() -> None:
    for overlay in OVERLAYS:
        (namespace,) = of_kind(overlay, "Namespace")
        assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
        name = namespace["metadata"]["name"]
        assert {each["metadata"]["namespace"] for each in manifests(overlay) if each is not namespace} == {name}


@each_overlay
def test_every_reference_leads_to_something(overlay: str) -> None:
    there = {(each["kind"], each["metadata"]["name"]) for each in manifests(overlay)}
    if overlay == "production":  # made by hand, as the template says
        there |= {("Secret", each["metadata"]["name"]) for each in read_documents(FOLDER / "base/secret.template.yaml")}
    for workload in of_kind(overlay, *WORKLOADS):
        spec = pod(workload)
        for container in containers(spec):
            for source in container.get("envFrom", []):
                ((kind, reference),) = source.items()
                assert ({"configMapRef": "ConfigMap", "secretRef": "Secret"}[kind], reference["name"]) in there
            for variable in container.get("env", []):
                reference = variable.get("valueFrom", {}).get("secretKeyRef")
                if reference:
                    assert ("Secret", reference["name"]) in there
                    assert reference["key"] in secret_keys(overlay, reference["name"])
            claims = [each["metadata"]["name"] for each in workload["spec"].get("volumeClaimTemplates", [])]
            volumes = [each["name"] for each in spec.get("volumes", [])] + claims
            assert {each["name"] for each in container.get("volumeMounts", [])} <= set(volumes)
        for volume in spec.get("volumes", []):
            if "secret" in volume:
                assert ("Secret", volume["secret"]["secretName"]) in there
            if "configMap" in volume:
                assert ("ConfigMap", volume["configMap"]["name"]) in there
    for each in of_kind(overlay, "Ingress"):
        for path in each["spec"]["rules"][0]["http"]["paths"]:
            service = path["backend"]["service"]
            found = one(overlay, "Service", service["name"])
            assert service["port"]["name"] in {port["name"] for port in found["spec"]["ports"]}
    for each in of_kind(overlay, "HorizontalPodAutoscaler", "ScaledObject"):
        assert ("Deployment", each["spec"]["scaleTargetRef"]["name"]) in there


@each_overlay
def test_every_selector_takes_pods_and_services_and_monitors_find_their_ports(overlay: str) -> None:
    workloads = of_kind(overlay, *WORKLOADS)
    for workload in of_kind(overlay, "Deployment", "StatefulSet"):
        assert selects(workload["spec"]["selector"], labels(workload))
        others = [
            each for each in workloads if each is not workload and selects(workload["spec"]["selector"], labels(each))
        ]
        assert others == []
        for spread in pod(workload).get("topologySpreadConstraints", []):
            assert selects(spread["labelSelector"], labels(workload))
    for budget in of_kind(overlay, "PodDisruptionBudget"):
        assert len([each for each in workloads if selects(budget["spec"]["selector"], labels(each))]) == 1
    for service in of_kind(overlay, "Service"):
        taken = [each for each in workloads if selects({"matchLabels": service["spec"]["selector"]}, labels(each))]
        assert len(taken) == 1
        ports = {port["name"] for container in containers(pod(taken[0])) for port in container.get("ports", [])}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
    for monitor in of_kind(overlay, "ServiceMonitor"):
        seen = [
            each
            for each in of_kind(overlay, "Service")
            if selects(monitor["spec"]["selector"], each["metadata"]["labels"])
        ]
        assert len(seen) == 1
        for end in monitor["spec"]["endpoints"]:
            assert end["port"] in {port["name"] for port in seen[0]["spec"]["ports"]}
            credentials = end["authorization"]["credentials"]
            assert credentials["key"] in secret_keys(overlay, credentials["name"])
    for monitor in of_kind(overlay, "PodMonitor"):
        (seen_pod,) = [each for each in workloads if selects(monitor["spec"]["selector"], labels(each))]
        ports = {port["name"] for container in containers(pod(seen_pod)) for port in container["ports"]}
        assert {end["port"] for end in monitor["spec"]["podMetricsEndpoints"]} <= ports


@each_overlay
def test_every_image_has_a_tag_that_does_not_move(overlay: str) -> None:
    for workload in of_kind(overlay, *WORKLOADS):
        for container in containers(pod(workload)):
            tag = container["image"].rpartition("/")[2].partition(":")[2]
            assert tag not in ("", "latest"), container["image"]


@each_overlay
def test_every_container_is_bounded_and_may_do_nothing_that_it_need_not(overlay: str) -> None:
    for workload in of_kind(overlay, *WORKLOADS):
        spec = pod(workload)
        assert spec["automountServiceAccountToken"] is False
        assert spec["enableServiceLinks"] is False
        rights = spec["securityContext"]
        assert rights["runAsNonRoot"] is True
        assert rights["seccompProfile"] == {"type": "RuntimeDefault"}
        assert rights["runAsUser"] == (999 if workload["kind"] == "StatefulSet" else 1000)
        for container in containers(spec):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
            }  # fmt: skip
            for bound in ("requests", "limits"):
                assert set(container["resources"][bound]) == {"cpu", "memory"}
            assert workload["metadata"]["name"] == "valkey" or "/tmp" in {
                mount["mountPath"] for mount in container["volumeMounts"]
            }


@each_overlay
def test_settings_are_known_and_the_processes_take_them(overlay: str) -> None:
    said = settings(overlay)
    assert set(said) <= {name.upper() for name in Settings.model_fields}
    loaded = Settings(_env_file=None, **{name.lower(): value for name, value in said.items()})
    assert loaded.auth_required
    # A probe and a scrape name the pod's address as their host.
    assert loaded.allowed_hosts == []
    assert loaded.log_file is None


def test_the_secrets_of_development_are_valid_and_its_urls_lead_to_its_own_servers() -> None:
    secrets = {each["metadata"]["name"].rpartition("-")[0]: each for each in of_kind("development", "Secret")}
    values = {
        name: {key: base64.b64decode(value).decode() for key, value in each["data"].items()}
        for name, each in secrets.items()
    }
    loaded = Settings(_env_file=None, **{name.lower(): value for name, value in values["multi-agent-secrets"].items()})
    assert loaded.require_secret_key()
    assert "@valkey:6379/" in loaded.require_redis_url()
    assert "@postgresql:5432/" in loaded.thread_database
    assert all(id_of(key) for key in values["multi-agent-keys"].values())
    assert set(values["multi-agent-keys"]) == set(read_documents(FOLDER / "base/secret.template.yaml")[1]["stringData"])


def test_a_changed_setting_changes_the_name_by_which_pods_refer_to_it(tmp_path: Path) -> None:
    copied = shutil.copytree(FOLDER, tmp_path / "k8s")
    before = build(copied / "overlays" / "production")
    file = copied / "base" / "settings.env"
    file.write_text(file.read_text().replace("WORKER_CONCURRENCY=10", "WORKER_CONCURRENCY=20"))
    after = build(copied / "overlays" / "production")

    def names(documents: list[Document]) -> set[str]:
        return {
            line.split()[-1] for line in yaml.safe_dump(documents).splitlines() if "name: multi-agent-settings" in line
        }

    assert len(names(before)) == len(names(after)) == 1
    assert names(before) != names(after)
