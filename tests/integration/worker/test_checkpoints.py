"""Attempts that have lost their lease and do not know it: what they still store is never gone on from, with each saver.

And what the saver of jobs without a thread keeps in Redis, and for how long.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import psycopg
import pytest

from shared.store import connect, connect_sync
from shared.store.keys import digest, key, ref
from shared.store.scripts import CHECKPOINT, PIN
from tests.conditions import until
from tests.job_queue import TENANT, JobQueue
from tests.proxies import Proxy
from tests.servers import PROJECT, PostgreSQL, Process, Processes, Valkey
from tests.store_audit import audit
from tests.traced import Trace
from worker.checkpoints.threads import ThreadMemory

GRAPHS = str(PROJECT / "tests" / "projects" / "basic" / "langgraph.json")
LEASE_SECONDS = 1.0
ASYNC_AND_SYNC = ("traced", "traced_sync")
SAVERS = ("job", "sqlite", "postgresql")  # of a job without a thread, and of a thread


@dataclass(frozen=True)
class Pair:
    """Two workers with one database; the first can be cut off from Redis."""

    queue: str
    database_url: str
    proxy: Proxy
    stale: Process
    heir: Process

    def rows(self, thread_id: str) -> int:
        """How many checkpoints and writes of tasks the database has of a thread."""
        counts = (
            "SELECT (SELECT count(*) FROM {0} WHERE thread_id = {2}) + (SELECT count(*) FROM {1} WHERE thread_id = {2})"
        )
        thread = f"{TENANT}:{thread_id}"
        if self.database_url.startswith("sqlite"):
            with closing(sqlite3.connect(self.database_url.removeprefix("sqlite:///"), timeout=10)) as connection:
                query = counts.format("checkpoints", "writes", "?")
                return int(connection.execute(query, (thread, thread)).fetchone()[0])
        with psycopg.connect(self.database_url) as connection:
            query = counts.format("checkpoints", "checkpoint_writes", "%s")
            row = connection.execute(query, (thread, thread)).fetchone()  # type: ignore[arg-type]
            return int(row[0]) if row else 0


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    server = Valkey(tmp_path_factory.mktemp("valkey"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def pairs(
    valkey: Valkey, postgres_server: PostgreSQL, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Pair]]:
    """By saver: jobs without a thread are run by the workers that have SQLite."""
    folder = tmp_path_factory.mktemp("workers")
    urls = {"sqlite": f"sqlite:///{folder / 'threads.db'}", "postgresql": postgres_server.new_database()}
    with ExitStack() as stack:
        processes = stack.enter_context(Processes(folder))

        def start(redis_url: str, queue: str) -> Process:
            settings = {"WORKER_QUEUES": queue, "WORKER_ROLES": "jobs", "LEASE_SECONDS": str(LEASE_SECONDS)}
            return processes.worker(redis_url, GRAPHS_CONFIG=GRAPHS, DATABASE_URL=urls[queue], **settings)

        pairs = {}
        for queue, url in urls.items():
            proxy = stack.enter_context(Proxy(valkey.url))
            pairs[queue] = Pair(queue, url, proxy, start(proxy.url, queue), start(valkey.url, queue))
        for worker in processes.started:
            worker.wait_for_line("worker ready", 30)
        yield {**pairs, "job": pairs["sqlite"]}


@pytest.fixture
async def jobs(valkey: Valkey, pairs: dict[str, Pair]) -> AsyncIterator[JobQueue]:
    with connect_sync(valkey.url, answer_within=5) as sync_redis:
        async with connect(valkey.url) as redis:
            yield JobQueue(redis, sync_redis)
        for pair in pairs.values():  # also after a test that failed
            pair.proxy.thaw()
            pair.stale.resume()
            pair.heir.resume()
        assert audit(sync_redis) == []


class Contest:
    """A job of which two workers have an attempt: the heir's holds, and the stale one's has lost its lease."""

    def __init__(self, jobs: JobQueue, pair: Pair, saver: str, name: str, graph: str, folder: Path) -> None:
        self.jobs = jobs
        self.pair = pair
        self.graph = graph
        self.id = f"{saver}-{name}-{graph}"
        self.thread = None if saver == "job" else self.id
        self.trace = Trace(folder / graph)

    async def submit(self, hold: Sequence[str], suffix: str = "", **input: Any) -> str:
        """Submit the job, or with a suffix another one of its thread; gives its id."""
        await self.jobs.submit(
            self.id + suffix,
            graph=self.graph,
            queue=self.pair.queue,
            thread_id=self.thread,
            payload=orjson.dumps({"input": self.trace.input(hold=hold, **input), "limits": {"steps": 100}}),
        )
        return self.id + suffix

    async def bring(self, hold: Sequence[str], *steps: str) -> None:
        """Have the stale worker start these steps, which it must wait in, and store what led to them."""
        self.pair.heir.pause()
        await self.submit(hold)
        await until(lambda: set(self.trace.starts) == {(step, self.pair.stale.pid) for step in steps}, 10)
        if self.thread:
            head = key("head", TENANT, digest(self.thread))
            await until(lambda: self.jobs.redis.hexists(head, "h:"))  # type: ignore[arg-type]
            # The worker knows it as well, once it has renewed its lease since.
            until_then = await self._lease()
            await until(lambda: self._renewed(until_then))

    async def _lease(self) -> float | None:
        return await self.jobs.redis.zscore(key("leases"), ref(TENANT, self.id))  # type: ignore[no-any-return]

    async def _renewed(self, before: float | None) -> bool:
        return await self._lease() != before

    async def inherit(self, *steps: str) -> None:
        """Let the heir take the job over, and start these steps."""
        self.pair.heir.resume()
        await until(lambda: {(step, self.pair.heir.pid) for step in steps} <= set(self.trace.starts), 10)

    async def let_stale(self, step: str) -> None:
        """Let this step end on the stale worker, and wait until the database has what it came to."""
        rows = self.pair.rows(self.thread) if self.thread else 0
        self.trace.let(step, pid=self.pair.stale.pid)
        if self.thread:
            await until(lambda: self.pair.rows(self.thread or "") > rows)

    async def start_anew(self) -> None:
        """Break the heir's attempt off, and have another one go on."""
        await self.jobs.store.cancel(TENANT, self.id)
        assert (await self.ended())["status"] == "cancelled"
        assert await self.jobs.store.retry(TENANT, self.id) == ("queued", "queued")

    async def dropped(self) -> None:
        """Wait until the stale worker has given its attempt up."""

        def told() -> bool:
            return any(self.id in line and "lease lost" in line for line in self.pair.stale.log.splitlines())

        await until(told, 10)

    async def ended(self, job_id: str | None = None) -> dict[str, str]:
        async def record() -> dict[str, str] | None:
            found = await self.jobs.record(job_id or self.id)
            return found if found["status"] in ("succeeded", "failed", "cancelled") else None

        return await until(record, 15)  # type: ignore[return-value]

    async def trail(self, job_id: str | None = None) -> list[str]:
        """The steps that have ended, in the job's output."""
        assert (await self.ended(job_id))["status"] == "succeeded"
        job = await self.jobs.store.get(TENANT, job_id or self.id)
        assert job is not None
        assert job.output is not None
        return list(orjson.loads(job.output)["trail"])

    async def everything(self) -> tuple[Any, ...]:
        """All that Redis has of the job and its thread."""
        name = ref(TENANT, self.id)
        places = [key("job", name), key("checkpoints", name), key("head", TENANT, digest(self.thread or ""))]
        hashes = [await self.jobs.redis.hgetall(place) for place in places]  # type: ignore[misc]
        events = await self.jobs.redis.lrange(key("events", name), 0, -1)  # type: ignore[misc]
        return (*hashes, events, await self.jobs.redis.get(key("result", name)))


