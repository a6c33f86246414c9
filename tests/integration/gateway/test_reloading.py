"""SIGHUP: new code and settings for a gateway of several processes, and not one request that fails for it."""

from __future__ import annotations

import http.client
import os
import signal
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Self

import psutil
import pytest

from tests.servers import PROJECT, SECRET_KEY, Gateway, Processes, fetch, free_port, is_alive, wait_until

IDLE_SECONDS = 0.3  # for how long the proxy of these tests keeps an idle connection
DRAIN_SECONDS = "1"


class Proxy(threading.Thread):
    """Sends requests as a reverse proxy does: over connections that it keeps, and closes when they were idle."""

    def __init__(self, gateway: Gateway, pause: float = 0.0) -> None:
        super().__init__()
        self.gateway = gateway
        self.pause = pause
        self.statuses: Counter[int | str] = Counter()
        self._asked = threading.Event()

    def run(self) -> None:
        connection, used_at = self._connect(), time.monotonic()
        while not self._asked.wait(self.pause):
            if time.monotonic() - used_at > IDLE_SECONDS:
                connection.close()
            try:
                connection.request("POST", "/api/v1/jobs", JOB, {"content-type": "application/json"})
                answer = connection.getresponse()
                answer.read()
                self.statuses[answer.status] += 1
            except (OSError, http.client.HTTPException) as error:
                self.statuses[repr(error)] += 1
                connection.close()
            used_at = time.monotonic()
        connection.close()

    def _connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.gateway.port, timeout=20)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._asked.set()
        self.join()


JOB = b'{"graph": "echo", "input": {"messages": [{"role": "user", "content": "hi"}]}}'


def start(processes: Processes, redis_url: str, **environment: str) -> Gateway:
    """A gateway of two processes, both of which serve."""
    gateway = processes.gateway(redis_url, **{"GATEWAY_WORKERS": "2", **environment}).ready()
    wait_until(lambda: gateway.process.log.count("Application startup complete") == 2, 15, what="both serve")
    return gateway


def children_of(gateway: Gateway) -> set[int]:
    found = set()
    for child in psutil.Process(gateway.process.pid).children():
        with suppress(psutil.Error):
            if "--socket" in child.cmdline() and child.status() != psutil.STATUS_ZOMBIE:
                found.add(child.pid)
    return found


def reload(gateway: Gateway, within: float = 30) -> None:
    """SIGHUP, and wait until other processes serve and the old ones are gone."""
    old = children_of(gateway)
    gateway.process.send(signal.SIGHUP)

    def replaced() -> bool:
        return not old & children_of(gateway) and len(children_of(gateway)) == len(old)

    wait_until(replaced, within, what=f"other processes serve:\n{gateway.process.log[-3000:]}")


def test_a_reload_fails_no_request_of_a_proxy_that_keeps_its_connections(processes: Processes, redis_url: str) -> None:
    gateway = start(processes, redis_url, GATEWAY_DRAIN_SECONDS=DRAIN_SECONDS)
    main = gateway.process.pid
    with Proxy(gateway) as busy, Proxy(gateway, 0.05) as steady, Proxy(gateway, 0.28) as slow:
        for _ in range(3):
            reload(gateway)
    assert psutil.Process(main).is_running()
    assert min(busy.statuses[202], steady.statuses[202], slow.statuses[202]) > 5
    assert {*busy.statuses, *steady.statuses, *slow.statuses} == {202}
    submitted = busy.statuses[202] + steady.statuses[202] + slow.statuses[202]
    assert f'mas_jobs_submitted_total{{graph="echo"}} {submitted}'.encode() in fetch(f"{gateway.url}/metrics")[1]
    assert gateway.process.stop() == 0
    assert "Traceback" not in gateway.process.log


def test_processes_that_a_reload_replaced_are_not_counted_any_more(processes: Processes, redis_url: str) -> None:
    gateway = start(processes, redis_url, GATEWAY_DRAIN_SECONDS="0.2")
    for _ in range(2):
        reload(gateway)

    def shown() -> bool:
        return b"\nmas_gateway_processes 2.0\n" in fetch(f"{gateway.url}/metrics")[1]

    wait_until(shown, 15, what="the metrics are of the two that serve")


def test_a_reload_takes_up_changed_settings(processes: Processes, redis_url: str) -> None:
    gateway = start(processes, redis_url)
    assert fetch(f"{gateway.url}/docs")[0] == 200
    (processes.folder / ".env").write_text("MAX_BODY_BYTES=10\nGATEWAY_DRAIN_SECONDS=0\n")
    reload(gateway)
    assert fetch(f"{gateway.api}/jobs", JOB)[0] == 413


def test_wrong_settings_are_found_before_anything_changes(processes: Processes, redis_url: str) -> None:
    gateway = start(processes, redis_url)
    before = children_of(gateway)
    (processes.folder / ".env").write_text("MAX_BODY_BYTES=many\n")
    gateway.process.send(signal.SIGHUP)
    line = gateway.process.wait_for_line("not reloaded")
    assert "MAX_BODY_BYTES is wrong" in line
    assert children_of(gateway) == before
    gateway.ready()
    (processes.folder / ".env").write_text("")
    reload(gateway)


