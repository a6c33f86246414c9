"""Deliveries: leased to one sender at a time, sent again when it is lost, and kept with all their attempts."""

from __future__ import annotations

import asyncio

import pytest
from redis import Redis as SyncRedis
from redis.asyncio import Redis

from shared.store import DeliveryStore, KeeperStore
from shared.store.keys import key
from tests.job_queue import RETENTION_SECONDS, TENANT, WEBHOOK, JobQueue
from tests.sent_deliveries import claim, end_job, finish, only_delivery
from tests.store_audit import audit


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


async def test_a_lost_senders_delivery_comes_again_after_its_lease(queue: JobQueue, sync_redis: SyncRedis) -> None:
    await end_job(queue)
    (old,) = await claim(queue, "lost")
    queue.pass_time(9)
    assert await claim(queue, "s2") == []
    queue.pass_time(1.001)
    (new,) = await claim(queue, "s2")
    assert (new.ref, new.attempt, new.step) == (old.ref, 2, 0)
    assert (new.record, new.output) == (old.record, old.output)
    assert await finish(queue, "lost", old, "delivered") is None
    assert (await only_delivery(queue)).status == "pending"
    assert (await only_delivery(queue)).attempts == []
    assert audit(sync_redis) == []
    assert await finish(queue, "s2", new, "delivered")


@pytest.mark.parametrize("way", ["lost", "released"])
async def test_what_comes_back_goes_before_a_backlog(queue: JobQueue, way: str) -> None:
    await end_job(queue, "first")
    (first,) = await claim(queue)
    for number in range(20):
        queue.pass_time(0.1)
        await end_job(queue, f"later{number}")
    if way == "lost":
        queue.pass_time(10)
    else:
        await queue.deliveries.release("s1", first)
    assert (await claim(queue, "s2", limit=1))[0].id == first.id


async def test_a_lease_that_ends_says_when_to_look_again(queue: JobQueue) -> None:
    await end_job(queue)
    await claim(queue, "lost")
    deliveries, look_in = await queue.deliveries.claim("s2", lease_seconds=10, limit=10)
    assert (deliveries, look_in) == ([], pytest.approx(10, abs=0.5))


async def test_leases_are_left_alone_by_who_may_not_recover_them(queue: JobQueue) -> None:
    await end_job(queue)
    (delivery,) = await claim(queue, "s1")
    queue.pass_time(11)
    answer = await queue.deliveries.claim("s2", lease_seconds=10, limit=10, recover=False)
    assert answer == ([], None)
    assert await finish(queue, "s1", delivery, "delivered")


async def test_a_renewed_lease_is_kept_beyond_its_time(queue: JobQueue) -> None:
    await end_job(queue)
    (delivery,) = await claim(queue, "s1")
    for _ in range(4):
        queue.pass_time(6)
        keeper = KeeperStore(queue.sync_redis, "s1", clock_offset_ms=queue.store.clock_offset_ms)
        assert keeper.renew_deliveries(10, [(delivery.ref, delivery.attempt)]) == ["held"]
        assert await claim(queue, "s2") == []
    assert await finish(queue, "s1", delivery, "delivered")


async def test_what_is_not_held_is_not_renewed(queue: JobQueue) -> None:
    await end_job(queue)
    (delivery,) = await claim(queue, "s1")
    asked = [(delivery.ref, delivery.attempt), (delivery.ref, 7), (f"{TENANT}:nosuch", 1)]
    assert KeeperStore(queue.sync_redis, "s2").renew_deliveries(10, asked) == ["gone"] * 3
    assert KeeperStore(queue.sync_redis, "s1").renew_deliveries(10, asked) == ["held", "gone", "gone"]
    await finish(queue, "s1", delivery, "delivered")
    assert KeeperStore(queue.sync_redis, "s1").renew_deliveries(10, asked[:1]) == ["gone"]


async def test_the_same_sender_cannot_finish_an_older_try(queue: JobQueue) -> None:
    await end_job(queue)
    (old,) = await claim(queue, "s1")
    queue.pass_time(10.001)
    (new,) = await claim(queue, "s1")
    assert await finish(queue, "s1", old, "failed") is None
    assert await finish(queue, "s2", new, "failed") is None
    assert await finish(queue, "s1", new, "delivered")
    assert (await only_delivery(queue)).status == "delivered"


