"""Finish, append and release: what an attempt writes, and the one end of a round."""

from __future__ import annotations

import json

import pytest
from redis import Redis as SyncRedis

from shared.store.keys import key
from tests.job_queue import TENANT, WEBHOOK, JobQueue

THIN_BYTES = 262_144


def events_of(redis: SyncRedis, job_id: str) -> list[dict[str, object]]:
    return [json.loads(event) for event in redis.lrange(key("events", f"{TENANT}:{job_id}"), 0, -1)]


@pytest.mark.parametrize("status", ["succeeded", "failed", "cancelled"])
async def test_a_finished_job_has_its_status_output_and_fields(queue: JobQueue, status: str) -> None:
    await queue.submit("a")
    job = await queue.take()
    fields = {"usage": b'{"qwen":{"total_tokens":3}}', "error": b'{"code":"c"}'}
    assert await queue.finish("w1", job, status, output=b'{"n":1}', fields=fields) == "done"
    stored = await queue.store.get(TENANT, "a")
    assert stored is not None
    assert (stored.status, stored.output) == (status, b'{"n":1}')
    assert {name: stored.record[name.encode()] for name in fields} == fields
    assert stored.record[b"finished_at"] >= stored.record[b"started_at"]


async def test_a_second_finish_of_the_same_attempt_is_told_so_and_changes_nothing(queue: JobQueue) -> None:
    await queue.submit("a", fields=WEBHOOK)
    job = await queue.take()
    assert await queue.finish("w1", job, output=b"1") == "done"
    before = await queue.record("a")
    assert await queue.finish("w1", job, "failed", output=b"2") == "already"
    assert await queue.store.release("w1", job, "hand_back") == "already"
    assert await queue.record("a") == before
    assert await queue.delivery_types("a") == ["job.succeeded"]


async def test_a_finish_by_another_attempt_is_gone(queue: JobQueue) -> None:
    await queue.submit("a")
    job = await queue.take("w1")
    assert await queue.finish("w2", job) == "gone"
    await queue.finish("w1", job)
    assert await queue.finish("w2", job) == "gone"
    await queue.store.erase(TENANT, "a")
    assert await queue.finish("w1", job) == "gone"


async def test_the_error_of_an_earlier_try_does_not_stand_beside_a_success(queue: JobQueue) -> None:
    await queue.submit("a")
    await queue.store.release("w1", await queue.take(), "backoff", error=b'{"code":"rate_limited"}')
    assert (await queue.record("a"))["error"] == '{"code":"rate_limited"}'
    await queue.finish("w1", await queue.take())
    assert "error" not in await queue.record("a")


async def test_an_interrupted_job_waits_for_a_person_and_keeps_its_thread(
    queue: JobQueue, sync_redis: SyncRedis
) -> None:
    await queue.submit("a", thread_id="t", fields=WEBHOOK)
    await queue.submit("b", thread_id="t")
    job = await queue.take()
    assert await queue.finish("w1", job, "interrupted", fields={"interrupts": b'[{"value":"?"}]'}) == "done"
    record = await queue.record("a")
    assert (record["status"], record["interrupts"]) == ("interrupted", '[{"value":"?"}]')
    assert await queue.claim_ids() == []
    assert await queue.delivery_types("a") == ["job.interrupted"]
    assert await queue.finish("w1", job, "interrupted") == "already"
    assert sync_redis.zcard(key("expiry")) == 0


async def test_an_interrupt_of_a_job_that_is_to_be_cancelled_cancels_it(queue: JobQueue) -> None:
    await queue.submit("a")
    job = await queue.take()
    await queue.store.cancel(TENANT, "a")
    assert await queue.finish("w1", job, "interrupted") == "done"
    assert await queue.status("a") == "cancelled"


async def test_the_first_of_finish_and_cancel_ends_the_round(queue: JobQueue) -> None:
    await queue.submit("a")
    job = await queue.take()
    assert (await queue.store.cancel(TENANT, "a"))[0] == "cancelling"
    assert await queue.finish("w1", job, "succeeded") == "done"
    assert await queue.status("a") == "succeeded"


async def test_events_stay_in_order_and_end_with_the_final_state(queue: JobQueue, sync_redis: SyncRedis) -> None:
    await queue.submit("a")
    job = await queue.take()
    assert await queue.store.append("w1", job, [b'{"n":1}', b'{"n":2}']) is True
    assert await queue.finish("w1", job, events=[b'{"n":3}']) == "done"
    first, *middle, last = events_of(sync_redis, "a")
    assert (first["type"], first["data"], first["attempt"]) == ("status", {"status": "running"}, 1)
    assert middle == [{"n": 1}, {"n": 2}, {"n": 3}]
    assert (last["type"], last["data"], last["round"]) == ("status", {"status": "succeeded"}, 1)
    assert await queue.store.append("w1", job, [b"{}"]) is False


# The delivery


async def test_a_final_state_and_its_delivery_come_in_one_step(queue: JobQueue) -> None:
    await queue.submit("a", fields={**WEBHOOK, "webhook_secret": "whsec_x"})
    await queue.finish("w1", await queue.take(), output=b'{"n":1}')
    (delivery,), _ = await queue.deliveries.claim("w1", lease_seconds=10, limit=10)
    assert (delivery.id, delivery.job_id, delivery.tenant) == ("a_1_succeeded", "a", TENANT)
    assert (delivery.type, delivery.url, delivery.secrets) == ("job.succeeded", WEBHOOK["webhook_url"], ("whsec_x",))
    assert (delivery.output, delivery.output_too_large, delivery.body) == (b'{"n":1}', False, None)
    assert delivery.record == (await queue.store.get(TENANT, "a")).record


