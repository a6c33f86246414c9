"""Submit: where an accepted job stands, and what is answered instead of a second one."""

from __future__ import annotations

import pytest
from redis import Redis as SyncRedis

from shared.store import Submitted
from shared.store.jobs import IDEMPOTENCY_MS
from shared.store.keys import digest, key
from tests.job_queue import GRAPH, RETENTION_SECONDS, TENANT, JobQueue


async def test_an_accepted_job_stands_in_its_lane_by_the_time_it_was_created(queue: JobQueue) -> None:
    accepted = await queue.submit("a", queue="fast")
    assert accepted == Submitted("created", "a", "queued", accepted.created_at_ms)
    assert await queue.redis.zscore(key("lane", "fast", GRAPH, TENANT), "acme:a") == accepted.created_at_ms


async def test_a_step_of_priority_is_a_head_start_of_a_minute(queue: JobQueue) -> None:
    await queue.submit("early")
    queue.pass_time(121)
    await queue.submit("two steps", priority=2)
    await queue.submit("three steps", priority=3)
    assert await queue.claim_ids() == ["three steps", "early", "two steps"]


async def test_a_new_record_holds_what_was_asked_for_and_nothing_of_a_run(queue: JobQueue) -> None:
    accepted = await queue.submit("a", priority=4, max_attempts=7, thread_id="t", fields={"metadata": b'{"n":1}'})
    assert await queue.record("a") == {
        "v": "1", "graph": GRAPH, "status": "queued", "queue": "default", "priority": "4", "metadata": '{"n":1}',
        "created_at": str(accepted.created_at_ms), "rank": str(accepted.created_at_ms - 4 * 60_000),
        "attempt": "0", "tries": "0", "max_attempts": "7", "round": "1", "thread_id": "t", "thread": digest("t"),
    }  # fmt: skip


async def test_a_delayed_job_is_not_claimed_before_it_is_due(queue: JobQueue) -> None:
    await queue.submit("a", delay_ms=60_000)
    claim = await queue.claim()
    assert claim.jobs == []
    assert claim.next_seconds == pytest.approx(60, abs=1)
    queue.pass_time(60)
    assert await queue.claim_ids() == ["a"]


async def test_run_at_is_the_time_a_job_becomes_due(queue: JobQueue) -> None:
    now = (await queue.submit("now")).created_at_ms
    await queue.submit("later", run_at_ms=now + 30_000)
    await queue.submit("past", run_at_ms=now - 30_000)
    assert await queue.claim_ids() == ["now", "past"]
    assert (await queue.record("later"))["run_at"] == str(now + 30_000)
    queue.pass_time(30)
    assert await queue.claim_ids(recover=False) == ["later"]


async def test_the_priority_of_a_delayed_job_applies_once_it_is_due(queue: JobQueue) -> None:
    await queue.submit("delayed", delay_ms=5_000, priority=9)
    await queue.submit("ordinary 1")
    await queue.submit("ordinary 2")
    assert await queue.claim_ids(limit=1) == ["ordinary 1"]
    queue.pass_time(5)
    assert await queue.claim_ids() == ["delayed", "ordinary 2"]


async def test_the_same_key_and_request_give_the_same_job(queue: JobQueue) -> None:
    first = await queue.submit("a", idempotency_key="k", fingerprint="f")
    again = await queue.submit("b", idempotency_key="k", fingerprint="f")
    assert (first.outcome, again) == ("created", Submitted("duplicate", "a", "queued", 0))
    assert await queue.record("b") == {}
    await queue.finish("w1", await queue.take())
    assert await queue.submit("c", idempotency_key="k", fingerprint="f") == again


async def test_the_same_key_with_another_request_is_a_conflict(queue: JobQueue) -> None:
    await queue.submit("a", idempotency_key="k", fingerprint="f")
    refused = await queue.submit("b", idempotency_key="k", fingerprint="another")
    assert (refused.outcome, refused.id) == ("conflict", "")
    assert await queue.record("b") == {}


async def test_idempotency_keys_of_two_tenants_do_not_meet(queue: JobQueue) -> None:
    await queue.submit("a", idempotency_key="k", fingerprint="f")
    other = await queue.submit("b", tenant="other", idempotency_key="k", fingerprint="another")
    assert (other.outcome, other.id) == ("created", "b")


