"""What must hold of webhooks after a run: each check gives a sentence for each thing that is wrong."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from typing import Any

import orjson
from standardwebhooks import Webhook

from shared.signing import default_secret
from shared.store import DeliveryFilter, DeliveryLog, connect
from tests.chaos.traces import TENANT
from tests.counting_receiver import Arrival
from tests.servers import SECRET_KEY

Arrivals = dict[str, list[Arrival]]  # by webhook-id, in order


def records_of(redis_url: str) -> dict[str, dict[str, Any]]:
    """All deliveries as they are on record, by id."""

    async def read() -> dict[str, dict[str, Any]]:
        redis = connect(redis_url, answer_within=30)
        found: dict[str, dict[str, Any]] = {}
        cursor: str | None = None
        while True:
            items, cursor = await DeliveryLog(redis).page(TENANT, DeliveryFilter(), limit=1000, cursor=cursor)
            found |= {item["id"]: orjson.loads(orjson.dumps(item)) for item in items}
            if cursor is None:
                break
        await redis.aclose()
        return found

    return asyncio.run(read())


def wrong_messages(arrivals: Arrivals) -> Iterator[str]:
    """Each request is signed, and all of one id bring the same message, of the job that the id names."""
    webhook = Webhook(default_secret(SECRET_KEY, TENANT))
    for name, found in arrivals.items():
        for arrival in found:
            try:
                webhook.verify(arrival.body, arrival.headers)
            except Exception as error:
                yield f"{name} does not verify: {error!r}"
        if len({arrival.body for arrival in found}) > 1:
            yield f"{name} came with different bodies"
        message = orjson.loads(found[0].body)
        if (message["type"], f"{message['data']['id']}_1_succeeded") != ("job.succeeded", name):
            yield f"{name} says {message['type']} of {message['data']['id']}"


def wrong_records(arrivals: Arrivals, records: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Each delivery is on record as delivered, by its last attempt only, and no attempt that was not received."""
    if set(records) != set(arrivals):
        yield f"on record are {len(records)} deliveries: {sorted(set(records) ^ set(arrivals))[:10]}"
    for name, record in records.items():
        codes = [attempt["status_code"] for attempt in record["attempts"]]
        if record["status"] != "delivered" or codes[-1:] != [204] or 204 in codes[:-1]:
            yield f"{name} is {record['status']} after {codes}"
        received = Counter(arrival.status for arrival in arrivals[name])
        if Counter(code or 0 for code in codes) - received:
            yield f"{name} has attempts {codes} on record, and {dict(received)} were received"
