"""`python -m worker` as real processes on a real Valkey: how it starts, works, stops, dies and says so."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from arq.connections import ArqRedis
from arq.jobs import Job, JobStatus

from shared.settings import SettingsError
from shared.store.connection import wait_until_reachable
from shared.store.keys import key, ref
from tests.conditions import until
from tests.servers import PROJECT, Process, Processes, Valkey, fetch, free_port, wait_until
from tests.stored_jobs import TENANT, Jobs

GRAPHS = str(PROJECT / "tests" / "projects" / "basic" / "langgraph.json")
LEASE_SECONDS = 1.0


class Service:
    """One Valkey and the workers that share it. A test that ends workers gives its own a queue of their own."""

    def __init__(self, valkey: Valkey, processes: Processes) -> None:
        self.valkey = valkey
        self.processes = processes
        self.metrics_port = free_port()

    def start(self, name: str, **environment: str) -> Process:
        settings = {
            "GRAPHS_CONFIG": GRAPHS,
            "LEASE_SECONDS": str(LEASE_SECONDS),
            "WORKER_ROLES": "jobs",
            "WORKER_CONCURRENCY": "3",
            **environment,
        }
        return self.processes.python("worker", name=name, REDIS_URL=self.valkey.url, **settings)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A Valkey and two workers, `one` and `two`, for the queue `default`; `one` answers Prometheus."""
    folder = tmp_path_factory.mktemp("service")
    valkey = Valkey(folder / "valkey")
    with Processes(folder / "processes") as processes:
        service = Service(valkey, processes)
        one = service.start("one", WORKER_METRICS_PORT=str(service.metrics_port))
        two = service.start("two")
        for worker in (one, two):
            worker.wait_for_line("worker ready", 30)
        yield service
    valkey.stop()


@pytest.fixture
async def jobs(service: Service) -> AsyncIterator[Jobs]:
    jobs = Jobs(service.valkey.url)
    yield jobs
    await jobs.redis.aclose(close_connection_pool=True)


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


# Work


async def test_a_job_is_run_by_a_worker_process(jobs: Jobs) -> None:
    record = await jobs.run("two_nodes", {"messages": [{"role": "user", "content": "hi"}]})
    assert record["status"] == "succeeded"
    assert [message["content"] for message in record["output"]["messages"]] == ["hi", "first", "second"]
    assert (record["attempt"], record["tries"]) == (1, 1)


async def test_no_more_jobs_run_at_once_than_a_worker_has_slots(jobs: Jobs) -> None:
    ids = [await jobs.submit("crowd", {"seconds": 0.05}) for _ in range(40)]
    outputs = [(await jobs.wait(job_id))["output"] for job_id in ids]
    most: dict[int, int] = {}
    for output in outputs:
        most[output["pid"]] = max(most.get(output["pid"], 0), output["inside"])
    assert list(most.values()) == [3, 3]


async def test_an_idle_worker_is_woken_and_does_not_poll_for_its_jobs(jobs: Jobs) -> None:
    waits = []
    for _ in range(10):
        job_id = await jobs.submit("echo", {"value": 1})
        await jobs.wait(job_id)
        ready, started = await jobs.times(job_id)
        waits.append(started - ready)
    assert sorted(waits)[7] < 0.25, waits  # polling each second, this would be half a second and more


async def test_a_delayed_job_starts_when_it_is_due(jobs: Jobs) -> None:
    waits = []
    for delay_ms in (150, 300, 450):
        job_id = await jobs.submit("echo", {"value": 1}, delay_ms=delay_ms)
        assert (await jobs.get(job_id))["status"] == "queued"
        await jobs.wait(job_id)
        due, started = await jobs.times(job_id)
        assert started >= due
        waits.append(started - due)
    assert sorted(waits)[1] < 0.25, waits


async def test_a_node_that_blocks_the_loop_for_longer_than_the_lease_keeps_its_job(
    service: Service, jobs: Jobs
) -> None:
    record = await jobs.run("sleeper", {"seconds": 2.2 * LEASE_SECONDS, "blocking": True})
    assert (record["status"], record["attempt"]) == ("succeeded", 1)


