"""The log of deliveries: pages by the time of the last change, whatever the filter, and sending again."""

from __future__ import annotations

import itertools

import pytest
from redis import Redis as SyncRedis

from shared.store import BadCursor, DeliveryFilter
from tests.job_queue import RETENTION_SECONDS, TENANT, JobQueue
from tests.sent_deliveries import claim, delivery, end_job, finish
from tests.store_audit import audit


async def read_all(queue: JobQueue, wanted: DeliveryFilter, *, limit: int, oldest_first: bool = False) -> list[str]:
    """The ids of all pages."""
    found: list[str] = []
    cursor = None
    while True:
        page, cursor = await queue.log.page(TENANT, wanted, limit=limit, cursor=cursor, oldest_first=oldest_first)
        assert len(page) <= limit
        found += [document["id"] for document in page]
        if cursor is None:
            return found


async def settle_some(queue: JobQueue) -> dict[str, list[str]]:
    """Deliveries of each status, in the order in which they got there. Gives their ids by status."""
    queue.deliveries.host_concurrency = 100
    for number in range(12):
        await end_job(queue, f"j{number:02}")
    by_status: dict[str, list[str]] = {"delivered": [], "failed": [], "pending": []}
    for number, one in enumerate(await claim(queue, limit=9)):
        queue.pass_time(1)
        outcome = ("delivered", "failed", "retry")[number % 3]
        await finish(queue, "s1", one, outcome, delay_seconds=600)
        by_status["pending" if outcome == "retry" else outcome].append(one.id)
    by_status["pending"] = ["j09_1_succeeded", "j10_1_succeeded", "j11_1_succeeded", *by_status["pending"]]
    return by_status


@pytest.mark.parametrize("limit", [1, 2, 5, 100])
@pytest.mark.parametrize("oldest_first", [False, True])
async def test_the_pages_have_each_delivery_once_in_the_order_of_the_last_change(
    queue: JobQueue, limit: int, oldest_first: bool
) -> None:
    by_status = await settle_some(queue)
    for status, ids in by_status.items():
        found = await read_all(queue, DeliveryFilter(statuses=[status]), limit=limit, oldest_first=oldest_first)
        assert found == (ids if oldest_first else ids[::-1])
    everything = await read_all(queue, DeliveryFilter(), limit=limit, oldest_first=oldest_first)
    assert sorted(everything) == sorted(itertools.chain(*by_status.values()))
    times = [(await delivery(queue, name)).changed_at for name in everything]
    assert times == sorted(times, reverse=not oldest_first)


async def test_since_is_about_the_last_change_and_both_ends_are_exact(queue: JobQueue) -> None:
    failed = (await settle_some(queue))["failed"]
    at = [int((await delivery(queue, name)).changed_at.timestamp() * 1000) for name in failed]
    wanted = DeliveryFilter(statuses=["failed"], since_ms=at[1], until_ms=at[2])
    assert await read_all(queue, wanted, limit=10) == [failed[1]]
    assert await read_all(queue, DeliveryFilter(statuses=["failed"], since_ms=at[1]), limit=10) == failed[:0:-1]
    assert await read_all(queue, DeliveryFilter(since_ms=at[2] + 60_000), limit=10) == []


async def test_a_filter_by_endpoint_and_type(queue: JobQueue) -> None:
    for name in ("e1", "e2"):
        await queue.endpoints.create(
            TENANT, name, url="https://one.example/", events=None, description=None, secret="sealed"
        )
    await end_job(queue)
    await queue.endpoints.ping(TENANT, "e1", "ping_1_e1", b"{}")
    assert sorted(await read_all(queue, DeliveryFilter(endpoint="e1"), limit=1)) == ["a_1_succeeded_e1", "ping_1_e1"]
    assert await read_all(queue, DeliveryFilter(endpoint="e1", types=["webhook.ping"]), limit=1) == ["ping_1_e1"]
    assert await read_all(queue, DeliveryFilter(endpoint="e3"), limit=1) == []
    assert len(await read_all(queue, DeliveryFilter(types=["job.succeeded"]), limit=1)) == 3


