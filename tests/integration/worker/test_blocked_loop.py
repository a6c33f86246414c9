"""Workers whose event loop is blocked, or which were stopped as a whole: real processes on a real Valkey."""

from __future__ import annotations

import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import orjson
import pytest

from tests.conditions import until
from tests.servers import PROJECT, Process, Processes, Valkey, fetch, free_port
from tests.stored_jobs import Jobs

LEASE_SECONDS = 1.0
TIME_LIMIT = 2


class Workers:
    """A worker for each queue, started together to save time; a test may end its own. `shown` answers Prometheus."""

    QUEUES = {
        "sleep": {},
        "spin": {"JOB_TIMEOUT_SECONDS": str(TIME_LIMIT)},
        "c": {},
        "shown": {},
        "stopped": {},
    }

    def __init__(self, folder: Path) -> None:
        self.valkey = Valkey(folder / "valkey")
        self.threads = f"sqlite:///{folder / 'threads.db'}"
        self.processes = Processes(folder / "processes")
        self.metrics_port = free_port()
        self.by_queue = {queue: self.start(queue, **more) for queue, more in self.QUEUES.items()}
        for worker in self.by_queue.values():
            worker.wait_for_line("worker ready", 60)

    def start(self, queue: str, **environment: str) -> Process:
        settings = {
            "GRAPHS_CONFIG": str(PROJECT / "tests" / "projects" / "basic" / "langgraph.json"),
            "REDIS_URL": self.valkey.url,
            "DATABASE_URL": self.threads,
            "LEASE_SECONDS": str(LEASE_SECONDS),
            "WORKER_ROLES": "jobs",
            "WORKER_QUEUES": queue,
            "WORKER_METRICS_PORT": str(self.metrics_port) if queue == "shown" else "",
            **environment,
        }
        return self.processes.python("worker", name=f"{queue}-{len(self.processes.started)}", **settings)

    def lags(self) -> list[str]:
        """The samples of `mas_loop_lag_seconds` that name a node."""
        body = fetch(f"http://127.0.0.1:{self.metrics_port}/metrics")[1].decode()
        samples = [line for line in body.splitlines() if line.startswith("mas_loop_lag_seconds{")]
        assert samples
        return [sample for sample in samples if 'graph=""' not in sample]


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    workers = Workers(tmp_path_factory.mktemp("workers"))
    with workers.processes:
        yield workers
    workers.valkey.stop()


@pytest.fixture
async def jobs(workers: Workers) -> AsyncIterator[Jobs]:
    jobs = Jobs(workers.valkey.url)
    yield jobs
    await jobs.redis.aclose(close_connection_pool=True)


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def said(worker: Process, event: str) -> list[dict[str, object]]:
    """The log lines of this event."""
    return [orjson.loads(line) for line in worker.log.splitlines() if f'"event": "{event}"' in line]


async def test_a_node_that_blocks_the_loop_for_longer_than_the_lease_keeps_it_and_is_named_meanwhile(
    workers: Workers, jobs: Jobs
) -> None:
    worker = workers.by_queue["shown"]
    job_id = await jobs.submit("blocker", {"how": "sleep", "seconds": 4 * LEASE_SECONDS}, queue="shown")
    (sample,) = await until(workers.lags, 4 * LEASE_SECONDS)
    assert sample.startswith('mas_loop_lag_seconds{graph="blocker",node="block"} ')
    assert float(sample.split()[-1]) >= 1
    record = await jobs.wait(job_id)
    assert (record["status"], record["attempt"]) == ("succeeded", 1)
    await until(lambda: not workers.lags())
    (warning,) = said(worker, "event loop blocked")
    assert (warning["level"], warning["graph"], warning["node"], warning["job"]) == (
        "warning",
        "blocker",
        "block",
        job_id,
    )
    assert float(str(warning["seconds"])) >= 1
    assert "blocking.py" in str(warning["place"])
    assert warning["worker"]
    record = await jobs.run("echo", {"value": 1}, queue="shown")
    assert record["status"] == "succeeded"