async def test_a_try_whose_record_is_sent_twice_is_recorded_once(queue: JobQueue) -> None:
    await end_job(queue)
    (delivery,) = await claim(queue, "s1")
    assert await finish(queue, "s1", delivery, "retry", delay_seconds=300)
    assert await finish(queue, "s1", delivery, "retry", delay_seconds=300)
    assert len((await only_delivery(queue)).attempts) == 1
    queue.pass_time(301)
    assert (await claim(queue))[0].step == 1


async def test_a_delivery_that_is_handed_back_is_due_at_once_and_no_try_is_counted(
    queue: JobQueue, sync_redis: SyncRedis
) -> None:
    await end_job(queue)
    (old,) = await claim(queue, "s1")
    assert not await queue.deliveries.release("s2", old)
    assert await queue.deliveries.release("s1", old)
    assert not await queue.deliveries.release("s1", old)
    assert audit(sync_redis) == []
    (new,) = await claim(queue, "s2")
    assert (new.step, (await only_delivery(queue)).attempts) == (0, [])
    assert await finish(queue, "s1", old, "delivered") is None


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


async def test_the_delay_to_the_first_success_is_told_once(queue: JobQueue) -> None:
    await end_job(queue)
    recorded = await finish(queue, "s1", (await claim(queue))[0], "retry", delay_seconds=20)
    assert recorded
    assert recorded.delay_seconds is None
    queue.pass_time(20)
    recorded = await finish(queue, "s1", (await claim(queue))[0], "delivered")
    assert recorded
    assert recorded.delay_seconds == pytest.approx(20, abs=1)
    assert await queue.log.redeliver(TENANT, "a_1_succeeded") == "queued"
    recorded = await finish(queue, "s1", (await claim(queue))[0], "delivered")
    assert recorded
    assert recorded.delay_seconds is None


async def test_a_failed_delivery_expires_after_its_retention(queue: JobQueue, sync_redis: SyncRedis) -> None:
    await end_job(queue)
    await finish(queue, "s1", (await claim(queue))[0], "failed")
    assert (await only_delivery(queue)).status == "failed"
    queue.pass_time(RETENTION_SECONDS + 1)
    assert await queue.store.expire() == (1, 1, 0)
    assert await queue.log.of_job(TENANT, "a") == []
    await claim(queue)
    assert [name for name in sync_redis.keys("*") if b"deliver" in name.replace(b":delivered", b"")] == []
    assert sync_redis.keys("mas:host*") + sync_redis.keys("mas:targets*") == []


async def test_deliveries_of_a_job_are_listed_oldest_first(queue: JobQueue) -> None:
    await queue.submit("a", fields=WEBHOOK)
    await queue.finish("w1", await queue.take(), "failed")
    await queue.store.retry(TENANT, "a")
    await queue.finish("w1", await queue.take(), "interrupted")
    await queue.store.cancel(TENANT, "a")
    documents = await queue.log.of_job(TENANT, "a")
    assert [document["id"] for document in documents] == ["a_1_failed", "a_2_interrupted", "a_3_cancelled"]
    assert await queue.log.of_job(TENANT, "b") == []


async def test_no_more_than_the_limit_are_claimed_and_the_oldest_first(queue: JobQueue) -> None:
    for job_id in "abc":
        await end_job(queue, job_id)
        queue.pass_time(1)
    deliveries, due_in = await queue.deliveries.claim("s1", lease_seconds=10, limit=2)
    assert ([delivery.job_id for delivery in deliveries], due_in) == (["a", "b"], 0)
    assert [delivery.job_id for delivery in await claim(queue, limit=2)] == ["c"]


async def test_a_delivery_that_was_deleted_by_hand_stops_no_sender(queue: JobQueue, sync_redis: SyncRedis) -> None:
    for job_id in "abc":
        await end_job(queue, job_id)
    sync_redis.delete(key("delivery", f"{TENANT}:b_1_succeeded"))
    sync_redis.zrem(key("deliveries_index", TENANT, "job", "pending"), "b_1_succeeded")
    assert [delivery.job_id for delivery in await claim(queue)] == ["a", "c"]
    assert not sync_redis.exists(key("delivery", f"{TENANT}:b_1_succeeded"))


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
