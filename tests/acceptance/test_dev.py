"""`python -m gateway --dev`, the whole of it: real processes on a folder of the test's own."""

from __future__ import annotations

import contextlib
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


PATIENT = """
import asyncio, pathlib
from langgraph.graph import END, START, MessagesState, StateGraph

async def answer(state):
    while not pathlib.Path("%s").exists():
        await asyncio.sleep(0.02)
    return {"messages": [("ai", "at last")]}

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

    def submit(self, graph: str) -> str:
        body = {"graph": graph, "input": {"messages": [{"role": "user", "content": "My router blinks red."}]}}
        status, answer = fetch(f"{self.api}/jobs", json.dumps(body).encode())
        assert status == 202, answer
        return str(json.loads(answer)["id"])

    def run_job(self, graph: str) -> dict[str, Any]:
        job: dict[str, Any] = self.get(f"/jobs/{self.submit(graph)}?wait=20")
        return job


@pytest.fixture
def dev(processes: Processes) -> Dev:
    return Dev(processes)


def family(process: Process) -> dict[str, int]:
    """The process ids below `--dev`, by what they are."""
    names = {}
    for child in psutil.Process(process.pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
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
    pids = family(second)
    second.send_to_group(signal.SIGTERM)
    second.send_to_group(signal.SIGTERM)  # make sends one of its own
    assert second.wait(5) == 0
    assert_gone(pids, 0.5)


def test_after_kill_9_nothing_is_left_running_and_a_second_start_finds_its_data(dev: Dev) -> None:
    first = dev.up()
    job = dev.run_job("customer_service")
    pids = family(first)
    first.kill()
    second = dev.up()
    assert_gone(pids)
    assert dev.get(f"/jobs/{job['id']}")["status"] == "succeeded"
    assert second.stop() == 0


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


def project_with(folder: Path, code: str) -> Path:
    """A project whose one graph, `own`, is in agents/own.py. Gives its config."""
    (folder / "agents").mkdir(parents=True)
    (folder / "agents" / "own.py").write_text(code)
    (folder / "langgraph.json").write_text('{"dependencies": ["."], "graphs": {"own": "./agents/own.py:graph"}}')
    return folder / "langgraph.json"


@pytest.mark.parametrize("twice", [False, True])
def test_a_job_that_runs_when_ctrl_c_comes_ends_after_the_next_start(
    twice: bool, processes: Processes, tmp_path: Path
) -> None:
    may_end = tmp_path / "may_end"
    config = project_with(tmp_path / "project", PATIENT % may_end)
    dev = Dev(processes, GRAPHS_CONFIG=str(config), LEASE_SECONDS="1", DRAIN_SECONDS="60" if twice else "")
    first = dev.up()
    job = dev.submit("own")
    wait_until(lambda: dev.get(f"/jobs/{job}")["status"] == "running")
    pids = family(first)
    first.send(signal.SIGINT)
    first.wait_for_line("stopping")
    if twice:
        first.send(signal.SIGINT)
    assert first.wait(4) == 0
    assert_gone(pids, 0.5)

    may_end.touch()
    second = dev.up()
    ended = dev.get(f"/jobs/{job}?wait=20")
    assert (ended["status"], ended["attempt"], ended["tries"]) == ("succeeded", 2, 2 if twice else 1)
    assert second.stop() == 0


def test_a_changed_graph_is_served_without_a_restart_by_hand(processes: Processes, tmp_path: Path) -> None:
    config = project_with(tmp_path / "project", ECHO % "first answer")
    dev = Dev(processes, GRAPHS_CONFIG=str(config))
    process = dev.up()
    assert dev.run_job("own")["output"]["messages"][-1]["content"] == "first answer"
    pids = family(process)
    (config.parent / "agents" / "own.py").write_text(ECHO % "second answer")
    process.wait_for_line("own.py changed: restarting worker")
    wait_until(lambda: family(process).get("worker", pids["worker"]) != pids["worker"])
    assert dev.run_job("own")["output"]["messages"][-1]["content"] == "second answer"
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
    broken = dev.data / "valkey" / "appendonlydir" / "appendonly.aof.manifest"
    broken.parent.mkdir(parents=True)
    broken.write_text("no manifest")
    process = dev.start()
    assert process.wait() == 2
    assert "The embedded Valkey does not start" in process.log
