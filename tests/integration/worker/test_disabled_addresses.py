"""An address that fails for five days, with a real sender and a real receiver: only the days themselves are made up."""

from __future__ import annotations

import time

import pytest
import structlog

from shared.settings import Settings
from shared.store import DeliveryFilter, DeliveryLog, EndpointStore
from shared.store.keys import digest, key
from tests.deliveries import TENANT, Outbox, sending
from tests.receivers import Receiver, Reply

FIVE_DAYS_MS = 5 * 86_400_000


@pytest.mark.parametrize("kind", ["endpoint", "url of jobs"])
async def test_an_address_that_failed_for_five_days_is_switched_off_and_on_again_and_loses_nothing(
    outbox: Outbox, settings: Settings, kind: str
) -> None:
    endpoints, log = EndpointStore(outbox.redis), DeliveryLog(outbox.redis)
    with Receiver(default=Reply(500)) as receiver, structlog.testing.capture_logs() as lines, sending(settings):
        url = receiver.url if kind == "url of jobs" else None
        address = key("address", TENANT, digest(receiver.url)) if url else key("endpoint", TENANT, "e1")
        if url is None:
            await outbox.add_endpoint("e1", receiver.url)
        await outbox.end_jobs({"first": url})
        await outbox.after("first", 1)
        now = int(time.time() * 1000)
        since = int(await outbox.redis.hget(address, "failing_since") or 0)
        assert now - 20_000 < since <= now + 1000

        # A minute less than five days ago: nothing happens. Five days ago: it is switched off.
        await outbox.redis.hset(address, "failing_since", now - FIVE_DAYS_MS + 60_000)
        await outbox.end_jobs({"second": url})
        await outbox.after("second", 1)
        assert (await log.backlog()).disabled == 0
        await outbox.redis.hset(address, "failing_since", now - FIVE_DAYS_MS)
        await outbox.end_jobs({"third": url})
        await outbox.after("third", 1)
        assert (await log.backlog()).disabled == 1
        (line,) = [line for line in lines if line["event"] == "webhook_address_disabled"]
        assert (line["log_level"], line["why"], line["tenant"]) == ("warning", "failing", TENANT)

        # What comes meanwhile is kept.
        await outbox.end_jobs({"meanwhile": url})
        assert (await outbox.resting("meanwhile"))["status"] == "held"
        assert len(receiver.requests) == 3
        if url:
            (mark,) = await endpoints.disabled_addresses(TENANT)
            assert (mark["url"], mark["disabled"]["why"]) == (url, "failing")
        else:
            document = await endpoints.get(TENANT, "e1")
            assert document is not None
            assert document["disabled"]["why"] == "failing"

        # Switched on, it is sent what was held, and what still waits for its next try.
        receiver.default = Reply(204)
        assert await (endpoints.enable_address(TENANT, url) if url else endpoints.switch(TENANT, "e1", on=True))
        found, _ = await log.page(TENANT, DeliveryFilter(statuses=["held", "pending"]), limit=10)
        assert {document["job_id"] for document in found} == {"first", "second", "third", "meanwhile"}
        assert await log.redeliver_many(TENANT, [document["id"] for document in found]) == ["queued"] * 4
        for job_id in ("first", "second", "third", "meanwhile"):
            assert (await outbox.resting(job_id))["status"] == "delivered"
