"""With `WAIT_REPLICAS` a promise counts once that many replicas have it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from redis.asyncio.connection import Connection

from shared.store import (
    DeliveryLog,
    EndpointStore,
    JobStore,
    KeeperStore,
    NotReplicated,
    Submitted,
    connect,
    connect_sync,
)
from tests.job_queue import GRAPH, TENANT, WEBHOOK, JobQueue
from tests.servers import Valkey, wait_until


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Valkey, Valkey]]:
    """A master and its replica, which is in step."""
    folder = tmp_path_factory.mktemp("pair")
    master = Valkey(folder / "master", repl_diskless_sync_delay="0", repl_timeout="600")
    replica = Valkey(folder / "replica", replicaof=f"127.0.0.1 {master.port}", repl_timeout="600")
    with replica.client() as client:
        wait_until(lambda: client.info("replication")["master_link_status"] == "up", what="the replica is in step")  # type: ignore[index]
    yield master, replica
    replica.process.resume()
    replica.stop()
    master.stop()


@pytest.fixture
async def queue(pair: tuple[Valkey, Valkey]) -> AsyncIterator[JobQueue]:
    """An empty queue whose promises one replica must have; what else there is asks for none."""
    master, replica = pair
    replica.process.resume()
    master.flush()
    async with connect(master.url, answer_within=5) as redis:
        with connect_sync(master.url, answer_within=5) as sync_redis:
            yield JobQueue(redis, sync_redis)
    replica.process.resume()


@pytest.fixture
def replica(pair: tuple[Valkey, Valkey]) -> Valkey:
    return pair[1]


def waiting(queue: JobQueue) -> JobStore:
    return JobStore(queue.redis, result_ttl_seconds=60, wait_replicas=1)


async def test_what_is_confirmed_is_at_the_replica_without_a_word_more_to_the_server(
    queue: JobQueue, replica: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = waiting(queue)
    await store.submit(queue.new("warm"))
    sent: list[object] = []
    connections = queue.redis.connection_pool.connection_class
    send = connections.send_packed_command

    async def send_noted(self: Connection, command: Any, check_health: bool = True) -> None:
        sent.append(command)
        await send(self, command, check_health)

    monkeypatch.setattr(connections, "send_packed_command", send_noted)
    answer = await store.submit(queue.new("a"))
    assert answer.outcome == "created"
    assert len(sent) == 1
    with replica.client() as client:
        assert client.hget(f"mas:job:{TENANT}:a", "status") == b"queued"


async def test_a_submit_that_no_replica_has_is_not_confirmed_and_its_repetition_is_the_same_job(
    queue: JobQueue, replica: Valkey
) -> None:
    store = waiting(queue)
    replica.process.pause()
    with pytest.raises(NotReplicated):
        await store.submit(queue.new("a", idempotency_key="k"))
    with pytest.raises(NotReplicated):  # it is there, but that alone confirms nothing
        await store.submit(queue.new("b", idempotency_key="k"))
    replica.process.resume()
    answer = await store.submit(queue.new("c", idempotency_key="k"))
    assert (answer.outcome, answer.id) == ("duplicate", "a")
    assert await queue.claim_ids() == ["a"]


async def test_each_job_of_a_batch_is_told_that_it_is_not_confirmed(queue: JobQueue, replica: Valkey) -> None:
    replica.process.pause()
    answers = await waiting(queue).submit_many([queue.new("a"), queue.new("b")])
    assert [type(answer) for answer in answers] == [NotReplicated, NotReplicated]
    replica.process.resume()
    answers = await waiting(queue).submit_many([queue.new("c"), queue.new("d")])
    assert [answer.outcome for answer in answers if isinstance(answer, Submitted)] == ["created", "created"]


async def test_a_server_that_does_not_know_the_script_is_told_it_and_waits_too(
    queue: JobQueue, replica: Valkey
) -> None:
    queue.sync_redis.script_flush()
    assert (await waiting(queue).submit(queue.new("a"))).outcome == "created"
    queue.sync_redis.script_flush()
    replica.process.pause()
    with pytest.raises(NotReplicated):
        await waiting(queue).submit(queue.new("b"))


async def test_all_that_others_build_on_waits_for_the_replica(
    queue: JobQueue, replica: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = waiting(queue)
    for name in ("running", "given-back", "failed"):
        await queue.submit(name, thread_id=name)
    jobs = {job.id: job for job in (await queue.claim(limit=3)).jobs}
    assert await queue.finish("w1", jobs["failed"], "failed") == "done"
    await queue.submit("asks")
    assert await queue.finish("w1", await queue.take(), "interrupted") == "done"
    await queue.submit("waits", fields=WEBHOOK)
    log = DeliveryLog(queue.redis, wait_replicas=1)
    endpoints = EndpointStore(queue.redis, wait_replicas=1)
    monkeypatch.setattr("shared.store.connection.WAIT_MS", 100)
    replica.process.pause()
    for call in (
        lambda: store.cancel(TENANT, "waits"),
        lambda: store.retry(TENANT, "failed"),
        lambda: store.resume(TENANT, "asks", b"1"),
        lambda: store.erase(TENANT, "waits"),
        lambda: store.checkpoint("w1", jobs["running"], {b"a": b"1"}, []),
        lambda: store.pin("w1", jobs["running"], [("", "c1", "")]),
        lambda: store.release("w1", jobs["given-back"], "hand_back"),
        lambda: store.finish("w1", jobs["running"], "succeeded", output=b"1"),
        lambda: log.redeliver(TENANT, "d"),
        lambda: endpoints.create(TENANT, "e", url="https://a.b/", events=None, description=None, secret="s"),
        lambda: endpoints.drop(TENANT, "e"),
    ):
        with pytest.raises(NotReplicated):
            await call()


async def test_what_is_done_again_when_it_is_lost_does_not_wait(queue: JobQueue, replica: Valkey) -> None:
    await queue.submit("a")
    replica.process.pause()
    store = waiting(queue)
    claim = await store.claim(
        "w1", lease_seconds=10, limit=1, max_bytes=10**6, recover=False, queues=["default"], graphs=[GRAPH]
    )
    assert [job.id for job in claim.jobs] == ["a"]
    assert await store.append("w1", claim.jobs[0], [b"{}"])
    assert queue.renew("w1", claim.jobs[0]) == ["held"]


async def test_a_finish_that_no_replica_has_is_the_same_finish_when_it_is_sent_again(
    queue: JobQueue, replica: Valkey
) -> None:
    await queue.submit("a", fields=WEBHOOK)
    job = await queue.take()
    replica.process.pause()
    with pytest.raises(NotReplicated):
        await waiting(queue).finish("w1", job, "succeeded", output=b"1")
    replica.process.resume()
    assert await waiting(queue).finish("w1", job, "succeeded", output=b"1") == "already"
    assert await queue.delivery_types("a") == ["job.succeeded"]


async def test_a_keeper_that_ends_a_job_waits_too(queue: JobQueue, replica: Valkey) -> None:
    await queue.submit("a")
    job = await queue.take()
    keeper = KeeperStore(queue.sync_redis, "w1", wait_replicas=1)
    replica.process.pause()
    with pytest.raises(NotReplicated):
        await asyncio.to_thread(keeper.fail, job.ref, job.attempt, b"{}")
    replica.process.resume()
    assert await asyncio.to_thread(keeper.fail, job.ref, job.attempt, b"{}") == "already"


async def test_more_replicas_than_there_are_confirm_nothing(queue: JobQueue) -> None:
    store = JobStore(queue.redis, result_ttl_seconds=60, wait_replicas=2)
    with pytest.raises(NotReplicated, match="1 of 2"):
        await store.submit(queue.new("a"))
