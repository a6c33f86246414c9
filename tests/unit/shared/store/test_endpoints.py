"""Endpoints: what a tenant registers is sent what it asked for, signed with the secrets that are valid."""

from __future__ import annotations

from typing import Any

import pytest
from redis import Redis as SyncRedis

from shared.jobs import WebhookEvent
from shared.store.endpoints import MAX_ENDPOINTS
from shared.store.keys import key
from tests.job_queue import TENANT, WEBHOOK, JobQueue
from tests.sent_deliveries import claim, delivery, end_job, finish
from tests.store_audit import audit

URL = "https://one.example/hook"
DAY = 86_400


async def register(queue: JobQueue, name: str = "e1", **options: Any) -> None:
    options = {"url": URL, "events": None, "description": None, "secret": f"sealed {name}", **options}
    assert await queue.endpoints.create(options.pop("tenant", TENANT), name, **options) == "saved"


async def end(queue: JobQueue, job_id: str = "a", status: Any = "succeeded", **options: Any) -> None:
    """End a job that names no webhook of its own."""
    await queue.submit(job_id, **{"graph": "delivered", **options})
    await queue.finish("w1", await queue.take(graphs=["delivered"]), status, output=b"1")


async def test_the_end_of_a_job_goes_to_its_own_url_and_to_each_endpoint(
    queue: JobQueue, sync_redis: SyncRedis
) -> None:
    await register(queue, "e1")
    await register(queue, "e2", url="https://two.example/hook")
    await end_job(queue)
    sent = {one.id: one for one in await claim(queue)}
    assert {name: (one.url, one.secrets) for name, one in sent.items()} == {
        "a_1_succeeded": (WEBHOOK["webhook_url"], ()),
        "a_1_succeeded_e1": (URL, ("sealed e1",)),
        "a_1_succeeded_e2": ("https://two.example/hook", ("sealed e2",)),
    }
    assert all((one.record, one.output) == (sent["a_1_succeeded"].record, b'"output"') for one in sent.values())
    assert [one["endpoint"] for one in await queue.log.of_job(TENANT, "a")] == [None, "e1", "e2"]
    assert audit(sync_redis) == []


@pytest.mark.parametrize("status", ["succeeded", "failed", "cancelled", "interrupted"])
async def test_an_endpoint_is_sent_the_events_that_it_asked_for(queue: JobQueue, status: str) -> None:
    kind: WebhookEvent = f"job.{status}"  # type: ignore[assignment]
    await register(queue, "wants", events=[kind, "job.succeeded"])
    others = [name for name in ("job.failed", "job.cancelled", "job.interrupted") if name != kind]
    await register(queue, "others", events=others)
    await end(queue, "a", status)
    assert [one.id for one in await claim(queue)] == [f"a_1_{status}_wants"]


async def test_a_cancelled_job_tells_the_endpoints_too(queue: JobQueue) -> None:
    await register(queue)
    await queue.submit("a")
    await queue.store.cancel(TENANT, "a")
    assert [one.type for one in await claim(queue)] == ["job.cancelled"]


async def test_endpoints_of_other_tenants_hear_nothing(queue: JobQueue) -> None:
    await register(queue, tenant="another")
    await end(queue)
    assert await claim(queue) == []
    assert await queue.endpoints.of_tenant(TENANT) == []
    assert await queue.endpoints.get(TENANT, "e1") is None
    assert await queue.endpoints.change(TENANT, "e1", {"url": URL}) == "missing"
    assert await queue.endpoints.rotate(TENANT, "e1", "other") == "missing"
    assert not await queue.endpoints.switch(TENANT, "e1", on=False)
    assert not await queue.endpoints.ping(TENANT, "e1", "ping_1_e1", b"{}")
    assert not await queue.endpoints.drop(TENANT, "e1")
    assert await queue.endpoints.get("another", "e1") is not None


async def test_an_endpoint_reads_as_it_was_registered_and_never_with_a_secret(queue: JobQueue) -> None:
    await register(queue, "e1", events=["job.failed", "job.succeeded"], description="ours")
    document = await queue.endpoints.get(TENANT, "e1")
    assert document is not None
    assert {**document, "created_at": None, "secret_changed_at": None} == {
        "id": "e1", "url": URL, "events": ["job.failed", "job.succeeded"], "description": "ours", "created_at": None,
        "secret_changed_at": None, "old_secret_until": None, "failing_since": None, "disabled": None,
    }  # fmt: skip
    await register(queue, "e2")
    assert [one["id"] for one in await queue.endpoints.of_tenant(TENANT)] == ["e1", "e2"]
    assert "sealed" not in str(await queue.endpoints.of_tenant(TENANT))


async def test_only_what_is_given_changes(queue: JobQueue) -> None:
    await register(queue, events=["job.failed"], description="ours")
    assert await queue.endpoints.change(TENANT, "e1", {"events": None}) == "saved"
    document = await queue.endpoints.get(TENANT, "e1")
    assert document is not None
    assert (document["events"], document["description"], document["url"]) == (None, "ours", URL)
    await end(queue)
    (sent,) = await claim(queue)
    assert sent.secrets == ("sealed e1",)


