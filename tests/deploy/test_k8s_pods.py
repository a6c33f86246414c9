"""The pods of the development overlay as processes: their commands, settings and probes, on a real Valkey."""

from __future__ import annotations

import base64
from pathlib import Path

from tests.clients import Client
from tests.deploy.cluster import manifests, one, pod, settings
from tests.servers import Process, Processes, Valkey, fetch, free_port, wait_until

OVERLAY = "development"


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
        (graphs,) = [each for each in manifests(OVERLAY) if "multi-agent-graphs" in each["metadata"]["name"]]
        (folder / "langgraph.json").write_text(graphs["data"]["langgraph.json"])
        self.environment = {
            **settings(OVERLAY), "SECRET_KEY": secret("multi-agent-secrets")["SECRET_KEY"],
            "REDIS_URL": valkey.url, "DATABASE_URL": postgres_url,
            "PORT": str(self.api), "WORKER_METRICS_PORT": str(self.metrics),
            "GRAPHS_CONFIG": str(folder / "langgraph.json"),
        }  # fmt: skip

    def start(self, kind: str, name: str, which: str = "containers") -> Process:
        container = pod(one(OVERLAY, kind, name))[which][0]
        _, _, module, *arguments = [*container["command"], *container.get("args", [])]
        arguments = [part.replace("/run/keys", str(self.keys)) for part in arguments]
        environment = self.environment
        if kind == "Job":  # it has nothing else
            environment = {key: self.environment[key] for key in [each["name"] for each in container["env"]]}
            environment |= {"GRAPHS_CONFIG": "", "SECRET_KEY": ""}
        if name == "gateway":
            environment = {key: value for key, value in environment.items() if key != "DATABASE_URL"}
        return self.processes.python(module, *arguments, **environment)

    def probe(self, name: str, which: str) -> int:
        container = pod(one(OVERLAY, "Deployment", name))["containers"][0]
        port = {"gateway": self.api, "worker": self.metrics}[name]
        return fetch(f"http://127.0.0.1:{port}{container[which]['httpGet']['path']}")[0]


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
    # Prometheus comes by the pod's address, with its own key.
    bearer = {"Authorization": f"Bearer {secret('multi-agent-keys')['prometheus']}", "Host": f"10.1.2.3:{pods.api}"}
    status, text = fetch(f"http://127.0.0.1:{pods.api}/metrics", headers=bearer)
    assert status == 200
    assert all(name in text for name in (b"mas_queue_depth{", b"mas_queue_oldest_seconds{", b"mas_workers_running "))
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