@pytest.mark.parametrize("saver", SAVERS)
async def test_a_worker_that_was_stopped_past_its_lease_writes_nothing_and_starts_no_other_node(
    jobs: JobQueue, pairs: dict[str, Pair], tmp_path: Path, saver: str
) -> None:
    pair = pairs[saver]
    trail = [f"first {pair.heir.pid}", f"second {pair.heir.pid}"]
    contests = [Contest(jobs, pair, saver, "stopped", graph, tmp_path) for graph in ASYNC_AND_SYNC]
    for job in contests:
        await job.bring(["first"], "first")
    pair.stale.pause()
    for job in contests:
        await job.inherit("first")
        job.trace.let("first")
        assert await job.trail() == trail
    before = [await job.everything() for job in contests]
    pair.stale.resume()
    for job in contests:
        await job.dropped()
        assert job.trace.starts == [("first", pair.stale.pid), ("first", pair.heir.pid), ("second", pair.heir.pid)]
    assert [await job.everything() for job in contests] == before
    for job in contests:
        if job.thread:  # what the thread remembers is the heir's work
            assert (await job.trail(await job.submit([], "next")))[:2] == trail


@pytest.mark.parametrize("saver", SAVERS)
async def test_a_checkpoint_that_comes_after_the_lease_is_not_gone_on_from(
    jobs: JobQueue, pairs: dict[str, Pair], tmp_path: Path, saver: str
) -> None:
    pair = pairs[saver]
    contests = [Contest(jobs, pair, saver, "late", graph, tmp_path) for graph in ASYNC_AND_SYNC]
    for job in contests:
        await job.bring(["first", "second"], "first")
    pair.proxy.freeze()
    for job in contests:
        await job.inherit("first")
        job.trace.let("first", pid=pair.heir.pid)
        await job.inherit("second")
        await job.let_stale("first")
    pair.proxy.thaw()
    for job in contests:
        await job.dropped()
        await job.start_anew()
        job.trace.let("second")
        assert (await job.trail())[0] == f"first {pair.heir.pid}"
        assert job.trace.steps == ["first", "first", "second", "second"]
        assert job.trace.pids("second")[0] == pair.heir.pid


