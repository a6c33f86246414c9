"""The manifests of each overlay, as kustomize builds them, and questions about them."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.deploy.programs import next_program
from tests.servers import PROJECT

Document = dict[str, Any]
FOLDER = PROJECT / "deploy" / "k8s"
OVERLAYS = sorted(path.name for path in (FOLDER / "overlays").iterdir())
WORKLOADS = ("Deployment", "StatefulSet", "Job")
NAME, COMPONENT = "app.kubernetes.io/name", "app.kubernetes.io/component"


def build(folder: Path) -> list[Document]:
    """What `kubectl apply -k folder` would send. Raises `AssertionError` where kustomize refuses it, or warns."""
    command = [*next_program("usr/bin/kustomize"), "build", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return list(yaml.safe_load_all(done.stdout))


def read_documents(path: Path) -> list[Document]:
    return list(yaml.safe_load_all(path.read_text()))


@cache
def manifests(overlay: str) -> tuple[Document, ...]:
    return tuple(build(FOLDER / "overlays" / overlay))


def of_kind(overlay: str, *kinds: str) -> list[Document]:
    return [one for one in manifests(overlay) if one["kind"] in kinds]


def one(overlay: str, kind: str, name: str) -> Document:
    return next(each for each in of_kind(overlay, kind) if each["metadata"]["name"] == name)


def pod(workload: Document) -> Document:
    spec: Document = workload["spec"]["template"]["spec"]
    return spec


def containers(pod: Document) -> list[Document]:
    """All of a pod's spec, those that run first too."""
    return [*pod.get("initContainers", []), *pod["containers"]]


def labels(workload: Document) -> dict[str, str]:
    found: dict[str, str] = workload["spec"]["template"]["metadata"]["labels"]
    return found


def selects(selector: dict[str, Any], found: dict[str, str]) -> bool:
    """Whether a `matchLabels` selector (an empty one selects all) takes a pod with these labels."""
    assert set(selector) <= {"matchLabels"}
    return set(selector.get("matchLabels", {}).items()) <= set(found.items())


def settings(overlay: str) -> dict[str, str]:
    """What the ConfigMap of settings says."""
    name = "multi-agent-settings-"
    found = [each for each in of_kind(overlay, "ConfigMap") if each["metadata"]["name"].startswith(name)]
    data: dict[str, str] = found[0]["data"]
    return data