@pytest.mark.parametrize("new", ["https://one.example/elsewhere", "https://new.example/hook"])
async def test_what_waits_goes_to_the_new_url(queue: JobQueue, sync_redis: SyncRedis, new: str) -> None:
    await register(queue)
    await end(queue)
    await finish(queue, "s1", (await claim(queue))[0], "retry", delay_seconds=60, address="ill")
    await queue.endpoints.change(TENANT, "e1", {"url": new})
    queue.pass_time(61)
    sent = await claim(queue) or await claim(queue)
    assert [(one.url, one.host) for one in sent] == [(new, new.rpartition("/")[0] + ":443")]
    assert (await delivery(queue, "a_1_succeeded_e1")).url == new
    assert audit(sync_redis) == []


async def test_a_new_url_does_not_answer_for_the_failures_of_the_old_one(queue: JobQueue) -> None:
    await register(queue)
    for day in range(6):
        await end(queue, f"day{day}")
        if day == 5:
            await queue.endpoints.change(TENANT, "e1", {"url": "https://new.example/hook"})
        claimed = await claim(queue) or await claim(queue)  # once in the old host's line, once in the new one's
        recorded = await finish(queue, "s1", claimed[0], "failed", address="ill")
        assert recorded
        assert recorded.disabled is None
        queue.pass_time(DAY)


async def test_after_a_rotation_both_secrets_sign_for_a_day(queue: JobQueue) -> None:
    await register(queue)
    assert await queue.endpoints.rotate(TENANT, "e1", "sealed new") == "saved"
    document = await queue.endpoints.get(TENANT, "e1")
    assert document is not None
    assert document["old_secret_until"] is not None
    for seconds, secrets in ((DAY - 60, ("sealed new", "sealed e1")), (61, ("sealed new",))):
        queue.pass_time(seconds)
        await end(queue, f"a{seconds}")
        (sent,) = await claim(queue)
        assert sent.secrets == secrets
        await finish(queue, "s1", sent, "delivered")
    document = await queue.endpoints.get(TENANT, "e1")
    assert document is not None
    assert document["old_secret_until"] is None


async def test_of_several_rotations_in_a_day_the_last_two_secrets_are_valid(queue: JobQueue) -> None:
    await register(queue)
    for secret in ("second", "third"):
        await queue.endpoints.rotate(TENANT, "e1", secret)
    await queue.endpoints.rotate(TENANT, "e1", "third")  # sent twice: its reply was lost
    await end(queue)
    assert (await claim(queue))[0].secrets == ("third", "second")


async def test_what_waits_for_a_deleted_endpoint_fails_and_says_why(queue: JobQueue, sync_redis: SyncRedis) -> None:
    await register(queue)
    await end(queue)
    (sending,) = await claim(queue)
    await end(queue, "b")
    assert await queue.endpoints.drop(TENANT, "e1")
    assert not await queue.endpoints.drop(TENANT, "e1")
    assert await claim(queue) == []
    found = await delivery(queue, "b_1_succeeded_e1")
    assert (found.status, found.detail) == ("failed", "its endpoint was deleted")
    assert await finish(queue, "s1", sending, "failed", address="gone")
    assert not sync_redis.exists(key("endpoint", TENANT, "e1"))
    await end(queue, "c")
    assert await queue.log.of_job(TENANT, "c") == []
    assert audit(sync_redis) == []


async def test_a_switched_off_endpoint_holds_what_comes_and_says_who_did_it(queue: JobQueue) -> None:
    await register(queue)
    assert await queue.endpoints.switch(TENANT, "e1", on=False)
    document = await queue.endpoints.get(TENANT, "e1")
    assert document is not None
    assert document["disabled"]["why"] == "by_request"
    await end(queue)
    assert await claim(queue) == []
    assert (await delivery(queue, "a_1_succeeded_e1")).status == "held"


async def test_a_ping_goes_out_also_while_the_endpoint_is_disabled(queue: JobQueue, sync_redis: SyncRedis) -> None:
    await register(queue)
    await queue.endpoints.switch(TENANT, "e1", on=False)
    for _ in range(2):  # sent twice: its reply was lost
        assert await queue.endpoints.ping(TENANT, "e1", "ping_1_e1", b'{"type":"webhook.ping"}')
    (sent,) = await claim(queue)
    assert (sent.type, sent.body, sent.job_id, sent.secrets) == (
        "webhook.ping", b'{"type":"webhook.ping"}', "", ("sealed e1",),
    )  # fmt: skip
    assert await finish(queue, "s1", sent, "delivered", address="well")
    document = await queue.endpoints.get(TENANT, "e1")
    assert document is not None
    assert document["disabled"] is not None
    assert audit(sync_redis) == []


async def test_pings_that_fail_disable_nothing(queue: JobQueue) -> None:
    await register(queue)
    await queue.endpoints.ping(TENANT, "e1", "ping_1_e1", b"{}")
    recorded = await finish(queue, "s1", (await claim(queue))[0], "failed", address="gone")
    assert recorded
    assert recorded.disabled is None


async def test_a_tenant_has_a_limited_number_of_endpoints(queue: JobQueue) -> None:
    for number in range(MAX_ENDPOINTS):
        await register(queue, f"e{number}")
    options: Any = {"url": URL, "events": None, "description": None, "secret": "s"}
    assert await queue.endpoints.create(TENANT, "one more", **options) == "too_many"
    assert await queue.endpoints.create(TENANT, "e1", **options) == "saved"  # sent twice: its reply was lost
    assert await queue.endpoints.create("another", "e1", **options) == "saved"
    await end(queue)
    assert len(await claim(queue, limit=100)) == 16  # all on one host
