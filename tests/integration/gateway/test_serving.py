"""The gateway as processes: one or several, stopped, recycled, and under a plain uvicorn."""

from __future__ import annotations

import re
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orjson

from tests.servers import Gateway, Processes, fetch, free_port, wait_until

JOB = b'{"graph": "echo", "input": {"messages": [{"role": "user", "content": "hi"}]}}'


class Poll:
    """A long poll, from another thread."""

    def __init__(self, url: str) -> None:
        self.status, self.body, self.seconds = 0, b"", 0.0
        self._thread = threading.Thread(target=self._run, args=[url])
        self._thread.start()
        time.sleep(0.3)  # it has to be under way; nothing outside tells when it is

    def _run(self, url: str) -> None:
        started = time.monotonic()
        self.status, self.body = fetch(url)
        self.seconds = time.monotonic() - started

    def end(self) -> dict[str, Any]:
        """The answer's JSON."""
        self._thread.join(70)
        return dict(orjson.loads(self.body)) if self.body else {}


def _submit(gateway: Gateway) -> str:
    status, body = fetch(f"{gateway.api}/jobs", JOB)
    assert status == 202, body
    return str(orjson.loads(body)["id"])


def _total(metrics: bytes, name: str) -> float:
    return sum(float(value) for value in re.findall(rb"^%s(?:\{.*\})? (\S+)$" % name.encode(), metrics, re.MULTILINE))


def test_a_stopped_gateway_answers_its_long_polls_at_once_and_exits_with_0(
    processes: Processes, redis_url: str
) -> None:
    gateway = processes.gateway(redis_url).ready()
    poll = Poll(f"{gateway.api}/jobs/{_submit(gateway)}?wait=60")
    started = time.monotonic()
    assert gateway.process.stop(within=5) == 0
    assert time.monotonic() - started < 5
    assert poll.end()["status"] == "queued"
    assert poll.status == 200
    assert "Traceback" not in gateway.process.log


def test_a_gateway_interrupted_from_the_keyboard_exits_with_0(processes: Processes, redis_url: str) -> None:
    gateway = processes.gateway(redis_url).ready()
    gateway.process.send(signal.SIGINT)
    assert gateway.process.wait(5) == 0
    assert "Traceback" not in gateway.process.log


def test_several_processes_answer_for_all_of_them_and_leave_nothing_behind(
    processes: Processes, redis_url: str, tmp_path: Path
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    gateway = processes.gateway(redis_url, GATEWAY_WORKERS="2", TMPDIR=str(scratch)).ready()
    submitted = 0

    def both_have_taken_part() -> bool:
        nonlocal submitted
        for _ in range(10):
            _submit(gateway)
            submitted += 1
        return len(list(scratch.rglob("counter_*.db"))) == 2

    wait_until(both_have_taken_part, 20, what="both processes are up and have taken part")
    scrapes = [fetch(f"{gateway.url}/metrics")[1] for _ in range(6)]
    assert {_total(scrape, "mas_jobs_submitted_total") for scrape in scrapes} == {submitted}
    assert {_total(scrape, "mas_queue_depth") for scrape in scrapes} == {submitted}
    poll = Poll(f"{gateway.api}/jobs/{_submit(gateway)}?wait=60")
    assert gateway.process.stop(within=8) == 0
    assert poll.end()["status"] == "queued"
    assert list(scratch.iterdir()) == []
    assert "Traceback" not in gateway.process.log


def test_a_killed_process_is_replaced(processes: Processes, redis_url: str) -> None:
    gateway = processes.gateway(redis_url, GATEWAY_WORKERS="2").ready()
    children = set(_children(gateway.process.pid))
    victim = min(children)
    processes.start("kill", ["kill", "-9", str(victim)]).wait()
    wait_until(lambda: len(set(_children(gateway.process.pid)) - {victim}) >= len(children), 15)
    gateway.ready()


def test_recycling_loses_no_request_and_is_not_held_up_by_a_long_poll(processes: Processes, redis_url: str) -> None:
    gateway = processes.gateway(redis_url, GATEWAY_RECYCLE_REQUESTS="80").ready()
    poll = Poll(f"{gateway.api}/jobs/{_submit(gateway)}?wait=60")
    with ThreadPoolExecutor(8) as clients:
        ids = set(clients.map(lambda _: _submit(gateway), range(400)))
    assert len(ids) == 400
    assert poll.end()["status"] == "queued"
    assert poll.seconds < 30
    assert gateway.process.log.count("stopping to be started anew") >= 2
    assert _total(fetch(f"{gateway.url}/metrics")[1], "mas_jobs_submitted_total") == 401
    assert gateway.process.stop(within=8) == 0


def test_a_plain_uvicorn_serves_it_too_and_is_not_held_up_by_a_long_poll(processes: Processes, redis_url: str) -> None:
    port = free_port()
    command = ["uvicorn", "gateway.main:app", "--port", str(port)]
    process = processes.python(*command, REDIS_URL=redis_url, AUTH_REQUIRED="false")
    gateway = Gateway(process, port).ready()
    poll = Poll(f"{gateway.api}/jobs/{_submit(gateway)}?wait=60")
    process.send(signal.SIGTERM)
    process.wait(5)
    assert poll.end()["status"] == "queued"


def test_the_server_says_neither_its_name_nor_its_version(processes: Processes, redis_url: str) -> None:
    gateway = processes.gateway(redis_url).ready()
    seen = processes.start("curl", ["curl", "-sS", "--noproxy", "*", "-i", f"{gateway.api}/health/live"])
    assert seen.wait() == 0
    assert "HTTP/1.1 200 OK" in seen.log
    assert "server:" not in seen.log.lower()


def _children(pid: int) -> list[int]:
    """The process's children that serve."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
            command = path.with_name("cmdline").read_bytes()
        except OSError:
            continue
        if int(fields[1]) == pid and b"--socket" in command:
            found.append(int(path.parent.name))
    return found
