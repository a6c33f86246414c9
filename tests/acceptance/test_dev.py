"""`python -m gateway --dev`, the whole of it: real processes on a folder of the test's own."""

from __future__ import annotations

import json
import shlex
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.servers import Process, Processes, fetch, free_port, is_alive, wait_until

ECHO = """
from langgraph.graph import END, START, MessagesState, StateGraph

def answer(state):
    return {"messages": [("ai", "%s")]}

builder = StateGraph(MessagesState)
builder.add_node("answer", answer)
builder.add_edge(START, "answer")
builder.add_edge("answer", END)
graph = builder.compile()
"""


class Dev:
    """Starts `--dev` in one folder, again and again."""

    def __init__(self, processes: Processes, **environment: str) -> None:
        self.processes = processes
        self.environment = {"SECRET_KEY": "", "PORT": str(free_port()), **environment}
        self.data = processes.folder / "data"

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.environment['PORT']}/api/v1"

    def start(self, **environment: str) -> Process:
        return self.processes.python("gateway", "--dev", **{**self.environment, **environment})

    def up(self) -> Process:
        process = self.start()
        process.wait_for_line("The service is up.", within=30)
        return process

    def get(self, path: str) -> Any:
        status, body = fetch(self.api + path)
        assert status == 200, body
        return json.loads(body)

    def run_job(self, graph: str) -> dict[str, Any]:
        body = {"graph": graph, "input": {"messages": [{"role": "user", "content": "My router blinks red."}]}}
        status, answer = fetch(f"{self.api}/jobs", json.dumps(body).encode())
        assert status == 202, answer
        job: dict[str, Any] = self.get(f"/jobs/{json.loads(answer)['id']}?wait=20")
        return job


@pytest.fixture
def dev(processes: Processes) -> Dev:
    return Dev(processes)


def family(process: Process) -> dict[str, int]:
    """The process ids below `--dev`, by what they are."""
    names = {}
    for child in psutil.Process(process.pid).children():
        line = " ".join(child.cmdline())
        names["valkey" if "valkey-server" in line else line.rpartition("-m ")[2]] = child.pid
    return names


def assert_gone(pids: dict[str, int], within: float = 3.0) -> None:
    wait_until(lambda: not any(map(is_alive, pids.values())), within, what=f"{pids} are gone")


def test_the_curl_line_of_the_banner_works_and_ctrl_c_stops_all_of_it_and_a_second_start_finds_its_data(
    dev: Dev,
) -> None:
    first = dev.up()
    docs = first.wait_for_line("API docs").split()[-1]
    assert fetch(docs)[0] == 200
    line = first.wait_for_line("Try it").partition("Try it")[2]
    submitted = json.loads(subprocess.run(shlex.split(line), capture_output=True, check=True).stdout)
    job = dev.get(f"/jobs/{submitted['id']}?wait=20")
    assert job["status"] == "succeeded"
    assert (dev.data / "secret_key").exists()

    pids = family(first)
    assert pids.keys() == {"valkey", "worker", "gateway"}
    first.send_to_group(signal.SIGINT)
    assert first.wait(5) == 0
    assert_gone(pids, 0.5)
    assert "Traceback" not in first.log

    second = dev.up()
    assert dev.get(f"/jobs/{submitted['id']}")["output"] == job["output"]
    assert dev.run_job("customer_service")["status"] == "succeeded"
    assert second.stop() == 0


def test_after_kill_9_nothing_is_left_running_and_a_second_start_finds_its_data(dev: Dev) -> None:
    first = dev.up()
    job = dev.run_job("customer_service")
    pids = family(first)
    first.kill()
    second = dev.up()
    assert_gone(pids)
    assert dev.get(f"/jobs/{job['id']}")["status"] == "succeeded"
    assert second.stop() == 0