@pytest.mark.parametrize("saver", SAVERS)
async def test_a_checkpoint_that_was_on_its_way_when_the_lease_ended_is_not_gone_on_from(
    jobs: JobQueue, pairs: dict[str, Pair], tmp_path: Path, saver: str
) -> None:
    pair = pairs[saver]
    job = Contest(jobs, pair, saver, "on-its-way", "traced", tmp_path)
    await job.bring(["first"], "first")
    pair.proxy.freeze()
    job.trace.let("first", pid=pair.stale.pid)
    pair.heir.resume()
    # Where the machine is so slow that the lease is over before, the worker does not send it at all.
    await until(lambda: pair.proxy.has_frozen(CHECKPOINT, PIN) or pair.heir.pid in job.trace.pids("first"))
    await job.inherit("first")
    pair.proxy.thaw()
    await job.dropped()
    await job.start_anew()
    job.trace.let("first")
    first, _ = await job.trail()
    assert job.trace.steps == ["first", "first", "first", "second"]
    assert first == f"first {job.trace.pids('first')[-1]}"


@pytest.mark.parametrize("saver", SAVERS)
async def test_what_a_branch_came_to_after_the_lease_is_not_gone_on_from(
    jobs: JobQueue, pairs: dict[str, Pair], tmp_path: Path, saver: str
) -> None:
    pair = pairs[saver]
    job = Contest(jobs, pair, saver, "branch", "traced_branches", tmp_path)
    await job.bring(["left", "right"], "left", "right")
    pair.proxy.freeze()
    await job.inherit("left", "right")
    # The stale one's comes first, and it is of the same task of the same checkpoint as the heir's.
    await job.let_stale("left")
    job.trace.let("left", pid=pair.heir.pid)
    await until(lambda: _has_event(job, b'"left"'))
    pair.proxy.thaw()
    await job.dropped()
    await job.start_anew()
    job.trace.let("left", "right")
    assert (await job.trail())[0] == f"left {job.trace.pids('left')[-1]}"  # the heir's, or that of the next attempt


async def _has_event(job: Contest, text: bytes) -> bool:
    events: list[bytes] = await job.jobs.redis.lrange(key("events", ref(TENANT, job.id)), 0, -1)  # type: ignore[misc]
    return any(text in event for event in events)


async def test_a_write_that_is_broken_off_leaves_the_database_to_others(tmp_path: Path) -> None:
    memory = ThreadMemory(f"sqlite:///{tmp_path / 'threads.db'}")
    place: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": "", "checkpoint_id": "c"}}
    async with AsyncExitStack() as stack:
        stack.push_async_callback(memory.close)
        saver = await memory.saver()
        other = stack.enter_context(closing(sqlite3.connect(tmp_path / "threads.db", timeout=1, isolation_level=None)))
        for number in range(100):
            write = asyncio.create_task(saver.aput_writes(place, [("channel", number)], f"task {number}"))
            await asyncio.sleep(number / 100_000)  # up to the time that a write takes
            write.cancel()
            with suppress(asyncio.CancelledError):
                await write
            other.execute("BEGIN IMMEDIATE")
            other.execute("COMMIT")


# What a job without a thread keeps


async def test_the_checkpoints_of_a_job_do_not_grow_with_its_steps_and_go_with_it(
    jobs: JobQueue, pairs: dict[str, Pair], tmp_path: Path
) -> None:
    job = Contest(jobs, pairs["job"], "job", "loop", "traced_loop", tmp_path)
    await job.submit(["turn-3", "turn-40"], turns=41)
    place = key("checkpoints", ref(TENANT, job.id))
    kept = []
    for step in ("turn-3", "turn-40"):
        await until(lambda step=step: step in job.trace.steps)  # type: ignore[misc]
        kept.append(await jobs.redis.hlen(place))  # type: ignore[misc]
        job.trace.let(step)
    assert len(await job.trail()) == 41
    assert kept[0] == kept[1] > 0
    assert not await jobs.redis.exists(place)


async def test_the_checkpoints_of_a_failed_job_are_kept_for_a_retry_and_go_with_the_job(
    jobs: JobQueue, pairs: dict[str, Pair], tmp_path: Path
) -> None:
    job = Contest(jobs, pairs["job"], "job", "failed", "traced", tmp_path)
    await job.submit([], fail={"second": {"error": "final"}})
    assert (await job.ended())["status"] == "failed"
    place = key("checkpoints", ref(TENANT, job.id))
    assert await jobs.redis.exists(place)
    assert await jobs.store.erase(TENANT, job.id) == ("erased", "failed")
    assert not await jobs.redis.exists(place)
