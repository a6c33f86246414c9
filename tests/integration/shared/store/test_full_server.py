"""A Redis whose memory is full refuses new jobs whole, and lets go of all that it has."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from redis import Redis as SyncRedis

from shared.store import StoreFull, Submitted, connect, connect_sync, list_jobs
from shared.store.keys import key
from shared.store.listing import Filter
from shared.webhooks import DeliveryAttempt
from tests.job_queue import RETENTION_SECONDS, TENANT, WEBHOOK, JobQueue
from tests.servers import Valkey
from tests.store_audit import audit


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    server = Valkey(tmp_path_factory.mktemp("full"), maxmemory_policy="noeviction")
    yield server
    server.stop()


@pytest.fixture
def own_redis(own_server: Valkey) -> Iterator[SyncRedis]:
    own_server.flush()
    with connect_sync(own_server.url, answer_within=5) as client:
        yield client
        client.config_set("maxmemory", 0)


@pytest.fixture
async def queue(own_server: Valkey, own_redis: SyncRedis) -> AsyncIterator[JobQueue]:
    """A queue on a server that a test fills with `fill`."""
    async with connect(own_server.url) as client:
        yield JobQueue(client, own_redis)
    assert audit(own_redis) == []


def fill(redis: SyncRedis) -> None:
    """Make the memory that is in use more than is allowed; forget the scripts, for they must run then too."""
    redis.config_set("maxmemory", 1)
    redis.script_flush()


def contents(redis: SyncRedis) -> dict[bytes, bytes]:
    return {name: redis.dump(name) for name in redis.keys("*")}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"thread_id": "busy"},
        {"thread_id": "busy", "on_busy": "cancel"},
        {"thread_id": "free"},
        {"delay_ms": 5_000},
        {"idempotency_key": "k", "fingerprint": "f"},
    ],
)
async def test_a_submit_is_refused_and_leaves_nothing_half_written(queue: JobQueue, options: dict[str, object]) -> None:
    await queue.submit("running", thread_id="busy")
    await queue.take()
    fill(queue.sync_redis)
    before = contents(queue.sync_redis)
    with pytest.raises(StoreFull):
        await queue.submit("refused", **options)
    assert contents(queue.sync_redis) == before


async def test_so_is_each_job_of_a_batch_and_a_retry_and_a_redelivery(queue: JobQueue) -> None:
    await queue.submit("a", fields=WEBHOOK)
    await queue.finish("w1", await queue.take(), "failed")
    fill(queue.sync_redis)
    before = contents(queue.sync_redis)
    answers = await queue.store.submit_many([queue.new("b"), queue.new("c")])
    assert [type(answer) for answer in answers] == [StoreFull, StoreFull]
    with pytest.raises(StoreFull):
        await queue.store.retry(TENANT, "a")
    with pytest.raises(StoreFull):
        await queue.log.redeliver(TENANT, "a_1_failed")
    assert contents(queue.sync_redis) == before
    queue.sync_redis.config_set("maxmemory", 0)
    assert isinstance((await queue.store.submit_many([queue.new("b")]))[0], Submitted)


@pytest.mark.parametrize("start", ["checkpoint", "start"])
async def test_a_retry_from_wherever_is_refused_and_leaves_the_thread_as_it_was(queue: JobQueue, start: Any) -> None:
    for job_id in "ab":
        await queue.submit(job_id, thread_id="t")
        job = await queue.take()
        assert await queue.store.pin("w1", job, [("", job_id, "")])
        await queue.finish("w1", job, "failed")
    fill(queue.sync_redis)
    before = contents(queue.sync_redis)
    with pytest.raises(StoreFull):
        await queue.store.retry(TENANT, "b", start)
    assert contents(queue.sync_redis) == before
    queue.sync_redis.config_set("maxmemory", 0)
    assert await queue.store.retry(TENANT, "b", start) == ("queued", "queued")


async def test_a_resume_is_refused_before_anything_is_written_and_can_be_sent_again(queue: JobQueue) -> None:
    await queue.submit("a")
    await queue.finish("w1", await queue.take(), "interrupted", fields={"interrupts": b"[]"})
    fill(queue.sync_redis)
    before = contents(queue.sync_redis)
    with pytest.raises(StoreFull):
        await queue.store.resume(TENANT, "a", b"1")
    assert contents(queue.sync_redis) == before
    queue.sync_redis.config_set("maxmemory", 0)
    assert await queue.store.resume(TENANT, "a", b"1") == ("queued", "queued")
    assert (await queue.take()).answer == b"1"


async def test_a_running_job_goes_on(queue: JobQueue) -> None:
    await queue.submit("a")
    await queue.submit("b", thread_id="t")
    one, two = (await queue.claim()).jobs
    fill(queue.sync_redis)
    assert await queue.store.checkpoint("w1", one, {b"c": b"1"}, [])
    assert await queue.store.checkpoints(one) == {b"c": b"1"}
    assert await queue.store.pin("w1", two, [("", "1", ""), ("", "1", "t")])
    assert await queue.store.head(two) == {b"job": two.ref.encode(), b"h:": b"1", b"w:": b"1 t"}


async def test_a_claim_whose_reply_was_lost_is_disowned(queue: JobQueue) -> None:
    await queue.submit("a")
    await queue.claim("w1")
    fill(queue.sync_redis)
    assert len(await queue.store.disown("w1", 1, [])) == 1
    assert await queue.claim_ids("w1", number=1) == []
    assert await queue.claim_ids("w2") == ["a"]


@pytest.mark.parametrize("status", ["succeeded", "failed", "cancelled", "interrupted"])
async def test_a_running_job_is_kept_and_ended(queue: JobQueue, status: str) -> None:
    await queue.submit("a", thread_id="t", fields=WEBHOOK)
    await queue.submit("b", thread_id="t")
    job = await queue.take()
    fill(queue.sync_redis)
    assert queue.renew("w1", job) == ["held"]
    assert await queue.store.append("w1", job, [b"{}"])
    assert await queue.finish("w1", job, status, output=b"x" * 10_000, fields={"usage": b"{}"}) == "done"
    assert await queue.status("a") == status
    assert await queue.delivery_types("a") == [f"job.{status}"]
    assert await queue.claim_ids() == ([] if status == "interrupted" else ["b"])


@pytest.mark.parametrize(("kind", "delay"), [("hand_back", 0), ("backoff", 0), ("backoff", 5)])
async def test_a_running_job_is_given_back(queue: JobQueue, kind: str, delay: float) -> None:
    await queue.submit("a")
    job = await queue.take()
    fill(queue.sync_redis)
    assert await queue.store.release("w1", job, kind, delay_seconds=delay, error=b"{}") == "queued"
    queue.pass_time(delay)
    assert await queue.claim_ids("w2") == ["a"]


async def test_what_waits_is_claimed_and_the_jobs_of_lost_workers_come_back(queue: JobQueue) -> None:
    for job_id, options in [("a", {}), ("b", {}), ("delayed", {"delay_ms": 5_000})]:
        await queue.submit(job_id, **options)
    await queue.claim("lost", limit=1)
    fill(queue.sync_redis)
    queue.pass_time(11)
    assert await queue.claim_ids() == ["a", "b", "delayed"]


async def test_jobs_are_cancelled_erased_and_expired(queue: JobQueue) -> None:
    for job_id in "abc":
        await queue.submit(job_id)
    running = (await queue.claim(limit=1)).jobs[0]
    fill(queue.sync_redis)
    assert (await queue.store.cancel(TENANT, "a"))[0] == "cancelling"
    assert queue.renew("w1", running) == ["cancel"]
    assert (await queue.store.cancel(TENANT, "b"))[0] == "cancelled"
    assert (await queue.store.cancel(TENANT, "c"))[0] == "cancelled"
    assert await queue.store.erase(TENANT, "b") == ("erased", "cancelled")
    queue.pass_time(RETENTION_SECONDS + 1)
    assert await queue.store.expire() == (1, 0, 0)
    assert len((await list_jobs(queue.redis, TENANT, Filter(), limit=10))[0]) == 1


async def test_deliveries_are_sent(queue: JobQueue) -> None:
    await queue.submit("a", fields=WEBHOOK)
    await queue.finish("w1", await queue.take())
    fill(queue.sync_redis)
    (delivery,), _ = await queue.deliveries.claim("s1", lease_seconds=10, limit=10)
    attempt = DeliveryAttempt.model_validate({"at": "2026-01-31T12:00:00Z", "status_code": 204, "duration_ms": 3})
    assert await queue.deliveries.finish("s1", delivery, outcome="delivered", attempt=attempt, body=b"{}")
    assert queue.sync_redis.hget(key("delivery", delivery.ref), "status") == b"delivered"