async def test_a_running_job_that_is_cancelled_ends_within_200_ms(jobs: Jobs) -> None:
    waits = []
    for _ in range(5):
        job_id = await jobs.submit("sleeper", {"seconds": 60})
        await jobs.wait(job_id, "running")
        asked_at = time.monotonic()
        await jobs.store.cancel(TENANT, job_id)
        record = await jobs.wait(job_id)
        waits.append(time.monotonic() - asked_at)
        assert (record["status"], record["error"]) == ("cancelled", None)
    assert sorted(waits)[2] < 0.2, waits


async def test_tenants_with_the_same_thread_id_share_nothing_and_workers_share_a_thread(jobs: Jobs) -> None:
    thread = f"t-{uuid4()}"

    async def say(tenant: str) -> int:
        record = await jobs.run("two_nodes", {"messages": "hi"}, tenant=tenant, thread_id=thread)
        return len(record["output"]["messages"])

    assert [await say("acme") for _ in range(4)] == [3, 6, 9, 12]  # by either worker, as it comes
    assert await say("other") == 3


async def test_a_node_that_calls_sys_exit_fails_its_own_job_only(service: Service, jobs: Jobs) -> None:
    beside = [await jobs.submit("sleeper", {"seconds": 1}) for _ in range(4)]
    for job_id in beside:
        await jobs.wait(job_id, "running")
    record = await jobs.run("quitter", {"seconds": 1})
    assert (record["status"], record["error"]["type"]) == ("failed", "SystemExit")
    assert record["error"]["message"] == "a node wants to leave"
    for job_id in beside:
        record = await jobs.wait(job_id)
        assert (record["status"], record["attempt"]) == ("succeeded", 1)


async def test_jobs_keep_their_leases_and_end_while_redis_is_full(service: Service, jobs: Jobs) -> None:
    running = [await jobs.submit("sleeper", {"seconds": 1.6 * LEASE_SECONDS}) for _ in range(2)]
    waiting = await jobs.submit("echo", {"value": 1}, delay_ms=500)
    for job_id in running:
        await jobs.wait(job_id, "running")
    await jobs.redis.config_set("maxmemory", "1mb")
    try:
        for job_id in (*running, waiting):
            record = await jobs.wait(job_id)
            assert (record["status"], record["attempt"]) == ("succeeded", 1)
    finally:
        await jobs.redis.config_set("maxmemory", "0")
    assert [process.status for process in service.processes.started[:2]] == [None, None]


# What it says of itself


async def test_a_graph_file_that_does_not_load_stops_no_worker_and_shows_in_the_catalogue(jobs: Jobs) -> None:
    graphs = await until(jobs.registry.catalogue)
    assert graphs["broken"]["error"] == {"type": "RuntimeError", "message": "this file cannot be imported"}
    assert graphs["two_nodes"]["error"] is None
    assert graphs["two_nodes"]["description"] == "Two nodes, each adds a message."
    assert "MessageLike" in graphs["two_nodes"]["input_schema"]["$defs"]


async def test_live_workers_are_listed_with_what_they_run(service: Service, jobs: Jobs) -> None:
    async def both() -> list[dict[str, Any]]:
        workers = [worker for worker in await jobs.registry.workers() if worker["queues"] == ["default"]]
        return workers if len(workers) == 2 else []

    pids = {process.pid for process in service.processes.started if process.name in ("one", "two")}
    workers = await until(both)
    assert {worker["pid"] for worker in workers} == pids
    for worker in workers:
        assert worker["host"] == socket.gethostname()
        assert (worker["concurrency"], worker["roles"]) == (3, ["jobs"])
        assert "two_nodes" in worker["graphs"]
        assert "broken" not in worker["graphs"]
    job_id = await jobs.submit("sleeper", {"seconds": 60})

    async def shown() -> bool:
        return any(job_id in worker["running"] for worker in await jobs.registry.workers())

    await until(shown)
    await jobs.store.cancel(TENANT, job_id)
    await jobs.wait(job_id)


async def test_metrics_are_answered_on_the_workers_own_port(service: Service, jobs: Jobs) -> None:
    for _ in range(6):
        await jobs.run("echo", {"value": 1})
    status, body = fetch(f"http://127.0.0.1:{service.metrics_port}/metrics")
    assert status == 200
    for name in ("mas_jobs_running", "mas_jobs_ended_total", "mas_job_run_seconds_count", "mas_loop_lag_seconds"):
        assert name in body.decode()


