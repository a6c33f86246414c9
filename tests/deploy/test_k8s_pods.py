"""The pods of the development overlay as processes: their commands, settings and probes, on a real Valkey."""

from __future__ import annotations

import base64
import os
import re
import sys
from pathlib import Path

from tests.clients import Client
from tests.deploy.cluster import Document, manifests, one, pod, settings
from tests.servers import PROJECT, Process, Processes, Valkey, fetch, free_port, wait_until

OVERLAY = "development"
# The root is read-only, and the folder that the process is in; its folder for what passes is not.
READ_ONLY = """
mount --bind "$1" "$1"
mount --bind "$PWD" "$PWD"
mount -o remount,bind,ro "$PWD"
mount -o remount,bind,ro /
cd "$PWD"
if touch written 2>/dev/null; then exit 99; fi
shift
exec "$@"
"""


def secret(name: str) -> dict[str, str]:
    (found,) = [
        each for each in manifests(OVERLAY) if each["kind"] == "Secret" and each["metadata"]["name"].startswith(name)
    ]
    return {key: base64.b64decode(value).decode() for key, value in found["data"].items()}


class Pods:
    """Starts the containers' commands with what their manifests give them; only places and ports are the tests' own."""

    def __init__(self, processes: Processes, folder: Path, valkey: Valkey, postgres_url: str) -> None:
        self.processes = processes
        self.api, self.metrics = free_port(), free_port()
        self.keys = folder / "keys"
        self.keys.mkdir()
        for name, text in secret("multi-agent-keys").items():
            (self.keys / name).write_text(text)
        self.tmp = folder / "tmp"
        self.tmp.mkdir()
        self.secrets = secret("multi-agent-secrets") | {"REDIS_URL": valkey.url, "DATABASE_URL": postgres_url}
        self.settings = settings(OVERLAY) | {"PORT": str(self.api), "WORKER_METRICS_PORT": str(self.metrics)}

    def start(self, kind: str, name: str, which: str = "containers") -> Process:
        spec = pod(one(OVERLAY, kind, name))
        container = spec[which][0]
        # What the image gives, and then the manifest: nothing else.
        environment = {"PYTHONPATH": str(PROJECT), "GRAPHS_CONFIG": str(PROJECT / "langgraph.json")}
        for source in container.get("envFrom", []):
            environment |= self.settings if "configMapRef" in source else self.secrets
        for variable in container.get("env", []):
            environment[variable["name"]] = self.secrets[variable["valueFrom"]["secretKeyRef"]["key"]]
        volumes = {volume["name"] for volume in spec["volumes"] if "emptyDir" in volume}
        writable = [mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] in volumes]
        assert writable == ["/tmp"]
        environment["TMPDIR"] = str(self.tmp)
        python, *arguments = [*container["command"], *container.get("args", [])]
        assert python == "python"
        arguments = [part.replace("/run/keys", str(self.keys)) for part in arguments]
        alone = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
        command = [*alone, "sh", "-euc", READ_ONLY, "sh", str(self.tmp), sys.executable, *arguments]
        return self.processes.start(f"{name}-{which}-{len(self.processes.started)}", command, **environment)

    def probe(self, name: str, which: str) -> int:
        container = pod(one(OVERLAY, "Deployment", name))["containers"][0]
        port = {"gateway": self.api, "worker": self.metrics}[name]
        return fetch(f"http://127.0.0.1:{port}{container[which]['httpGet']['path']}")[0]


def selectors(scaled: Document) -> list[tuple[str, set[str]]]:
    """The metrics that its queries name, each with the labels that it has to have at the gateway."""
    queries = " ".join(trigger["metadata"]["query"] for trigger in scaled["spec"]["triggers"])
    namespace = 'namespace="multi-agent-service"'  # Prometheus' own label
    found = re.findall(r"(mas_\w+){(.*?)}", queries)
    assert all(namespace in labels.split(",") for _, labels in found)
    return [(metric, set(labels.split(",")) - {namespace}) for metric, labels in found]


def test_the_pods_start_become_ready_and_run_a_job_for_the_first_key(
    processes: Processes, tmp_path: Path, postgres_url: str
) -> None:
    processes.folder.mkdir(parents=True)
    valkey = Valkey(tmp_path / "valkey")
    pods = Pods(processes, tmp_path, valkey, postgres_url)
    for _ in range(2):  # an `apply` later it runs again
        for which in ("initContainers", "containers"):
            made = pods.start("Job", "first-keys", which)
            assert made.wait(30) == 0, made.log
            assert not any(key in made.log for key in secret("multi-agent-keys").values())
    gateway, worker = pods.start("Deployment", "gateway"), pods.start("Deployment", "worker")
    wait_until(lambda: pods.probe("gateway", "readinessProbe") == 200, 30, what="the gateway is ready")
    wait_until(lambda: pods.probe("worker", "startupProbe") == 200, 30, what="the worker has started")
    wait_until(lambda: pods.probe("worker", "readinessProbe") == 200, 30, what="the worker is ready")
    assert "worker ready" in worker.log
    with Client(f"http://127.0.0.1:{pods.api}/api/v1") as client:
        client.http.headers["Authorization"] = f"Bearer {secret('multi-agent-keys')['first']}"
        assert client.run("customer_service", {"messages": []})["status"] == "succeeded"
    # Prometheus comes by the pod's address, with its own key, and finds what the ScaledObject asks for.
    bearer = {"Authorization": f"Bearer {secret('multi-agent-keys')['prometheus']}", "Host": f"10.1.2.3:{pods.api}"}
    (scraped,) = one("production", "ServiceMonitor", "gateway")["spec"]["endpoints"]
    status, text = fetch(f"http://127.0.0.1:{pods.api}{scraped['path']}", headers=bearer)
    assert status == 200
    asked = selectors(one("production", "ScaledObject", "worker"))
    assert len(asked) == 4
    for metric, wanted in asked:
        found = re.findall(rf"^{metric}(?:{{(.*)}})? ", text.decode(), flags=re.M)
        assert any(wanted <= set(labels.split(",")) | {""} for labels in found), (metric, wanted, found)
    assert b"mas_jobs_running " in fetch(f"http://127.0.0.1:{pods.metrics}/metrics")[1]

    valkey.kill()
    wait_until(lambda: pods.probe("worker", "readinessProbe") == 503, 15, what="the worker is not ready")
    wait_until(lambda: pods.probe("gateway", "readinessProbe") == 503, 15, what="the gateway is not ready")
    assert pods.probe("worker", "livenessProbe") == pods.probe("gateway", "livenessProbe") == 200
    valkey.restart()
    wait_until(lambda: pods.probe("worker", "readinessProbe") == 200, 30, what="the worker is ready again")
    wait_until(lambda: pods.probe("gateway", "readinessProbe") == 200, 30, what="the gateway is ready again")
    grace = {
        name: pod(one(OVERLAY, "Deployment", name))["terminationGracePeriodSeconds"] for name in ("gateway", "worker")
    }
    assert gateway.stop(grace["gateway"]) == worker.stop(grace["worker"]) == 0
    valkey.stop()