def test_wrong_settings_end_no_gateway_whose_processes_are_recycled(processes: Processes, redis_url: str) -> None:
    gateway = start(processes, redis_url, GATEWAY_RECYCLE_REQUESTS="20")
    (processes.folder / ".env").write_text("MAX_BODY_BYTES=many\n")
    doomed = min(children_of(gateway))
    os.kill(doomed, signal.SIGTERM)
    gateway.process.wait_for_line("does not start with the settings as they are now")
    gateway.ready()
    (processes.folder / ".env").write_text("")
    wait_until(lambda: len(children_of(gateway)) == 2, 15, what="mended, it is replaced")
    assert gateway.process.stop() == 0


def test_a_command_that_cannot_be_run_changes_nothing(processes: Processes, redis_url: str, tmp_path: Path) -> None:
    command = str(tmp_path / "there is no such file").replace(" ", "-")
    gateway = processes.gateway(redis_url, GATEWAY_RELOAD_COMMAND=command).ready()
    gateway.process.send(signal.SIGHUP)
    gateway.process.wait_for_line("not reloaded: the command cannot be run")
    gateway.ready()


@pytest.mark.parametrize("status", [1, 2])
def test_new_processes_that_do_not_start_leave_the_old_ones_at_work(
    processes: Processes, redis_url: str, tmp_path: Path, status: int
) -> None:
    # What the new code's own check does not find: its processes end as they start.
    (tmp_path / "new").mkdir()
    broken = tmp_path / "new" / "sitecustomize.py"
    broken.write_text(f"import os, sys\nif '--socket' in sys.orig_argv: os._exit({status})\n")
    command = tmp_path / "start"
    command.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path}/new:$PYTHONPATH exec {sys.executable} -m gateway "$@"\n')
    command.chmod(0o755)
    gateway = start(processes, redis_url, GATEWAY_RELOAD_COMMAND=str(command), GATEWAY_DRAIN_SECONDS=DRAIN_SECONDS)
    before = children_of(gateway)
    with Proxy(gateway) as proxy:
        gateway.process.send(signal.SIGHUP)
        says = "does not start with the settings as they are now" if status == 2 else "ended with exit status 1"
        gateway.process.wait_for_line(says, 30)
        assert before <= children_of(gateway)
        broken.unlink()
        wait_until(lambda: not before & children_of(gateway), 30, what="mended, it takes over")
    assert set(proxy.statuses) == {202}
    assert gateway.process.stop() == 0


def test_a_stop_amid_a_reload_ends_old_and_new(processes: Processes, redis_url: str) -> None:
    gateway = start(processes, redis_url)
    seen = children_of(gateway)
    gateway.process.send(signal.SIGHUP)
    wait_until(lambda: seen < children_of(gateway), 30, what="old and new are there")
    seen |= children_of(gateway)
    assert gateway.process.stop() == 0
    assert not any(map(is_alive, seen))


def test_after_a_killed_gateway_its_processes_leave_and_the_next_one_can_listen(
    processes: Processes, redis_url: str
) -> None:
    port = str(free_port())
    gateway = start(processes, redis_url, PORT=port)
    orphans = children_of(gateway)
    gateway.process.kill()
    start(processes, redis_url, PORT=port)
    wait_until(lambda: not any(map(is_alive, orphans)), 15, what="the orphans have left")


def test_a_recycled_process_is_replaced_before_it_has_left(processes: Processes, redis_url: str) -> None:
    gateway = processes.gateway(redis_url, GATEWAY_RECYCLE_REQUESTS="5", GATEWAY_DRAIN_SECONDS="20").ready()
    lingering = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=20)
    lingering.request("GET", "/api/v1/health/live")
    lingering.getresponse().read()  # idle now: it holds the process for the whole of the drain
    started = time.monotonic()
    assert {fetch(f"{gateway.api}/jobs", JOB)[0] for _ in range(12)} == {202}
    assert time.monotonic() - started < 15
    assert "stopping to be started anew" in gateway.process.log

    def asked_to_go() -> bool:
        lingering.request("GET", "/api/v1/health/live")
        answer = lingering.getresponse()
        answer.read()
        return (answer.status, answer.getheader("connection")) == (200, "close")

    wait_until(asked_to_go, 15, what="the process that leaves asks the client to go, too")
    lingering.close()


AS_SYSTEMD_DOES = """
import os, socket, sys
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
os.dup2(listener.fileno(), 3)
os.set_inheritable(3, True)
os.environ |= {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())}
os.execv(sys.executable, [sys.executable, "-m", "gateway"])
"""


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_socket_that_systemd_has_opened_is_served(processes: Processes, redis_url: str, workers: str) -> None:
    port = free_port()
    settings = {"AUTH_REQUIRED": "false", "SECRET_KEY": SECRET_KEY, "REDIS_URL": redis_url, "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-c", AS_SYSTEMD_DOES, str(port)]
    process = processes.start("gateway", command, GATEWAY_WORKERS=workers, **settings)
    gateway = Gateway(process, port).ready()
    assert fetch(f"{gateway.api}/jobs", JOB)[0] == 202
    assert process.stop() == 0