async def test_arqs_job_status_tells_the_truth(service: Service, jobs: Jobs) -> None:
    redis: ArqRedis = ArqRedis.from_url(service.valkey.url)  # type: ignore[assignment]

    async def status(job_id: str) -> JobStatus:
        queue = await jobs.store.arq_queue(TENANT, job_id)
        return await Job(ref(TENANT, job_id), redis, _queue_name=queue).status()

    nobodys = await jobs.submit("echo", {"value": 1}, queue="nobodys")
    assert await status(nobodys) == JobStatus.queued
    delayed = await jobs.submit("echo", {"value": 1}, delay_ms=60_000)
    assert await status(delayed) == JobStatus.deferred
    running = await jobs.submit("sleeper", {"seconds": 0.3})
    await jobs.wait(running, "running")
    assert await status(running) == JobStatus.in_progress
    await jobs.wait(running)
    assert await status(running) == JobStatus.complete
    assert await status(str(uuid4())) == JobStatus.not_found
    await redis.aclose()


def arq(service: Service, *arguments: str) -> Process:
    command = [sys.executable, "-m", "arq", "worker.arq_settings.WorkerSettings", *arguments]
    name = f"arq-{len(service.processes.started)}"
    return service.processes.start(name, command, REDIS_URL=service.valkey.url, PYTHONPATH=str(PROJECT))


async def test_arq_check_succeeds_while_a_worker_lives_and_fails_once_none_does(service: Service, jobs: Jobs) -> None:
    await until(lambda: jobs.redis.exists(key("health")))
    check = arq(service, "--check")
    assert check.wait() == 0, check.log
    # Nobody is there to say so any more, and time passes.
    workers = [process for process in service.processes.started if process.name in ("one", "two")]
    for worker in workers:
        worker.send(signal.SIGSTOP)
    try:
        assert 0 < await jobs.redis.pttl(key("health")) <= 8000
        await jobs.redis.delete(key("health"))
        check = arq(service, "--check")
        assert check.wait() == 1, check.log
    finally:
        for worker in workers:
            worker.send(signal.SIGCONT)


def test_arq_refuses_to_start_a_plain_worker_on_our_keys(service: Service) -> None:
    plain = arq(service)
    assert plain.wait() not in (0, None)
    assert "at least one function or cron_job must be registered" in plain.log


# Leaving


@pytest.fixture(scope="module")
def leaving(service: Service) -> dict[str, Process]:
    """Workers that tests end, each with its queue, started together to save time."""
    workers = {
        "at-once": service.start("at-once", WORKER_QUEUES="at-once"),
        "patient": service.start("patient", WORKER_QUEUES="patient", DRAIN_SECONDS="10"),
        "twice": service.start("twice", WORKER_QUEUES="twice", DRAIN_SECONDS="60"),
        "jobs": service.start("jobs", WORKER_QUEUES="jobs", WORKER_RECYCLE_JOBS="2", WORKER_CONCURRENCY="1"),
        "mb": service.start("mb", WORKER_QUEUES="mb", WORKER_RECYCLE_MB="20"),
        "killed": service.start("killed", WORKER_QUEUES="killed"),
        "heir": service.start("heir", WORKER_QUEUES="killed", WORKER_CONCURRENCY="4"),
    }
    for worker in workers.values():
        worker.wait_for_line("worker ready", 60)
    return workers


async def test_sigterm_hands_jobs_back_at_once_without_counting_a_try_and_exits_0(
    leaving: dict[str, Process], jobs: Jobs
) -> None:
    ids = [await jobs.submit("sleeper", {"seconds": 60}, queue="at-once") for _ in range(3)]
    for job_id in ids:
        await jobs.wait(job_id, "running")
    asked_at = time.monotonic()
    leaving["at-once"].send(signal.SIGTERM)
    for job_id in ids:
        record = await jobs.wait(job_id, "queued")
        assert (record["tries"], record["attempt"]) == (0, 1)
    assert time.monotonic() - asked_at < 1.5
    assert leaving["at-once"].wait() == 0, leaving["at-once"].log
    assert time.monotonic() - asked_at < 5
    assert "Traceback" not in leaving["at-once"].log


