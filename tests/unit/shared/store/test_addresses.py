"""Addresses: switched off after five days of failures or a 410, and on by a call; what comes meanwhile is kept."""

from __future__ import annotations

import pytest
from redis import Redis as SyncRedis

from tests.job_queue import RETENTION_SECONDS, TENANT, JobQueue
from tests.sent_deliveries import claim, delivery, end_job, finish
from tests.store_audit import audit

URL = "https://gone.example/hook"
ENDPOINT = "e1"
DAY = 86_400


@pytest.fixture(params=["job", "endpoint"])
async def kind(request: pytest.FixtureRequest, queue: JobQueue) -> str:
    """Whether the address is a URL that jobs name, or an endpoint."""
    if request.param == "endpoint":
        await queue.endpoints.create(TENANT, ENDPOINT, url=URL, events=None, description=None, secret="sealed")
    return str(request.param)


async def end(queue: JobQueue, kind: str, job_id: str) -> str:
    """End a job whose end goes to the address. Gives the delivery's id."""
    await end_job(queue, job_id, URL if kind == "job" else "", **({} if kind == "job" else {"fields": {}}))
    return f"{job_id}_1_succeeded" + ("" if kind == "job" else f"_{ENDPOINT}")


async def fail(queue: JobQueue, kind: str, job_id: str, address: str = "ill") -> str | None:
    """Let the first try of a delivery fail for good. Gives why the address was disabled by that."""
    await end(queue, kind, job_id)
    recorded = await finish(queue, "s1", (await claim(queue))[0], "failed", address=address)
    assert recorded is not None
    return recorded.disabled


async def enable(queue: JobQueue, kind: str) -> bool:
    if kind == "job":
        return await queue.endpoints.enable_address(TENANT, URL)
    return await queue.endpoints.switch(TENANT, ENDPOINT, on=True)


async def disabled(queue: JobQueue, kind: str) -> dict[str, str] | None:
    if kind == "job":
        found = await queue.endpoints.disabled_addresses(TENANT)
        return found[0]["disabled"] if found else None
    document = await queue.endpoints.get(TENANT, ENDPOINT)
    assert document is not None
    return document["disabled"]


async def disable(queue: JobQueue, kind: str) -> None:
    if kind == "endpoint":
        assert await fail(queue, kind, "gone", address="gone") == "gone"
    else:
        await fail_for_five_days(queue, kind)


async def fail_for_five_days(queue: JobQueue, kind: str) -> None:
    for day in range(5):
        assert await fail(queue, kind, f"day{day}") is None
        queue.pass_time(DAY)
    assert await fail(queue, kind, "last") == "failing"


async def test_an_address_that_fails_for_five_days_is_disabled(
    queue: JobQueue, sync_redis: SyncRedis, kind: str
) -> None:
    await fail_for_five_days(queue, kind)
    mark = await disabled(queue, kind)
    assert mark is not None
    assert mark["why"] == "failing"
    assert (await queue.log.backlog()).disabled == 1
    assert audit(sync_redis) == []


async def test_a_success_in_between_starts_the_five_days_anew(queue: JobQueue, kind: str) -> None:
    for day in range(9):
        if day == 4:
            await end(queue, kind, "well")
            await finish(queue, "s1", (await claim(queue))[0], "delivered", address="well")
        assert await fail(queue, kind, f"day{day}") is None
        queue.pass_time(DAY)
    assert await fail(queue, kind, "last") == "failing"


async def test_failures_far_apart_are_not_five_days_of_failures(queue: JobQueue, kind: str) -> None:
    for number in range(6):
        assert await fail(queue, kind, f"n{number}") is None
        queue.pass_time(2 * DAY + 60)


async def test_an_answer_that_only_refuses_a_message_is_no_failure_of_the_address(queue: JobQueue, kind: str) -> None:
    for day in range(8):
        assert await fail(queue, kind, f"day{day}", address="none") is None
        queue.pass_time(DAY)


async def test_a_410_disables_an_endpoint_at_once_and_a_url_of_jobs_not_before_its_time(
    queue: JobQueue, kind: str
) -> None:
    endpoint = kind == "endpoint"
    assert await fail(queue, kind, "a", address="gone") == ("gone" if endpoint else None)
    mark = await disabled(queue, kind)
    assert (mark and mark["why"]) == ("gone" if endpoint else None)