async def test_a_job_without_a_webhook_has_no_delivery(queue: JobQueue) -> None:
    await queue.submit("a")
    await queue.finish("w1", await queue.take())
    assert await queue.deliveries.claim("w1", lease_seconds=10, limit=10) == ([], None)


@pytest.mark.parametrize(
    ("events", "status", "made"),
    [
        ("job.failed,job.cancelled", "succeeded", []),
        ("job.failed,job.cancelled", "cancelled", ["job.cancelled"]),
        ("job.interrupted", "interrupted", ["job.interrupted"]),
        ("job.succeeded", "interrupted", []),
    ],
)
async def test_only_the_events_that_were_asked_for_are_delivered(
    queue: JobQueue, events: str, status: str, made: list[str]
) -> None:
    await queue.submit("a", fields={**WEBHOOK, "webhook_events": events})
    await queue.finish("w1", await queue.take(), status)
    assert await queue.delivery_types("a") == made


@pytest.mark.parametrize("too_large", [False, True])
async def test_a_delivery_carries_an_output_of_up_to_256_kb(queue: JobQueue, too_large: bool) -> None:
    output = b'"' + b"x" * (THIN_BYTES - 2 + too_large) + b'"'
    await queue.submit("a", fields=WEBHOOK)
    await queue.finish("w1", await queue.take(), output=output)
    (delivery,), _ = await queue.deliveries.claim("w1", lease_seconds=10, limit=10)
    assert delivery.output_too_large is too_large
    assert delivery.output == (None if too_large else output)
    stored = await queue.store.get(TENANT, "a")
    assert stored is not None
    assert stored.output == output


async def test_each_round_has_its_own_delivery(queue: JobQueue) -> None:
    await queue.submit("a", fields=WEBHOOK)
    for _ in range(2):
        await queue.finish("w1", await queue.take(), "failed")
        await queue.store.retry(TENANT, "a")
    await queue.finish("w1", await queue.take())
    ids = [delivery["id"] for delivery in await queue.log.of_job(TENANT, "a")]
    assert ids == ["a_1_failed", "a_2_failed", "a_3_succeeded"]


# Release


async def test_a_hand_back_costs_no_try_and_keeps_the_number(queue: JobQueue) -> None:
    await queue.submit("a", max_attempts=1)
    await queue.submit("b")
    for attempt in (1, 2, 3):
        (job,) = (await queue.claim(limit=1)).jobs
        assert (job.id, job.attempt, job.record[b"tries"]) == ("a", attempt, b"1")
        assert await queue.store.release("w1", job, "hand_back") == "queued"
    assert (await queue.record("a"))["tries"] == "0"
    assert await queue.store.release("w1", job, "hand_back") == "already"
    assert await queue.finish("w1", job) == "gone"


async def test_a_backoff_runs_the_job_again_after_its_delay(queue: JobQueue) -> None:
    await queue.submit("a", max_attempts=2)
    job = await queue.take()
    assert await queue.store.release("w1", job, "backoff", delay_seconds=5, error=b'{"code":"e"}') == "queued"
    claim = await queue.claim()
    assert (claim.jobs, claim.next_seconds) == ([], pytest.approx(5, abs=0.5))
    queue.pass_time(5)
    assert (await queue.take()).record[b"tries"] == b"2"


@pytest.mark.parametrize("kind", ["hand_back", "backoff"])
async def test_the_late_end_of_a_released_attempt_is_gone(queue: JobQueue, kind: str) -> None:
    await queue.submit("a")
    old = await queue.take("w1")
    await queue.store.release("w1", old, kind)
    for _ in range(2):  # while nobody runs it, and while another attempt does
        assert await queue.finish("w1", old) == "gone"
        assert await queue.store.append("w1", old, [b"late"]) is False
        assert await queue.store.release("w1", old, kind) == "already"
        jobs = (await queue.claim("w1")).jobs
    assert jobs == []
    assert await queue.status("a") == "running"


async def test_a_backoff_without_a_try_left_fails_with_its_error(queue: JobQueue) -> None:
    await queue.submit("a", max_attempts=1, fields=WEBHOOK)
    job = await queue.take()
    assert await queue.store.release("w1", job, "backoff", delay_seconds=5, error=b'{"code":"e"}') == "failed"
    record = await queue.record("a")
    assert (record["status"], record["error"]) == ("failed", '{"code":"e"}')
    assert await queue.delivery_types("a") == ["job.failed"]


@pytest.mark.parametrize("kind", ["hand_back", "backoff"])
async def test_a_job_that_is_to_be_cancelled_is_not_given_back(queue: JobQueue, kind: str) -> None:
    await queue.submit("a", fields=WEBHOOK)
    job = await queue.take()
    await queue.store.cancel(TENANT, "a")
    assert await queue.store.release("w1", job, kind, delay_seconds=5) == "cancelled"
    assert await queue.status("a") == "cancelled"
    queue.pass_time(60)
    assert await queue.claim_ids() == []
    assert await queue.delivery_types("a") == ["job.cancelled"]


async def test_events_of_a_released_attempt_are_kept(queue: JobQueue, sync_redis: SyncRedis) -> None:
    await queue.submit("a")
    await queue.store.release("w1", await queue.take(), "hand_back", events=[b'{"n":1}'])
    assert [event.get("data", event) for event in events_of(sync_redis, "a")] == [
        {"status": "running"}, {"n": 1}, {"status": "queued"},
    ]  # fmt: skip