async def test_an_idempotency_key_is_kept_for_a_day(queue: JobQueue, sync_redis: SyncRedis) -> None:
    await queue.submit("a", idempotency_key="k", fingerprint="f")
    name = key("idem", TENANT, digest("k"))
    assert IDEMPOTENCY_MS - 60_000 < sync_redis.pttl(name) <= IDEMPOTENCY_MS == 24 * 3600 * 1000
    sync_redis.pexpire(name, 0)
    assert (await queue.submit("b", idempotency_key="k", fingerprint="f")).outcome == "created"


@pytest.mark.parametrize("gone", ["erased", "expired"])
async def test_a_job_that_is_gone_does_not_run_again_under_its_key(queue: JobQueue, gone: str) -> None:
    await queue.submit("a", idempotency_key="k", fingerprint="f")
    await queue.store.cancel(TENANT, "a")
    if gone == "erased":
        await queue.store.erase(TENANT, "a")
    else:
        queue.pass_time(RETENTION_SECONDS + 1)
        await queue.store.expire()
    assert await queue.record("a") == {}
    again = await queue.submit("b", idempotency_key="k", fingerprint="f")
    assert (again.outcome, again.id) == ("duplicate", "a")
    assert await queue.claim_ids() == []


async def test_the_jobs_of_a_request_with_a_key_are_known_by_their_places(queue: JobQueue) -> None:
    batch = [queue.new(name, idempotency_key="k", fingerprint="f", place=place) for place, name in enumerate("ab")]
    await queue.store.submit_many(batch[:1])
    again = [queue.new(name, idempotency_key="k", fingerprint="f", place=place) for place, name in enumerate("cd")]
    answers = await queue.store.submit_many(again)
    assert [(answer.outcome, answer.id) for answer in answers if isinstance(answer, Submitted)] == [
        ("duplicate", "a"), ("created", "d"),
    ]  # fmt: skip
    assert await queue.store.known(TENANT, "k", "f") == {0: "a", 1: "d"}
    assert await queue.store.known(TENANT, "k", "another") == await queue.store.known("other", "k", "f") == {}
    longer = queue.new("e", idempotency_key="k", fingerprint="longer", place=2)
    assert (await queue.store.submit(longer)).outcome == "conflict"


async def test_what_comes_later_of_a_request_does_not_keep_its_key_for_longer(
    queue: JobQueue, sync_redis: SyncRedis
) -> None:
    await queue.submit("a", idempotency_key="k", fingerprint="f")
    name = key("idem", TENANT, digest("k"))
    sync_redis.pexpire(name, 10_000)
    await queue.submit("b", idempotency_key="k", fingerprint="f", place=1)
    assert sync_redis.pttl(name) <= 10_000


async def test_a_submit_whose_reply_was_lost_creates_one_job(queue: JobQueue) -> None:
    first = await queue.submit("a", idempotency_key="k", fingerprint="f", thread_id="t")
    again = await queue.submit("a", idempotency_key="k", fingerprint="f", thread_id="t")
    assert again == first
    job = await queue.take()
    assert (await queue.submit("a")).status == "running"
    assert await queue.claim_ids() == []
    await queue.finish("w1", job)


async def test_a_batch_is_accepted_job_by_job(queue: JobQueue) -> None:
    await queue.submit("known", idempotency_key="k", fingerprint="f")
    answers = await queue.store.submit_many(
        [
            queue.new("a"),
            queue.new("b", idempotency_key="k", fingerprint="another"),
            queue.new("c", idempotency_key="k2"),
            queue.new("d", idempotency_key="k2"),
        ]
    )
    assert [(answer.outcome, answer.id) for answer in answers if isinstance(answer, Submitted)] == [
        ("created", "a"), ("conflict", ""), ("created", "c"), ("duplicate", "c"),
    ]  # fmt: skip


async def test_queue_state_counts_what_is_ready_and_says_how_long_it_has_waited(queue: JobQueue) -> None:
    await queue.submit("a", queue="fast")
    await queue.submit("b", queue="fast", graph="other", tenant="other")
    await queue.submit("delayed", queue="slow", delay_ms=3_600_000)
    depths, oldest = await queue.store.queue_state()
    assert depths == {"fast": 2, "slow": 0}
    assert oldest == {"fast": pytest.approx(0, abs=1), "slow": 0}


async def test_a_delayed_job_waits_from_the_time_it_was_due(queue: JobQueue, sync_redis: SyncRedis) -> None:
    queue.pass_time(-3600)
    await queue.submit("a", delay_ms=3_590_000)
    queue.pass_time(3600)
    await queue.claim(graphs=["another"])
    assert (await queue.store.queue_state())[1] == {"default": pytest.approx(10, abs=1)}
