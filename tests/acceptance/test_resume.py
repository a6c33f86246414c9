"""Jobs that go on where they stood: after a kill or SIGTERM between two nodes, with each saver; and after an answer."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest
from redis import Redis

from shared.store.keys import digest, key
from tests.acceptance.conftest import Service
from tests.receivers import Receiver
from tests.servers import PostgreSQL, Process, wait_until
from tests.traced import Trace

LEASE_SECONDS = 1.0
SAVERS = ("job", "sqlite", "postgresql")  # of a job without a thread, and of a thread
TURNS = [f"turn-{number}" for number in range(1, 51)]


@dataclass(frozen=True)
class Shape:
    """A graph, the steps that have ended when its worker is, the one under way, and those to come.

    `beside` is a step that was started together with the one under way, and has ended.
    """

    graph: str
    ended: Sequence[str]
    under_way: str
    to_come: Sequence[str] = ()
    beside: Sequence[str] = ()

    @property
    def starts(self) -> list[str]:
        """What is to be started, each step once, but for the one that was broken off."""
        return sorted([*self.ended, *self.beside, self.under_way, self.under_way, *self.to_come])


SHAPES = {
    "nodes": Shape("traced", ["first"], "second"),
    "sync_nodes": Shape("traced_sync", ["first"], "second"),
    "subgraph": Shape("traced_subgraph", ["first", "one"], "two", ["last"]),
    "branches": Shape("traced_branches", [], "right", ["join"], beside=["left"]),
    "loop": Shape("traced_loop", TURNS[:24], TURNS[24], TURNS[25:]),
}
PLACES = pytest.mark.parametrize(("saver", "shape"), [(saver, shape) for saver in SAVERS for shape in SHAPES])


@dataclass(frozen=True)
class Cut:
    """What became of a job whose worker was ended while a step was under way."""

    trace: Trace
    record: dict[str, Any]
    worker: Process
    heir: Process


@dataclass(frozen=True)
class Ended:
    """All jobs of some workers that were ended at the same time; `seconds` until all were at work again."""

    cuts: dict[tuple[str, str], Cut]
    seconds: float


class Relay:
    """Three workers on SQLite and three on PostgreSQL: each is ended in its turn, and the next of its kind goes on."""

    def __init__(self, service: Service, folder: Path, postgres_url: str) -> None:
        self.service = service
        self.folder = folder
        self.redis = Redis.from_url(service.redis_url)
        databases = {"sqlite": {}, "postgresql": {"DATABASE_URL": postgres_url}}
        self.workers = {
            queue: [
                service.start_worker(
                    WORKER_QUEUES=queue, WORKER_CONCURRENCY="20", LEASE_SECONDS=str(LEASE_SECONDS), **database
                )
                for _ in range(3)
            ]
            for queue, database in databases.items()
        }
        service.wait_for(*(worker for workers in self.workers.values() for worker in workers))

    def end(self, place: int, number: int) -> Ended:
        """Bring jobs of all shapes to the workers at this place, end these by the signal, and let the next go on."""
        heirs = {queue: workers[place + 1] for queue, workers in self.workers.items()}
        for workers in self.workers.values():
            for worker in workers[place + 1 :]:
                worker.pause()
        jobs = {(saver, shape): self._bring(saver, shape, place) for saver in SAVERS for shape in SHAPES}
        for heir in heirs.values():
            heir.resume()
        for workers in self.workers.values():
            workers[place].send(number)
        ended_at = time.monotonic()
        for (_, shape), (trace, _) in jobs.items():
            wait_until(lambda trace=trace, shape=shape: len(trace.pids(SHAPES[shape].under_way)) == 2, 20)
        seconds = time.monotonic() - ended_at
        for (_, shape), (trace, _) in jobs.items():
            trace.let(SHAPES[shape].under_way)
        records = self.service.client.wait_all([job_id for _, job_id in jobs.values()])
        cuts = {}
        for (one, (trace, _)), record in zip(jobs.items(), records, strict=True):
            workers = self.workers[_queue(one[0])]
            cuts[one] = Cut(trace, record, workers[place], workers[place + 1])
        return Ended(cuts, seconds)

    def _bring(self, saver: str, name: str, place: int) -> tuple[Trace, str]:
        """Submit a job, and wait until its step is under way and what went before is stored."""
        shape = SHAPES[name]
        trace = Trace(self.folder / f"{saver}-{name}-{place}")
        thread = None if saver == "job" else f"{saver} {name} {place}"
        job_id = self.service.client.submit(
            shape.graph,
            trace.input(hold=[shape.under_way, *shape.beside], turns=50),
            queue=_queue(saver),
            thread_id=thread,
            limits={"steps": 100},
        )
        wait_until(lambda: {shape.under_way, *shape.beside} <= set(trace.steps), what=f"{saver} {name}")
        if shape.beside:
            before = self._stored(job_id, thread)
            trace.let(*shape.beside)
            wait_until(lambda: self._stored(job_id, thread) != before, what="what the branch came to is stored")
        return trace, job_id

    def _stored(self, job_id: str, thread: str | None) -> dict[bytes, bytes]:
        name = key("checkpoints", f"default:{job_id}") if thread is None else key("head", "default", digest(thread))
        return dict(self.redis.hgetall(name))


def _queue(saver: str) -> str:
    return "postgresql" if saver == "postgresql" else "sqlite"


@pytest.fixture(scope="module")
def relay(shared_service: Service, postgres_server: PostgreSQL, tmp_path_factory: pytest.TempPathFactory) -> Relay:
    return Relay(shared_service, tmp_path_factory.mktemp("relay"), postgres_server.new_database())


@pytest.fixture(scope="module")
def killed(relay: Relay) -> Ended:
    return relay.end(0, signal.SIGKILL)


@pytest.fixture(scope="module")
def terminated(relay: Relay, killed: Ended) -> Ended:
    return relay.end(1, signal.SIGTERM)


@PLACES
def test_what_had_ended_before_a_kill_does_not_run_again(killed: Ended, saver: str, shape: str) -> None:
    cut = killed.cuts[saver, shape]
    assert cut.record["status"] == "succeeded", cut.record
    assert (cut.record["attempt"], cut.record["tries"]) == (2, 2)
    assert sorted(cut.trace.steps) == SHAPES[shape].starts
    assert cut.trace.pids(SHAPES[shape].under_way) == [cut.worker.pid, cut.heir.pid]


def test_killed_workers_jobs_are_at_work_again_within_a_lease_and_a_second(killed: Ended) -> None:
    print(f"all at work again within {killed.seconds:.2f} s of the kill")
    assert killed.seconds < LEASE_SECONDS + 1 + 1.5  # the last is for a busy machine


@PLACES
def test_what_had_ended_before_a_hand_back_does_not_run_again_and_no_try_is_counted(
    terminated: Ended, saver: str, shape: str
) -> None:
    cut = terminated.cuts[saver, shape]
    assert cut.record["status"] == "succeeded", cut.record
    assert (cut.record["attempt"], cut.record["tries"]) == (2, 1)
    assert sorted(cut.trace.steps) == SHAPES[shape].starts
    assert cut.trace.pids(SHAPES[shape].under_way) == [cut.worker.pid, cut.heir.pid]
    assert cut.worker.wait() == 0


@pytest.mark.parametrize("saver", SAVERS)
def test_a_job_that_went_on_elsewhere_has_the_results_of_both_workers(killed: Ended, saver: str) -> None:
    cut = killed.cuts[saver, "nodes"]
    assert cut.record["output"]["trail"] == [f"first {cut.worker.pid}", f"second {cut.heir.pid}"]


# After an answer


@dataclass(frozen=True)
class Answered:
    """A job that asked one worker, which died then, and was answered on another; with its record before and after."""

    trace: Trace
    waiting: dict[str, Any]
    ended: dict[str, Any]
    told: list[tuple[str, dict[str, Any]]]  # its webhook: id and body
    worker: Process
    heir: Process


def _ask(service: Service, trace: Trace, **fields: Any) -> str:
    return service.client.submit("traced_asking", trace.input(), queue="asking", **fields)


@pytest.fixture(scope="module")
def answered(shared_service: Service, tmp_path_factory: pytest.TempPathFactory) -> dict[str | None, Answered]:
    """By thread: one job without, and one with."""
    client, folder = shared_service.client, tmp_path_factory.mktemp("answered")
    worker, heir = shared_service.start_workers(2, WORKER_QUEUES="asking", WORKER_CONCURRENCY="1", LEASE_SECONDS="30")
    heir.pause()
    threads = (None, "asking")
    traces = {thread: Trace(folder / str(thread)) for thread in threads}
    with Receiver() as receiver:
        webhook = {"url": receiver.url}
        ids = {thread: _ask(shared_service, traces[thread], thread_id=thread, webhook=webhook) for thread in threads}
        waiting = {thread: client.job(ids[thread], wait=30) for thread in threads}
        worker.kill()
        heir.resume()
        for thread in threads:
            accepted = client.http.post(f"/jobs/{ids[thread]}/resume", json={"value": {"yes": [1, None]}})
            assert accepted.status_code == 202, accepted.text
        ended = {thread: client.job(ids[thread], wait=30) for thread in threads}
        told = [(request.headers["webhook-id"], orjson.loads(request.body)) for request in receiver.wait_for(4, 40)]
    return {
        thread: Answered(
            traces[thread],
            waiting[thread],
            ended[thread],
            # Deliveries come in no order: each says which round it is of.
            sorted(
                (message for message in told if message[1]["data"]["id"] == ids[thread]),
                key=lambda message: message[1]["data"]["round"],
            ),
            worker,
            heir,
        )
        for thread in threads
    }


WITH_AND_WITHOUT_A_THREAD = pytest.mark.parametrize("thread", [None, "asking"])


@WITH_AND_WITHOUT_A_THREAD
def test_a_job_that_asks_is_interrupted_and_says_what_it_asks(
    answered: dict[str | None, Answered], thread: str | None
) -> None:
    job = answered[thread].waiting
    assert (job["status"], job["round"], job["output"]) == ("interrupted", 1, None)
    assert [interrupt["value"] for interrupt in job["interrupts"]] == [{"question": "go on?"}]


@WITH_AND_WITHOUT_A_THREAD
def test_an_answered_job_goes_on_at_its_question_on_another_worker(
    answered: dict[str | None, Answered], thread: str | None
) -> None:
    one = answered[thread]
    worker, heir = one.worker.pid, one.heir.pid
    assert (one.ended["status"], one.ended["round"], one.ended["tries"]) == ("succeeded", 2, 1)
    assert one.trace.starts == [("first", worker), ("ask", worker), ("ask", heir), ("last", heir)]
    assert one.ended["output"]["trail"] == [f"first {worker}", "answered {'yes': [1, None]}", f"last {heir}"]


@WITH_AND_WITHOUT_A_THREAD
def test_a_webhook_is_told_of_the_question_and_of_the_end(
    answered: dict[str | None, Answered], thread: str | None
) -> None:
    (asked_id, asked), (ended_id, ended) = answered[thread].told
    assert (asked["type"], asked["data"]["round"]) == ("job.interrupted", 1)
    assert (ended["type"], ended["data"]["round"]) == ("job.succeeded", 2)
    assert asked_id != ended_id
    assert asked["data"]["interrupts"] == answered[thread].waiting["interrupts"]


@pytest.mark.usefixtures("answered")  # whose heir has one slot
def test_of_answers_that_race_one_is_taken(shared_service: Service, lines: Path) -> None:
    client, trace = shared_service.client, Trace(lines)
    job_id = _ask(shared_service, trace)
    assert client.job(job_id, wait=30)["status"] == "interrupted"

    def answer(number: int) -> tuple[int, int]:
        return client.http.post(f"/jobs/{job_id}/resume", json={"value": number}).status_code, number

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(answer, range(8)))
    assert sorted(status for status, _ in answers) == [202] + [409] * 7
    job = client.job(job_id, wait=30)
    assert (job["status"], job["round"]) == ("succeeded", 2)
    taken = next(number for status, number in answers if status == 202)
    assert f"answered {taken}" in job["output"]["trail"]
    assert trace.steps == ["first", "ask", "ask", "last"]


@pytest.mark.usefixtures("answered")
def test_a_job_that_waits_for_a_person_has_no_slot(shared_service: Service, tmp_path: Path) -> None:
    client = shared_service.client
    ids = [_ask(shared_service, Trace(tmp_path / name)) for name in ("one", "two")]
    assert [client.job(job_id, wait=30)["status"] for job_id in ids] == ["interrupted", "interrupted"]