async def test_what_comes_meanwhile_is_held_and_can_be_sent_once_the_address_is_enabled(
    queue: JobQueue, sync_redis: SyncRedis, kind: str
) -> None:
    await disable(queue, kind)
    held = [await end(queue, kind, job_id) for job_id in "bc"]
    assert await claim(queue) == []
    for delivery_id in held:
        found = await delivery(queue, delivery_id)
        assert (found.status, found.detail, found.next_attempt_at) == ("held", "its address is disabled", None)
        assert await queue.log.redeliver(TENANT, delivery_id) == "disabled"
    assert audit(sync_redis) == []
    assert await enable(queue, kind)
    assert (await disabled(queue, kind), (await queue.log.backlog()).disabled) == (None, 0)
    assert await claim(queue) == []  # nobody asked for it
    assert await queue.log.redeliver_many(TENANT, held) == ["queued", "queued"]
    sent = await claim(queue)
    assert [one.id for one in sent] == held
    assert all(one.record and one.output for one in sent)
    assert (await delivery(queue, held[0])).detail is None
    assert audit(sync_redis) == []


async def test_what_waited_for_its_next_try_is_held_when_that_is_due(queue: JobQueue, kind: str) -> None:
    delivery_id = await end(queue, kind, "a")
    await finish(queue, "s1", (await claim(queue))[0], "retry", delay_seconds=6 * DAY, address="ill")
    await disable(queue, kind)
    assert (await delivery(queue, delivery_id)).status == "pending"
    queue.pass_time(6 * DAY)
    assert await claim(queue) == []
    assert (await delivery(queue, delivery_id)).status == "held"


async def test_an_enabled_address_has_five_days_again(queue: JobQueue, kind: str) -> None:
    await fail_for_five_days(queue, kind)
    assert await enable(queue, kind)
    assert await fail(queue, kind, "again") is None


async def test_what_is_held_is_kept_for_its_retention(queue: JobQueue, kind: str) -> None:
    await disable(queue, kind)
    delivery_id = await end(queue, kind, "b")
    queue.pass_time(RETENTION_SECONDS - 1)
    await claim(queue)
    queue.pass_time(RETENTION_SECONDS - 1)
    await queue.store.expire()
    assert (await delivery(queue, delivery_id)).status == "held"
    queue.pass_time(2)
    await queue.store.expire()
    assert await queue.log.get(TENANT, delivery_id) is None


async def test_the_tries_of_a_disabled_endpoint_disable_it_once(queue: JobQueue) -> None:
    await queue.endpoints.create(TENANT, ENDPOINT, url=URL, events=None, description=None, secret="sealed")
    first, second = await end(queue, "endpoint", "a"), await end(queue, "endpoint", "b")
    claimed = {one.id: one for one in await claim(queue)}
    outcomes = [await finish(queue, "s1", claimed[name], "failed", address="gone") for name in (first, second)]
    assert [recorded and recorded.disabled for recorded in outcomes] == ["gone", None]


async def test_a_url_is_forgotten_thirty_days_after_its_last_use(queue: JobQueue, sync_redis: SyncRedis) -> None:
    await disable(queue, "job")
    queue.pass_time(20 * DAY)
    await end(queue, "job", "b")
    assert await claim(queue) == []
    queue.pass_time(20 * DAY)
    assert (await queue.store.expire())[2] == 0
    queue.pass_time(11 * DAY)
    assert (await queue.store.expire())[2] == 1
    assert await queue.endpoints.disabled_addresses(TENANT) == []
    assert sync_redis.keys("mas:address*") + sync_redis.keys("mas:disabled") == []


async def test_a_url_that_works_again_leaves_nothing_behind(queue: JobQueue, sync_redis: SyncRedis) -> None:
    await fail(queue, "job", "a")
    assert sync_redis.keys("mas:address:*")
    await end(queue, "job", "b")
    await finish(queue, "s1", (await claim(queue))[0], "delivered", address="well")
    assert sync_redis.keys("mas:address*") == []


async def test_a_url_that_is_not_disabled_cannot_be_enabled(queue: JobQueue) -> None:
    assert not await queue.endpoints.enable_address(TENANT, URL)
    await fail(queue, "job", "a")
    assert not await queue.endpoints.enable_address(TENANT, URL)
    assert not await queue.endpoints.enable_address("another", URL)


async def test_the_urls_of_other_tenants_are_theirs(queue: JobQueue) -> None:
    await disable(queue, "job")
    assert await queue.endpoints.disabled_addresses("another") == []
    assert not await queue.endpoints.enable_address("another", URL)
    await end_job(queue, "b", URL, tenant="another")
    assert [one.tenant for one in await claim(queue)] == ["another"]
