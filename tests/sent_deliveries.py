"""Deliveries as senders handle them, in short calls on a `JobQueue`."""

from __future__ import annotations

from typing import Any

import orjson

from shared.store import ClaimedDelivery, Recorded
from shared.webhooks import Delivery, DeliveryAttempt
from tests.job_queue import TENANT, WEBHOOK, JobQueue

TRY = DeliveryAttempt.model_validate({"at": "2026-01-31T12:00:00Z", "status_code": 503, "duration_ms": 7})


async def end_job(queue: JobQueue, job_id: str = "a", url: str = "", **options: Any) -> None:
    """A job whose end is to be delivered: to `url`, or, where that is None, to the tenant's endpoints only."""
    fields = {"webhook_url": url} if url else WEBHOOK
    await queue.submit(job_id, **{"fields": fields, "graph": "delivered", **options})
    await queue.finish("w1", await queue.take(graphs=["delivered"]), output=b'"output"')


async def claim(queue: JobQueue, sender: str = "s1", limit: int = 10) -> list[ClaimedDelivery]:
    return (await queue.deliveries.claim(sender, lease_seconds=10, limit=limit))[0]


async def finish(
    queue: JobQueue, sender: str, delivery: ClaimedDelivery, outcome: Any, **options: Any
) -> Recorded | None:
    options = {"body": b'{"type":"job.succeeded"}', **options}
    return await queue.deliveries.finish(sender, delivery, outcome=outcome, attempt=TRY, **options)


async def only_delivery(queue: JobQueue, job_id: str = "a") -> Delivery:
    (document,) = await queue.log.of_job(TENANT, job_id)
    return delivery_of(document)


async def delivery(queue: JobQueue, delivery_id: str) -> Delivery:
    document = await queue.log.get(TENANT, delivery_id)
    assert document is not None
    return delivery_of(document)


def delivery_of(document: dict[str, Any]) -> Delivery:
    return Delivery.model_validate_json(orjson.dumps(document))