@pytest.mark.parametrize("how", ["sleep", "spin", "c"])
async def test_wall_time_is_enforced_on_a_blocked_loop_the_others_are_handed_back_and_the_process_leaves(
    workers: Workers, jobs: Jobs, how: str
) -> None:
    worker = workers.by_queue[how]
    others = [await jobs.submit("sleeper", {"seconds": 60}, queue=how) for _ in range(3)]
    for job_id in others:
        await jobs.wait(job_id, "running")
    limits = {} if "JOB_TIMEOUT_SECONDS" in workers.QUEUES[how] else {"limits": {"seconds": TIME_LIMIT}}
    blocker = await jobs.submit("blocker", {"how": how}, queue=how, request=limits)
    await jobs.wait(blocker, "running")
    started_at = time.monotonic()
    assert worker.wait(20) == 3, worker.log
    assert TIME_LIMIT < time.monotonic() - started_at < TIME_LIMIT + 6  # about one and a half, when nothing else runs
    record = await jobs.get(blocker)
    message = f"the attempt ran longer than {TIME_LIMIT} seconds"
    error = {"type": "JobFailed", "code": "timeout", "message": message, "node": "block", "retryable": False}
    assert (record["status"], record["error"], record["tries"]) == ("failed", error, 1)
    for job_id in others:
        record = await jobs.get(job_id)
        assert (record["status"], record["tries"], record["attempt"]) == ("queued", 0, 1)
    assert worker.pid not in [one["pid"] for one in await jobs.registry.workers()]
    (left,) = said(worker, "leaving, for the event loop is blocked")
    assert (left["graph"], left["node"], left["job"], left["status"]) == ("blocker", "block", blocker, 3)


async def test_a_time_limit_gives_the_same_error_on_a_loop_that_is_free(workers: Workers, jobs: Jobs) -> None:
    limits = {"limits": {"seconds": 0.2}}
    record = await jobs.run("sleeper", {"seconds": 60}, queue="shown", request=limits)
    message = "the attempt ran longer than 0.2 seconds"
    error = {"type": "JobFailed", "code": "timeout", "message": message, "node": None, "retryable": False}
    assert (record["status"], record["error"], record["tries"]) == ("failed", error, 1)
    assert workers.by_queue["shown"].status is None


@pytest.mark.parametrize("thread", [None, "a thread"], ids=["no-thread", "thread"])
async def test_a_worker_stopped_past_its_lease_and_woken_writes_nothing_says_so_and_starts_no_further_node(
    workers: Workers, jobs: Jobs, tmp_path: Path, thread: str | None
) -> None:
    stopped = workers.by_queue["stopped"]
    file, gate = tmp_path / "runs.txt", tmp_path / "gate"
    options = {} if thread is None else {"thread_id": thread}
    job_id = await jobs.submit("gated", {"file": str(file), "gate": str(gate)}, queue="stopped", **options)
    await until(lambda: lines(file) == [f"first {stopped.pid}"])
    lost_before = len(said(stopped, "lease lost, attempt dropped"))
    stopped.send(signal.SIGSTOP)
    try:
        heir = workers.start("stopped")
        await until(lambda: lines(file) == [f"first {stopped.pid}", f"first {heir.pid}"], 30)
        gate.touch()
        record = await jobs.wait(job_id)
    finally:
        stopped.send(signal.SIGCONT)
    await until(lambda: len(said(stopped, "lease lost, attempt dropped")) > lost_before)
    assert heir.stop() == 0
    assert lines(file) == [f"first {stopped.pid}", f"first {heir.pid}", f"second {heir.pid}"]
    assert (record["status"], record["attempt"], record["tries"]) == ("succeeded", 2, 2)
    assert await jobs.get(job_id) == record
    assert said(stopped, "event loop blocked") == []
    again = await jobs.run("echo", {"value": 1}, queue="stopped", **options)
    assert again["status"] == "succeeded"  # it works on
    assert stopped.status is None
