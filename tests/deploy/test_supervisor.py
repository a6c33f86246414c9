"""The real supervisord with the real files: what an operator does with it, and that no job is lost by it."""

from __future__ import annotations

import os
import signal

import psutil
import pytest

from gateway.processes import CHECK_SECONDS
from gateway.server import LISTEN_SECONDS, STOP_SECONDS
from shared.settings import Settings
from tests.deploy.clients import ENOUGH, Load
from tests.deploy.machine import Machine
from tests.deploy.supervisor_files import programs
from tests.servers import PROJECT, fetch, wait_until

WORKER = "multi-agent-worker:multi-agent-worker_{:02d}"


def production() -> Settings:
    return Settings(_env_file=PROJECT / "deploy" / "env" / "production.env")


def serving(machine: Machine) -> set[int]:
    return {child.pid for child in psutil.Process(machine.process_id("multi-agent-service")).children()}


def test_the_programs_are_those_of_the_guide() -> None:
    gateway, worker = programs()["multi-agent-service"], programs()["multi-agent-worker"]
    assert gateway["environment"] == 'GATEWAY_WORKERS="4"'
    assert worker["numprocs"] == "2"
    assert worker["process_name"] == "%(program_name)s_%(process_num)02d"
    for program in programs().values():
        assert program["user"] == "multiagent"
        assert program["stdout_logfile"].startswith("/var/log/multi-agent-service/supervisor/")
        assert program["stdout_logfile_maxbytes"] == "10MB"


def test_each_program_is_given_more_time_to_stop_than_its_settings_let_it_take() -> None:
    settings = production()
    gateway, worker = programs()["multi-agent-service"], programs()["multi-agent-worker"]
    assert float(gateway["stopwaitsecs"]) > LISTEN_SECONDS + settings.gateway_drain_seconds + STOP_SECONDS + 5
    assert float(worker["stopwaitsecs"]) > settings.drain_seconds + 15
    assert float(programs()["multi-agent-redis"]["stopwaitsecs"]) > 10
    assert CHECK_SECONDS < 120


def test_a_gateway_and_two_workers_come_up(machine: Machine) -> None:
    status = machine.supervisorctl("status")
    assert status.count("RUNNING") == 4, status
    assert len(serving(machine)) == 4
    for number in range(2):
        assert b"mas_jobs_running" in fetch(f"http://127.0.0.1:{machine.metrics_port + number}/metrics")[1]
    with machine.client() as client:
        assert client.run("echo", {"value": 1})["status"] == "succeeded"


def test_what_runs_has_its_code_from_the_release_and_not_from_the_link(machine: Machine) -> None:
    release = (machine.app / "current").resolve()
    for program in ("multi-agent-service", WORKER.format(0)):
        process = psutil.Process(machine.process_id(program))
        assert process.cwd() == str(release)
        assert process.cmdline()[0] == "./.venv/bin/python"


def test_stop_start_and_restart_under_load_lose_nothing(machine: Machine) -> None:
    with Load(machine) as load:
        for command in (
            ["restart", "multi-agent-worker:*"],
            ["restart", "multi-agent-service"],
            ["stop", "multi-agent-worker:*"],
            ["start", "multi-agent-worker:*"],
            ["restart", "multi-agent-redis"],
            ["restart", "all"],
        ):
            accepted = len(load.accepted)
            machine.supervisorctl(*command)
            wait_until(
                lambda so_far=accepted: len(load.accepted) > so_far + 20, 60, what=f"jobs come in after {command}"
            )
    machine.wait_until_up()
    load.check_all_ran()


def test_a_killed_worker_comes_back_and_its_jobs_end(machine: Machine) -> None:
    doomed = machine.process_id(WORKER.format(0))
    with Load(machine) as load:
        os.kill(doomed, signal.SIGKILL)
        wait_until(lambda: machine.process_id(WORKER.format(0)) not in (0, doomed), 30, what="another one is started")
        wait_until(lambda: len(load.accepted) > ENOUGH, 30, what="jobs come in")
    load.check_all_ran()
    assert not load.failed


def test_a_killed_gateway_process_comes_back(machine: Machine) -> None:
    before = serving(machine)
    os.kill(min(before), signal.SIGKILL)
    wait_until(lambda: len(serving(machine)) == 4 and serving(machine) != before, 30, what="another one is started")


def test_a_killed_gateway_comes_back_whole(machine: Machine) -> None:
    before = serving(machine)
    os.kill(machine.process_id("multi-agent-service"), signal.SIGKILL)
    machine.wait_until_up()
    wait_until(lambda: len(serving(machine)) == 4, 30, what="all its processes are there")
    assert not before & serving(machine)
    wait_until(lambda: not any(map(psutil.pid_exists, before)), 30, what="the orphans have left")


def test_two_more_workers_come_up_by_numprocs_and_update_while_jobs_run(machine: Machine) -> None:
    file = machine.folder / "conf.d" / "multi-agent-service.conf"
    text = file.read_text()
    with Load(machine) as load:
        for count in (4, 2):
            file.write_text(text.replace("numprocs=2", f"numprocs={count}"))
            assert "multi-agent-worker: changed" in machine.supervisorctl("reread")
            assert "multi-agent-worker: updated process group" in machine.supervisorctl("update")
            machine.wait_until_up(workers=count)
            status = machine.supervisorctl("status")
            assert status.count("multi-agent-worker_") == status.count("RUNNING") - 2 == count
            for number in range(count):
                port = machine.metrics_port + number
                wait_until(lambda at=port: fetch(f"http://127.0.0.1:{at}/metrics")[0] == 200, 15)
    load.check_all_ran()
    assert not load.failed


@pytest.mark.parametrize("program", ["multi-agent-service", "multi-agent-worker:*"])
def test_a_stop_ends_all_that_was_started(machine: Machine, program: str) -> None:
    name = program if ":" not in program else WORKER.format(0)
    top = psutil.Process(machine.process_id(name))
    below = [top, *top.children(recursive=True)]
    machine.supervisorctl("stop", program)
    assert not any(process.is_running() for process in below)
    machine.supervisorctl("start", program)
    machine.wait_until_up()