async def test_other_tenants_see_nothing(queue: JobQueue) -> None:
    await end_job(queue)
    assert await queue.log.page("another", DeliveryFilter(), limit=10) == ([], None)
    assert await queue.log.get("another", "a_1_succeeded") is None
    assert await queue.log.redeliver("another", "a_1_succeeded") == "missing"


@pytest.mark.parametrize("cursor", ["", "x", "MTIz", "é", "Og", "LTE6YQ"])
async def test_a_cursor_that_no_page_gave_is_refused(queue: JobQueue, cursor: str) -> None:
    if cursor:
        with pytest.raises(BadCursor):
            await queue.log.page(TENANT, DeliveryFilter(), limit=1, cursor=cursor)


async def test_what_was_forgotten_is_in_no_page(queue: JobQueue) -> None:
    await settle_some(queue)
    queue.pass_time(RETENTION_SECONDS + 60)
    await queue.store.expire()
    assert {name[-9:] for name in await read_all(queue, DeliveryFilter(), limit=3)} == {"succeeded"}
    assert await read_all(queue, DeliveryFilter(statuses=["failed", "delivered", "held"]), limit=3) == []


# Sending again


@pytest.mark.parametrize("outcome", ["failed", "delivered", "retry"])
async def test_redeliver_sends_again_now_and_with_a_fresh_schedule(queue: JobQueue, outcome: str) -> None:
    await end_job(queue)
    for _ in range(3):
        await finish(queue, "s1", (await claim(queue))[0], "retry", delay_seconds=0)
    await finish(queue, "s1", (await claim(queue))[0], outcome, delay_seconds=3600)
    assert await queue.log.redeliver(TENANT, "a_1_succeeded") == "queued"
    assert (await delivery(queue, "a_1_succeeded")).status == "pending"
    (again,) = await claim(queue)
    assert (again.step, again.body) == (0, b'{"type":"job.succeeded"}')
    assert await queue.log.redeliver(TENANT, "a_1_succeeded") == "sending"
    await finish(queue, "s1", again, "delivered")
    assert len((await delivery(queue, "a_1_succeeded")).attempts) == 5


async def test_a_redelivered_message_does_not_expire_before_it_is_sent(queue: JobQueue) -> None:
    await end_job(queue)
    await finish(queue, "s1", (await claim(queue))[0], "failed")
    queue.pass_time(RETENTION_SECONDS - 1)
    await queue.log.redeliver(TENANT, "a_1_succeeded")
    queue.pass_time(2)
    assert await queue.store.expire() == (1, 0, 0)
    assert len(await claim(queue)) == 1


@pytest.mark.parametrize("delivery_id", ["a_9_succeeded", "1_succeeded", "", "a", "*"])
async def test_redeliver_of_what_is_not_a_delivery_is_missing(queue: JobQueue, delivery_id: str) -> None:
    await end_job(queue, "a")
    assert await queue.log.redeliver(TENANT, delivery_id) == "missing"


async def test_all_that_failed_can_be_sent_again_in_one_call(queue: JobQueue, sync_redis: SyncRedis) -> None:
    failed = (await settle_some(queue))["failed"]
    assert await queue.log.redeliver_many(TENANT, [*failed, "nosuch"]) == ["queued"] * len(failed) + ["missing"]
    assert audit(sync_redis) == []
    assert set(failed) <= {one.id for one in await claim(queue, limit=100)}


async def test_the_last_hundred_attempts_are_kept(queue: JobQueue) -> None:
    await end_job(queue)
    for _ in range(103):
        await finish(queue, "s1", (await claim(queue))[0], "retry", delay_seconds=0)
    assert len((await delivery(queue, "a_1_succeeded")).attempts) == 100