async def test_sigterm_lets_a_job_finish_that_ends_within_drain_seconds(
    leaving: dict[str, Process], jobs: Jobs
) -> None:
    running = await jobs.submit("sleeper", {"seconds": 1}, queue="patient")
    await jobs.wait(running, "running")
    leaving["patient"].send(signal.SIGTERM)
    later = await jobs.submit("sleeper", {"seconds": 1}, queue="patient")
    assert leaving["patient"].wait() == 0
    assert (await jobs.get(running))["status"] == "succeeded"
    assert (await jobs.get(later))["attempt"] == 0


async def test_a_second_sigterm_hands_back_at_once(leaving: dict[str, Process], jobs: Jobs) -> None:
    job_id = await jobs.submit("sleeper", {"seconds": 60}, queue="twice")
    await jobs.wait(job_id, "running")
    leaving["twice"].send(signal.SIGTERM)
    leaving["twice"].wait_for_line("stopping")
    assert (await jobs.get(job_id))["status"] == "running"
    leaving["twice"].send(signal.SIGTERM)
    record = await jobs.wait(job_id, "queued")
    assert record["tries"] == 0
    assert leaving["twice"].wait() == 0


@pytest.mark.parametrize(("name", "count"), [("jobs", 2), ("mb", 1)])
async def test_a_worker_is_recycled_after_its_jobs_or_above_its_size(
    leaving: dict[str, Process], jobs: Jobs, name: str, count: int
) -> None:
    assert leaving[name].status is None
    ids = [await jobs.submit("echo", {"value": number}, queue=name) for number in range(count)]
    for job_id in ids:
        assert (await jobs.wait(job_id))["status"] == "succeeded"
    assert leaving[name].wait() == 0
    assert "recycling" in leaving[name].log


async def test_a_killed_workers_jobs_run_elsewhere_within_a_lease_and_a_second_and_it_leaves_the_list(
    leaving: dict[str, Process], jobs: Jobs, tmp_path: Path
) -> None:
    killed, heir = leaving["killed"], leaving["heir"]
    heir.send(signal.SIGSTOP)  # so that all of them are the other one's
    await until(lambda: _none_held(jobs, heir.pid))
    files = [tmp_path / f"runs-{number}" for number in range(3)]
    ids = [await jobs.submit("counted", {"file": str(path), "seconds": 1}, queue="killed") for path in files]
    await until(lambda: all(lines(path) == [str(killed.pid)] for path in files))
    heir.send(signal.SIGCONT)
    time.sleep(LEASE_SECONDS / 3 + 0.6)  # noqa: ASYNC251 - the heir has just come back, and recovers nothing at first
    killed.kill()
    killed_at = time.monotonic()
    await until(lambda: all(lines(path) == [str(killed.pid), str(heir.pid)] for path in files))
    assert time.monotonic() - killed_at < LEASE_SECONDS + 1 + 0.5  # the half second is this machine's
    for job_id in ids:
        record = await jobs.wait(job_id)
        assert (record["status"], record["attempt"], record["tries"]) == ("succeeded", 2, 2)

    async def unlisted() -> bool:
        return killed.pid not in [worker["pid"] for worker in await jobs.registry.workers()]

    await until(unlisted, 8)


async def _none_held(jobs: Jobs, pid: int) -> bool:
    workers = [worker["id"] for worker in await jobs.registry.workers() if worker["pid"] == pid]
    return bool(workers) and await jobs.redis.scard(key("held", workers[0])) == 0  # type: ignore[misc]


