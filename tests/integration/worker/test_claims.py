"""Claims whose replies are lost between Redis and a real worker, and claims that arrive too late."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import orjson
import pytest

from shared.store import connect, connect_sync
from shared.store.scripts import CLAIM, DISOWN
from tests.conditions import until
from tests.job_queue import JobQueue
from tests.proxies import Proxy
from tests.servers import PROJECT, Process, Processes, Valkey
from tests.store_audit import audit
from tests.traced import Trace

GRAPHS = str(PROJECT / "tests" / "projects" / "basic" / "langgraph.json")
LEASE_SECONDS = 30.0  # nobody waits for it here
PROMPT_SECONDS = 5.0


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    server = Valkey(tmp_path_factory.mktemp("valkey"))
    with server.client() as client:  # the proxy knows a script's call by its SHA-1
        for script in (CLAIM, DISOWN):
            client.script_load(script.text)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def proxy(valkey: Valkey) -> Iterator[Proxy]:
    """The wire between the worker and Redis."""
    with Proxy(valkey.url) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def worker(proxy: Proxy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    with Processes(tmp_path_factory.mktemp("worker")) as processes:
        settings = {"WORKER_ROLES": "jobs", "LEASE_SECONDS": str(LEASE_SECONDS)}
        worker = processes.worker(proxy.url, GRAPHS_CONFIG=GRAPHS, **settings)
        worker.wait_for_line("worker ready", 30)
        yield worker


@pytest.fixture
async def jobs(valkey: Valkey, worker: Process) -> AsyncIterator[JobQueue]:
    with connect_sync(valkey.url, answer_within=5) as sync_redis:
        async with connect(valkey.url) as redis:
            yield JobQueue(redis, sync_redis)
        worker.resume()
        assert audit(sync_redis) == []


async def submit(jobs: JobQueue, job_id: str, trace: Trace, *hold: str) -> None:
    await jobs.submit(job_id, graph="traced", payload=orjson.dumps({"input": trace.input(hold=hold)}))


async def ended(jobs: JobQueue, job_id: str, within: float = PROMPT_SECONDS) -> dict[str, str]:
    async def record() -> dict[str, str] | None:
        found = await jobs.record(job_id)
        return found if found["status"] in ("succeeded", "failed", "cancelled") else None

    return await until(record, within)  # type: ignore[return-value]


async def test_a_job_whose_claim_got_no_reply_is_run_promptly_and_that_costs_no_try(
    jobs: JobQueue, proxy: Proxy, tmp_path: Path
) -> None:
    trace = Trace(tmp_path / "steps")
    lost = proxy.lose_reply(CLAIM, b"lost")
    asked_at = time.monotonic()
    await submit(jobs, "lost", trace)
    record = await ended(jobs, "lost")
    assert lost.reached.is_set()
    assert (record["status"], record["attempt"], record["tries"]) == ("succeeded", "2", "1")
    assert time.monotonic() - asked_at < PROMPT_SECONDS
    assert trace.steps == ["first", "second"]


async def test_what_a_worker_knows_stays_with_it_when_a_claim_gets_no_reply(
    jobs: JobQueue, proxy: Proxy, tmp_path: Path
) -> None:
    known, unknown = Trace(tmp_path / "known"), Trace(tmp_path / "unknown")
    await submit(jobs, "known", known, "second")
    await until(lambda: known.steps == ["first", "second"])
    proxy.lose_reply(CLAIM, b"unknown")
    await submit(jobs, "unknown", unknown)
    record = await ended(jobs, "unknown")
    assert (record["status"], record["attempt"], record["tries"]) == ("succeeded", "2", "1")
    known.let("second")
    record = await ended(jobs, "known")
    assert (record["status"], record["attempt"], record["tries"]) == ("succeeded", "1", "1")
    assert known.steps == ["first", "second"]


async def test_a_claim_that_reaches_redis_after_it_was_given_up_takes_nothing(
    jobs: JobQueue, proxy: Proxy, worker: Process, tmp_path: Path
) -> None:
    trace = Trace(tmp_path / "steps")
    disowned = proxy.hold_reply(DISOWN)
    late = proxy.delay_call(CLAIM)  # an idle worker asks each second
    assert await until(disowned.reached.is_set, 10)
    worker.pause()  # so that it takes nothing by another claim
    disowned.release()
    await submit(jobs, "late", trace)
    late.release()
    assert await until(late.answered.is_set)
    record = await jobs.record("late")
    assert (record["status"], record["attempt"]) == ("queued", "0")
    worker.resume()
    record = await ended(jobs, "late")
    assert (record["status"], record["attempt"], record["tries"]) == ("succeeded", "1", "1")
