"""A fail-over loses a write of a job's progress: the next one does not build on it, but sends all there is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from shared.store import EarlierWriteLost, connect_sync
from shared.store.keys import key
from tests.attempts import Attempts, State, chain
from tests.job_queue import TENANT, JobQueue
from worker.checkpoints.threads import ThreadMemory


@pytest.fixture
async def queue(redis: Redis, valkey_url: str) -> AsyncIterator[JobQueue]:
    with connect_sync(valkey_url, answer_within=5) as sync_redis:
        yield JobQueue(redis, sync_redis)


@pytest.fixture
async def attempts(queue: JobQueue, tmp_path: Path) -> AsyncIterator[Attempts]:
    threads = ThreadMemory(f"sqlite:///{tmp_path / 'threads.db'}")
    yield Attempts(queue, threads)
    await threads.close()


class Replica:
    """What a replica had of a job's record and progress at some moment."""

    def __init__(self, queue: JobQueue, job_id: str) -> None:
        self.redis = queue.sync_redis
        self.names = [key("job", f"{TENANT}:{job_id}"), key("checkpoints", f"{TENANT}:{job_id}")]
        self.had = [self.redis.dump(name) for name in self.names]

    def promote(self) -> None:
        """What came after that moment is lost."""
        for name, had in zip(self.names, self.had, strict=True):
            self.redis.delete(name)
            if had is not None:
                self.redis.restore(name, 0, had)


@pytest.mark.parametrize("lost_from", ["first", "second"], ids=["two writes", "one write"])
async def test_a_job_whose_checkpoint_a_fail_over_lost_goes_on_from_the_next_one(
    attempts: Attempts, queue: JobQueue, lost_from: str
) -> None:
    ran: list[str] = []
    replicas: list[Replica] = []
    faults: list[Exception] = [ConnectionError("the provider hung up")]

    def step(name: str) -> State:
        ran.append(name)
        if name == lost_from:
            replicas.append(Replica(queue, attempts.id))
        if name == "third" and len(ran) == 3:
            replicas[0].promote()
        return {"log": [name]}

    def first(_: State) -> State:
        return step("first")

    def second(_: State) -> State:
        return step("second")

    def third(_: State) -> State:
        return step("third")

    def fourth(_: State) -> State:
        ran.append("fourth")
        if faults:
            raise faults.pop()
        return {"log": ["fourth"]}

    await attempts.serve(chain(first, second, third, fourth))
    await attempts.submit({"log": ["input"]}, max_attempts=2)
    assert (await attempts.run())["status"] == "queued"
    queue.pass_time(60)
    record = await attempts.run()
    assert (record["status"], record["tries"]) == ("succeeded", "2")
    assert record["output"]["log"] == ["input", "first", "second", "third", "fourth"]
    assert ran == ["first", "second", "third", "fourth", "fourth"]


async def test_what_is_sent_as_a_whole_is_what_the_writes_one_by_one_have_left(
    attempts: Attempts, queue: JobQueue
) -> None:
    """Else it would bring back what was dropped, or forget what was not."""
    kept: list[dict[bytes, bytes]] = []

    def first(_: State) -> State:
        return {"log": ["first"]}

    def second(_: State) -> State:
        kept.append(queue.sync_redis.hgetall(key("checkpoints", f"{TENANT}:{attempts.id}")))
        if len(kept) == 1:
            queue.sync_redis.hincrby(key("job", f"{TENANT}:{attempts.id}"), "saved", -1)
            queue.sync_redis.delete(key("checkpoints", f"{TENANT}:{attempts.id}"))
        raise ConnectionError("the provider hung up")

    await attempts.serve(chain(first, second))
    await attempts.submit({"log": ["input"]}, max_attempts=2)
    await attempts.run()  # its error is a write too, and finds that the one before is not there
    queue.pass_time(60)
    await attempts.run()
    assert kept[0].keys() <= kept[1].keys()
    assert {name: kept[1][name] for name in kept[0]} == kept[0]


async def test_a_write_out_of_turn_writes_nothing_and_the_same_one_again_is_the_same(queue: JobQueue) -> None:
    await queue.submit("a")
    job = await queue.take()
    assert await queue.store.checkpoint("w1", job, {b"a": b"1"}, [], number=1)
    assert await queue.store.checkpoint("w1", job, {b"a": b"1"}, [], number=1)
    assert await queue.store.checkpoint("w1", job, {b"b": b"2"}, [], number=2)
    for number in (1, 4):
        with pytest.raises(EarlierWriteLost):
            await queue.store.checkpoint("w1", job, {b"late": b"3"}, [b"a"], number=number)
    assert await queue.store.checkpoints(job) == {b"a": b"1", b"b": b"2"}
    assert await queue.store.checkpoint("w1", job, {b"c": b"4"}, [], number=4, whole=True)
    assert await queue.store.checkpoint("w1", job, {b"d": b"5"}, [], number=5)
    assert await queue.store.checkpoints(job) == {b"c": b"4", b"d": b"5"}


async def test_the_next_attempt_counts_on(queue: JobQueue) -> None:
    await queue.submit("a")
    job = await queue.take()
    assert await queue.store.checkpoint("w1", job, {b"a": b"1"}, [], number=1)
    await queue.store.release("w1", job, "hand_back")
    again = await queue.take("w2")
    assert again.record[b"saved"] == b"1"
    assert await queue.store.checkpoint("w2", again, {b"b": b"2"}, [], number=2)