def test_a_signal_to_the_whole_group_leaves_no_process_behind(dev: Dev) -> None:
    process = dev.up()
    pids = family(process)
    process.send_to_group(signal.SIGTERM)
    process.send_to_group(signal.SIGTERM)  # make sends one of its own
    assert process.wait(5) == 0
    assert_gone(pids, 0.5)


def test_a_second_start_on_the_same_data_is_refused_and_the_first_runs_on(dev: Dev) -> None:
    first = dev.up()
    second = dev.start(PORT=str(free_port()))
    assert second.wait() == 2
    assert f"DATA_DIR is in use: another --dev (process {first.pid})" in second.log
    assert second.log.count("\n") == 1
    assert dev.get("/health")["status"] == "ok"


def test_a_worker_gateway_or_valkey_that_dies_is_started_again_and_a_line_says_so(dev: Dev) -> None:
    process = dev.up()
    kept = dev.run_job("customer_service")["id"]
    for name in ("worker", "gateway", "valkey"):
        before = family(process)[name]
        psutil.Process(before).kill()
        process.wait_for_line(f"{name} was ended by SIGKILL; it is started again")
        wait_until(lambda name=name, before=before: family(process).get(name, before) != before)
    wait_until(lambda: fetch(f"{dev.api}/health")[0] == 200 and dev.get("/workers")["items"], 15)
    assert dev.run_job("customer_service")["status"] == "succeeded"
    assert dev.get(f"/jobs/{kept}")["status"] == "succeeded"


def test_a_changed_graph_is_served_without_a_restart_by_hand(processes: Processes, tmp_path: Path) -> None:
    project = tmp_path / "project"
    (project / "agents").mkdir(parents=True)
    (project / "agents" / "echo.py").write_text(ECHO % "first answer")
    (project / "langgraph.json").write_text('{"dependencies": ["."], "graphs": {"echo": "./agents/echo.py:graph"}}')
    dev = Dev(processes, GRAPHS_CONFIG=str(project / "langgraph.json"))
    process = dev.up()
    assert dev.run_job("echo")["output"]["messages"][-1]["content"] == "first answer"
    pids = family(process)
    (project / "agents" / "echo.py").write_text(ECHO % "second answer")
    process.wait_for_line("echo.py changed: restarting worker")
    wait_until(lambda: family(process).get("worker", pids["worker"]) != pids["worker"])
    assert dev.run_job("echo")["output"]["messages"][-1]["content"] == "second answer"
    assert family(process)["gateway"] == pids["gateway"]


def test_a_redis_that_was_set_is_used_and_none_is_embedded(processes: Processes, valkey_url: str) -> None:
    dev = Dev(processes, REDIS_URL=valkey_url)
    process = dev.up()
    assert family(process).keys() == {"worker", "gateway"}
    assert dev.run_job("customer_service")["status"] == "succeeded"
    assert not (dev.data / "valkey").exists()


def test_a_port_in_use_is_one_line_and_status_2(dev: Dev) -> None:
    with socket.create_server(("127.0.0.1", int(dev.environment["PORT"]))):
        process = dev.start()
        assert process.wait() == 2
    assert process.log.startswith("PORT is wrong: cannot listen on 127.0.0.1:")
    assert process.log.count("\n") == 1


def test_a_process_that_refuses_its_settings_ends_all_of_it_with_status_2(dev: Dev, tmp_path: Path) -> None:
    process = dev.start(GRAPHS_CONFIG=str(tmp_path / "none.json"))
    pids = wait_until(lambda: process.status is None and family(process))
    assert process.wait(20) == 2
    assert "none.json" in process.log
    assert "Traceback" not in process.log
    assert_gone(pids)


def test_a_valkey_that_cannot_read_its_data_is_one_line_and_status_2(dev: Dev) -> None:
    dev.up().stop()
    for file in (dev.data / "valkey" / "appendonlydir").glob("*.manifest"):
        file.write_text("no manifest")
    process = dev.start()
    assert process.wait() == 2
    assert "The embedded Valkey does not start" in process.log
