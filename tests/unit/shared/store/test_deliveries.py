"""Deliveries: leased to one sender at a time, sent again when it is lost, and kept with all their attempts."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest
from redis import Redis as SyncRedis
from redis.asyncio import Redis

from shared.jobs import Delivery, DeliveryAttempt
from shared.store import ClaimedDelivery, DeliveryStore
from shared.store.keys import key
from tests.job_queue import RETENTION_SECONDS, TENANT, WEBHOOK, JobQueue


async def end_job(queue: JobQueue, job_id: str = "a", **options: Any) -> None:
    """A job whose end is to be delivered."""
    await queue.submit(job_id, fields=WEBHOOK, graph="delivered", **options)
    await queue.finish("w1", await queue.take(graphs=["delivered"]), output=b'"output"')


async def claim(queue: JobQueue, sender: str = "s1", limit: int = 10) -> list[ClaimedDelivery]:
    return (await queue.deliveries.claim(sender, lease_seconds=10, limit=limit))[0]


async def finish(queue: JobQueue, sender: str, delivery: ClaimedDelivery, outcome: Any, **options: Any) -> bool:
    attempt = DeliveryAttempt.model_validate({"at": "2026-01-31T12:00:00Z", "status_code": 503, "duration_ms": 7})
    options = {"body": b'{"type":"job.succeeded"}', **options}
    return await queue.deliveries.finish(sender, delivery, outcome=outcome, attempt=attempt, **options)


async def only_delivery(queue: JobQueue) -> Delivery:
    (document,) = await queue.deliveries.of_job(TENANT, "a")
    return Delivery.model_validate_json(orjson.dumps(document))


async def test_a_delivery_is_leased_to_one_sender(queue: JobQueue) -> None:
    await end_job(queue)
    (delivery,) = await claim(queue, "s1")
    assert (delivery.attempt, delivery.step) == (1, 0)
    assert await claim(queue, "s2") == []


async def test_a_delivered_message_is_not_sent_again(queue: JobQueue) -> None:
    await end_job(queue)
    (delivery,) = await claim(queue)
    assert await finish(queue, "s1", delivery, "delivered")
    queue.pass_time(RETENTION_SECONDS - 1)
    assert await queue.deliveries.claim("s1", lease_seconds=10, limit=10) == ([], None)
    document = await only_delivery(queue)
    assert (document.status, document.next_attempt_at) == ("delivered", None)
    assert [attempt.status_code for attempt in document.attempts] == [503]


async def test_a_lost_senders_delivery_comes_again_after_its_lease(queue: JobQueue) -> None:
    await end_job(queue)
    (old,) = await claim(queue, "lost")
    queue.pass_time(9)
    assert await claim(queue, "s2") == []
    queue.pass_time(1.001)
    (new,) = await claim(queue, "s2")
    assert (new.ref, new.attempt, new.step) == (old.ref, 2, 0)
    assert (new.record, new.output) == (old.record, old.output)
    assert await finish(queue, "lost", old, "delivered") is False
    assert (await only_delivery(queue)).status == "pending"
    assert (await only_delivery(queue)).attempts == []
    assert await finish(queue, "s2", new, "delivered") is True


async def test_the_same_sender_cannot_finish_an_older_try(queue: JobQueue) -> None:
    await end_job(queue)
    (old,) = await claim(queue, "s1")
    queue.pass_time(10.001)
    (new,) = await claim(queue, "s1")
    assert await finish(queue, "s1", old, "failed") is False
    assert await finish(queue, "s2", new, "failed") is False
    assert await finish(queue, "s1", new, "delivered") is True
    assert await finish(queue, "s1", new, "failed") is False
    assert (await only_delivery(queue)).status == "delivered"


async def test_a_retry_comes_when_it_is_due_and_carries_the_first_body(queue: JobQueue) -> None:
    await end_job(queue)
    (first,) = await claim(queue)
    assert await finish(queue, "s1", first, "retry", delay_seconds=300, body=b'{"first":1}')
    deliveries, due_in = await queue.deliveries.claim("s1", lease_seconds=10, limit=10)
    assert (deliveries, due_in) == ([], pytest.approx(300, abs=1))
    assert (await only_delivery(queue)).next_attempt_at is not None
    queue.pass_time(299)
    assert await claim(queue) == []
    queue.pass_time(1)
    (second,) = await claim(queue)
    assert (second.attempt, second.step, second.body) == (2, 1, b'{"first":1}')
    assert (second.record, second.output) == ({}, None)
    await finish(queue, "s1", second, "delivered", body=b'{"second":1}')
    assert len((await only_delivery(queue)).attempts) == 2


async def test_a_failed_delivery_expires_after_its_retention(queue: JobQueue) -> None:
    await end_job(queue)
    await finish(queue, "s1", (await claim(queue))[0], "failed")
    assert (await only_delivery(queue)).status == "failed"
    queue.pass_time(RETENTION_SECONDS + 1)
    assert await queue.store.expire() == (1, 1)
    assert await queue.deliveries.of_job(TENANT, "a") == []


@pytest.mark.parametrize("outcome", ["failed", "delivered", "retry"])
async def test_redeliver_sends_again_now_and_with_a_fresh_schedule(queue: JobQueue, outcome: str) -> None:
    await end_job(queue)
    for _ in range(3):
        await finish(queue, "s1", (await claim(queue))[0], "retry", delay_seconds=0)
    await finish(queue, "s1", (await claim(queue))[0], outcome, delay_seconds=3600)
    assert await queue.deliveries.redeliver(TENANT, "a", "a.1.succeeded") == "queued"
    assert (await only_delivery(queue)).status == "pending"
    (delivery,) = await claim(queue)
    assert (delivery.step, delivery.body) == (0, b'{"type":"job.succeeded"}')
    assert await queue.deliveries.redeliver(TENANT, "a", "a.1.succeeded") == "sending"
    await finish(queue, "s1", delivery, "delivered")
    assert len((await only_delivery(queue)).attempts) == 5


async def test_a_redelivered_message_does_not_expire_before_it_is_sent(queue: JobQueue) -> None:
    await end_job(queue)
    await finish(queue, "s1", (await claim(queue))[0], "failed")
    queue.pass_time(RETENTION_SECONDS - 1)
    await queue.deliveries.redeliver(TENANT, "a", "a.1.succeeded")
    queue.pass_time(2)
    assert await queue.store.expire() == (1, 0)
    assert len(await claim(queue)) == 1


@pytest.mark.parametrize("delivery_id", ["a.9.succeeded", "b.1.succeeded", "1.succeeded", "", "a", "*"])
async def test_redeliver_of_what_is_not_a_delivery_of_the_job_is_missing(queue: JobQueue, delivery_id: str) -> None:
    await end_job(queue, "a")
    await end_job(queue, "b")
    assert await queue.deliveries.redeliver(TENANT, "a", delivery_id) == "missing"


async def test_deliveries_of_a_job_are_listed_oldest_first(queue: JobQueue) -> None:
    await queue.submit("a", fields=WEBHOOK)
    await queue.finish("w1", await queue.take(), "failed")
    await queue.store.retry(TENANT, "a")
    await queue.finish("w1", await queue.take(), "interrupted")
    await queue.store.cancel(TENANT, "a")
    documents = await queue.deliveries.of_job(TENANT, "a")
    assert [document["id"] for document in documents] == ["a.1.failed", "a.2.interrupted", "a.3.cancelled"]
    assert await queue.deliveries.of_job(TENANT, "b") == []


async def test_no_more_than_the_limit_are_claimed_and_the_oldest_first(queue: JobQueue) -> None:
    for job_id in "abc":
        await end_job(queue, job_id)
        queue.pass_time(1)
    deliveries, due_in = await queue.deliveries.claim("s1", lease_seconds=10, limit=2)
    assert ([delivery.job_id for delivery in deliveries], due_in) == (["a", "b"], 0)
    assert [delivery.job_id for delivery in await claim(queue, limit=2)] == ["c"]


async def test_a_delivery_that_was_deleted_by_hand_stops_no_sender(queue: JobQueue, sync_redis: SyncRedis) -> None:
    await end_job(queue, "a")
    await end_job(queue, "b")
    sync_redis.delete(key("delivery", f"{TENANT}:a.1.succeeded"))
    assert [delivery.job_id for delivery in await claim(queue)] == ["b"]
    assert not sync_redis.exists(key("delivery", f"{TENANT}:a.1.succeeded"))


# Wake-up


async def test_the_end_of_a_job_wakes_a_sender_that_waits(queue: JobQueue, blocking: Redis) -> None:
    sender = DeliveryStore(queue.redis, ttl_seconds=60, blocking=blocking)
    waiting = asyncio.create_task(sender.wait(30))
    await asyncio.sleep(0.02)
    assert not waiting.done()
    await end_job(queue)
    await asyncio.wait_for(waiting, 5)


async def test_waiting_for_a_delivery_for_no_time_returns_at_once(queue: JobQueue) -> None:
    await asyncio.wait_for(queue.deliveries.wait(0), 5)


async def test_a_full_claim_wakes_another_sender_and_an_empty_one_lets_them_sleep(queue: JobQueue) -> None:
    for job_id in "abc":
        await end_job(queue, job_id)
    await queue.redis.delete(key("deliveries_wake"))
    await claim(queue, limit=2)
    assert await queue.redis.llen(key("deliveries_wake")) == 1
    await claim(queue, "s2")
    await claim(queue, "s2")
    assert await queue.redis.llen(key("deliveries_wake")) == 0
