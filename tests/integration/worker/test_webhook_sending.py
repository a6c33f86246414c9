"""The sender of webhooks on a real store: what it sends, and what it lives through."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import orjson
from redis.asyncio import Redis
from standardwebhooks import Webhook

from shared.settings import Settings
from shared.signing import default_secret, seal
from shared.store import DeliveryLog, DeliveryStore, connect
from shared.store.keys import key
from tests.deliveries import TENANT, Outbox, delivery_id, sending, settings_for
from tests.receivers import Receiver, Reply
from tests.servers import SECRET_KEY, Valkey
from worker.webhooks import WebhookSender

SECRET = default_secret(SECRET_KEY, TENANT)


async def test_the_end_of_a_job_is_delivered_signed(receiver: Receiver, outbox: Outbox, sender: WebhookSender) -> None:
    await outbox.end_job("j1", receiver.url)
    delivery = await outbox.after("j1", 1)
    (request,) = receiver.requests
    message = Webhook(SECRET).verify(request.body, request.headers)
    assert message["type"] == "job.succeeded"
    assert message["data"]["id"] == "j1"
    assert message["data"]["status"] == "succeeded"
    assert message["data"]["output"] == {"answer": 42}
    assert request.headers["webhook-id"] == delivery["id"] == delivery_id("j1")
    assert delivery["status"] == "delivered"
    assert delivery["next_attempt_at"] is None
    (attempt,) = delivery["attempts"]
    assert (attempt["status_code"], attempt["error"], attempt["body"]) == (204, None, "")
    assert attempt["duration_ms"] >= 0


async def test_an_idle_sender_delivers_within_a_moment(
    receiver: Receiver, outbox: Outbox, sender: WebhookSender
) -> None:
    await outbox.end_job("first", receiver.url)
    await outbox.after("first", 1)
    ended = time.time()
    await outbox.end_job("j1", receiver.url)
    assert receiver.wait_for(2)[1].at - ended < 0.5


async def test_each_try_has_the_same_id_and_body_and_a_signature_of_its_own_time(
    receiver: Receiver, outbox: Outbox, sender: WebhookSender
) -> None:
    receiver.reply(Reply(500, body=b"oh no"), Reply(503))
    await outbox.end_job("j1", receiver.url)
    await outbox.after("j1", 1)
    await asyncio.sleep(1.05)  # for the next timestamp, which is in seconds
    for tries in (2, 3):
        await outbox.make_due("j1")
        await outbox.after("j1", tries)
    delivery = await outbox.delivery("j1")
    assert [attempt["status_code"] for attempt in delivery["attempts"]] == [500, 503, 204]
    assert delivery["attempts"][0]["body"] == "oh no"
    assert delivery["status"] == "delivered"
    assert len({(request.headers["webhook-id"], request.body) for request in receiver.requests}) == 1
    stamps = [int(request.headers["webhook-timestamp"]) for request in receiver.requests]
    assert stamps[0] < stamps[1]
    for request in receiver.requests:
        Webhook(SECRET).verify(request.body, request.headers)


async def test_the_tenth_failure_is_the_last_and_the_delivery_can_be_sent_again(
    receiver: Receiver, outbox: Outbox, sender: WebhookSender, redis: Redis
) -> None:
    receiver.default = Reply(500)
    await outbox.end_job("j1", receiver.url)
    for tries in range(1, 11):
        delivery = await outbox.after("j1", tries)
        assert delivery["status"] == ("pending" if tries < 10 else "failed")
        assert (delivery["next_attempt_at"] is None) == (tries == 10)
        await outbox.make_due("j1")
    receiver.default = Reply(200)
    assert await DeliveryLog(redis).redeliver(TENANT, delivery_id("j1")) == "queued"
    delivery = await outbox.after("j1", 11)
    assert delivery["status"] == "delivered"
    assert len({request.headers["webhook-id"] for request in receiver.requests}) == 1


async def test_a_job_s_own_secret_signs(receiver: Receiver, outbox: Outbox, sender: WebhookSender) -> None:
    own = "whsec_" + "B" * 44
    await outbox.end_job("j1", receiver.url, webhook_secret=seal(SECRET_KEY, own))
    await outbox.after("j1", 1)
    Webhook(own).verify(receiver.requests[0].body, receiver.requests[0].headers)


async def test_a_secret_that_cannot_be_read_is_an_attempt_on_record_and_not_held_against_the_address(
    receiver: Receiver, outbox: Outbox, sender: WebhookSender, redis: Redis
) -> None:
    await outbox.end_job("j1", receiver.url, webhook_secret=seal("another key, of more than 32 characters", "whsec_x"))
    delivery = await outbox.after("j1", 1)
    assert delivery["status"] == "pending"
    assert delivery["attempts"][0]["error"].startswith("could not be sent: ")
    assert receiver.requests == []
    assert await redis.keys(key("address") + "*") == []


async def test_an_output_beyond_256_kb_is_linked_and_not_sent(
    receiver: Receiver, outbox: Outbox, sender: WebhookSender
) -> None:
    await outbox.end_job("j1", receiver.url, output=b'"' + b"x" * 300_000 + b'"')
    await outbox.after("j1", 1)
    data = orjson.loads(receiver.requests[0].body)["data"]
    assert data["output"] is None
    assert data["links"]["output"] == "/api/v1/jobs/j1"


async def test_a_delivery_of_a_sender_that_died_is_sent_by_another_when_its_lease_ends(
    receiver: Receiver, outbox: Outbox, redis: Redis, settings: Settings
) -> None:
    await outbox.end_job("j1", receiver.url)
    store = DeliveryStore(redis, ttl_seconds=600)
    (taken,), _ = await store.claim("dead", lease_seconds=1, limit=10)
    assert taken.id == delivery_id("j1")
    with sending(settings, "w2"):
        delivery = await outbox.after("j1", 1)
    assert delivery["status"] == "delivered"
    assert [request.headers["webhook-id"] for request in receiver.requests] == [delivery_id("j1")]


async def test_a_sender_that_stops_hands_back_what_it_could_not_finish(
    receiver: Receiver, outbox: Outbox, settings: Settings
) -> None:
    receiver.reply(Reply(delay=30))
    with sending(settings.model_copy(update={"webhook_timeout_seconds": 60.0}), "w1") as stopping:
        await outbox.end_job("j1", receiver.url)
        receiver.wait_for(1)
        assert stopping.stop(1.5)
    began = time.monotonic()
    with sending(settings, "w2"):
        delivery = await outbox.after("j1", 1)
    assert time.monotonic() - began < 5, "long before the lease of ten seconds ends"
    assert delivery["status"] == "delivered"
    assert [attempt["status_code"] for attempt in delivery["attempts"]] == [204]


async def test_two_senders_send_each_delivery_once(
    receiver: Receiver, outbox: Outbox, sender: WebhookSender, settings: Settings
) -> None:
    jobs = [f"j{number}" for number in range(60)]
    with sending(settings, "w2"):
        await outbox.end_jobs(dict.fromkeys(jobs, receiver.url))
        for job_id in jobs:
            await outbox.after(job_id, 1)
    ids = [request.headers["webhook-id"] for request in receiver.requests]
    assert sorted(ids) == sorted(delivery_id(job_id) for job_id in jobs)


async def test_a_sender_lives_through_an_outage_of_redis(receiver: Receiver, tmp_path: Path) -> None:
    valkey = Valkey(tmp_path)
    redis = connect(valkey.url)
    outbox = Outbox(redis)
    try:
        with sending(settings_for(valkey.url)) as sender:
            await outbox.end_job("before", receiver.url)
            await outbox.after("before", 1)
            valkey.kill()
            await asyncio.sleep(1.2)  # longer than a poll, so that the sender meets the outage
            assert sender.alive
            valkey.restart()
            await outbox.end_job("after", receiver.url)
            assert (await outbox.after("after", 1))["status"] == "delivered"
        ids = [request.headers["webhook-id"] for request in receiver.requests]
        assert ids == [delivery_id("before"), delivery_id("after")]
    finally:
        await redis.aclose()
        valkey.stop()


async def test_an_attempt_made_while_redis_is_away_is_recorded_when_it_comes_back(
    receiver: Receiver, tmp_path: Path
) -> None:
    valkey = Valkey(tmp_path)
    redis = connect(valkey.url)
    outbox = Outbox(redis)
    try:
        with sending(settings_for(valkey.url)):
            receiver.reply(Reply(500, body=b"told to nobody", delay=0.5))
            await outbox.end_job("j1", receiver.url)
            receiver.wait_for(1)
            valkey.kill()
            await asyncio.sleep(1)  # the answer comes meanwhile
            valkey.restart()
            delivery = await outbox.after("j1", 1)
        assert (delivery["status"], delivery["attempts"][0]["body"]) == ("pending", "told to nobody")
        assert len(receiver.requests) == 1
    finally:
        await redis.aclose()
        valkey.stop()


async def test_a_sender_that_starts_before_redis_begins_when_redis_comes(receiver: Receiver, tmp_path: Path) -> None:
    valkey = Valkey(tmp_path)
    valkey.kill()
    redis = connect(valkey.url)
    outbox = Outbox(redis)
    try:
        with sending(settings_for(valkey.url)) as sender:
            await asyncio.sleep(0.5)
            assert sender.alive
            valkey.restart()
            await outbox.end_job("j1", receiver.url)
            assert (await outbox.after("j1", 1))["status"] == "delivered"
    finally:
        await redis.aclose()
        valkey.stop()