async def test_jobs_outlive_a_redis_that_is_killed_for_longer_than_their_lease_and_run_once(
    processes: Processes, tmp_path: Path
) -> None:
    valkey = Valkey(tmp_path / "valkey")
    jobs = Jobs(valkey.url)
    try:
        service = Service(valkey, processes)
        workers = [service.start(name, WORKER_CONCURRENCY="10") for name in ("a", "b")]
        for worker in workers:
            worker.wait_for_line("worker ready", 30)
        files = [tmp_path / f"runs-{number}" for number in range(8)]
        ids = [
            await jobs.submit("counted", {"file": str(path), "seconds": 0.4 * number}, max_attempts=1)
            for number, path in enumerate(files)
        ]
        await until(lambda: all(len(lines(path)) == 1 for path in files))
        valkey.kill()
        time.sleep(1.3 * LEASE_SECONDS)  # noqa: ASYNC251 - as long as Redis is away
        valkey.restart()
        for job_id in ids:
            record = await jobs.wait(job_id)
            assert (record["status"], record["attempt"], record["error"]) == ("succeeded", 1, None)
        assert [len(lines(path)) for path in files] == [1] * 8
        assert [worker.status for worker in workers] == [None, None]
    finally:
        await jobs.redis.aclose(close_connection_pool=True)
        valkey.stop()


# Starting


def exits(processes: Processes, **environment: str) -> str:
    """What a worker prints that does not start. Asserts that it ends with status 2 and a single line."""
    settings: Mapping[str, str] = {"GRAPHS_CONFIG": GRAPHS, **environment}
    process = processes.python("worker", **settings)
    assert process.wait(20) == 2, process.log
    said = process.log.strip()
    assert said.count("\n") == 0, said
    return said


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({}, "REDIS_URL is not set: "),
        ({"REDIS_URL": "http://127.0.0.1"}, "REDIS_URL is wrong: "),
        ({"DATABASE_URL": "mysql://u:secret@db/x"}, "DATABASE_URL is wrong: "),
        ({"DATABASE_URL": "sqlite://threads.db"}, "DATABASE_URL is wrong: "),
        ({"WORKER_CONCURRENCY": "many"}, "WORKER_CONCURRENCY is wrong: "),
        ({"SECRET_KEY": "short"}, "SECRET_KEY is wrong: "),
        ({"REDIS_URL": "redis://127.0.0.1:1", "SECRET_KEY": ""}, "SECRET_KEY is not set: "),
    ],
    ids=str,
)
def test_a_wrong_setting_is_one_line_and_status_2(processes: Processes, environment: dict[str, str], said: str) -> None:
    line = exits(processes, **environment)
    assert line.startswith(said)
    assert "secret" not in line.lower().replace("secret_key", "")


def test_a_graphs_config_that_cannot_be_read_is_one_line_and_status_2(service: Service, processes: Processes) -> None:
    line = exits(processes, REDIS_URL=service.valkey.url, GRAPHS_CONFIG="nowhere.json")
    assert line == "GRAPHS_CONFIG is wrong: cannot read nowhere.json: No such file or directory"


def test_a_metrics_port_that_is_taken_is_one_line_and_status_2(service: Service, processes: Processes) -> None:
    line = exits(processes, REDIS_URL=service.valkey.url, WORKER_METRICS_PORT=str(service.metrics_port))
    wrong = "WORKER_METRICS_HOST or WORKER_METRICS_PORT is wrong"
    assert line == f"{wrong}: cannot listen on 127.0.0.1:{service.metrics_port}: Address already in use"


def test_a_redis_that_stays_away_is_one_line_that_names_its_address_and_not_its_password() -> None:
    port = free_port()
    started = time.monotonic()
    with pytest.raises(SettingsError) as caught:
        wait_until_reachable(f"redis://:hush@127.0.0.1:{port}/0", within=0.3)
    assert 0.3 <= time.monotonic() - started < 3
    assert f"127.0.0.1:{port} has not answered" in str(caught.value)
    assert "hush" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_redis_that_comes_late_is_waited_for(tmp_path: Path) -> None:
    valkey = Valkey(tmp_path / "valkey")
    try:
        valkey.kill()
        processes = Processes(tmp_path / "processes")
        with processes:
            code = f"from shared.store.connection import *\nwait_until_reachable({valkey.url!r})\nprint('reached')"
            waiting = processes.start("waiting", [sys.executable, "-c", code], PYTHONPATH=str(PROJECT))
            wait_until(lambda: os.path.exists(waiting.log_file))
            time.sleep(0.3)
            assert waiting.status is None
            valkey.restart()
            assert waiting.wait() == 0
            assert "reached" in waiting.log
    finally:
        valkey.stop()
