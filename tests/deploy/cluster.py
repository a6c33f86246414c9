"""The manifests of each overlay, rendered, and questions about them."""

from __future__ import annotations

from functools import cache
from typing import Any

from tests.deploy.kustomize import Document, render
from tests.servers import PROJECT

FOLDER = PROJECT / "deploy" / "k8s"
OVERLAYS = sorted(path.name for path in (FOLDER / "overlays").iterdir())
WORKLOADS = ("Deployment", "StatefulSet", "Job")
NAME, COMPONENT = "app.kubernetes.io/name", "app.kubernetes.io/component"


@cache
def manifests(overlay: str) -> tuple[Document, ...]:
    return tuple(render(FOLDER / "overlays" / overlay))


def of_kind(overlay: str, *kinds: str) -> list[Document]:
    return [one for one in manifests(overlay) if one["kind"] in kinds]


def one(overlay: str, kind: str, name: str) -> Document:
    return next(each for each in of_kind(overlay, kind) if each["metadata"]["name"] == name)


def pod(workload: Document) -> Document:
    spec: Document = workload["spec"]["template"]["spec"]
    return spec


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
