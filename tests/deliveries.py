"""Webhook deliveries as tests make and watch them: jobs that end on a real store, senders, and what is on record."""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import orjson
from redis.asyncio import Redis

from shared.addresses import parse_url
from shared.settings import Network, Settings, load_settings
from shared.signing import seal
from shared.store import DeliveryLog, EndpointStore, JobStore, NewJob
from shared.store.keys import key
from tests.servers import SECRET_KEY
from worker.delivery_answer import Answer
from worker.delivery_http import DeliveryClient
from worker.webhooks import WebhookSender, sender_from_settings

TENANT = "acme"
LOOPBACK: list[Network] = [ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128")]


async def post(
    url: str, *, within: float = 5, allow: Sequence[Network] = LOOPBACK, tls: ssl.SSLContext | None = None
) -> Answer:
    """One try, without a store."""
    async with DeliveryClient(allow, timeout_seconds=within, ssl_context=tls) as client:
        return await client.post(url, {"webhook-id": "m1"}, b'{"hello":"world"}')


def settings_for(redis_url: str, **changes: Any) -> Settings:
    """What a worker that sends to loopback is told."""
    settings = {"webhook_allow_networks": "127.0.0.0/8", "webhook_timeout_seconds": 2, **changes}
    return load_settings(redis_url=redis_url, secret_key=SECRET_KEY, **settings)


@contextmanager
def sending(settings: Settings, worker_id: str = "w1") -> Iterator[WebhookSender]:
    """A sender that is stopped at the end."""
    sender = sender_from_settings(settings, worker_id)
    sender.start()
    try:
        yield sender
    finally:
        stopped = sender.stop(5)
    assert stopped


def delivery_id(job_id: str) -> str:
    """The delivery to the job's own URL, of its first round."""
    return f"{job_id}_1_succeeded"


class Outbox:
    """Ends jobs as a worker does, and reads their deliveries as a client does: each job has one."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis
        self.log = DeliveryLog(redis)

    async def end_job(self, job_id: str, url: str, *, output: bytes = b'{"answer":42}', **fields: str) -> None:
        """Submit a job with this webhook, and let it succeed."""
        await self.end_jobs({job_id: url}, output=output, **fields)

    async def add_endpoint(self, endpoint_id: str, url: str) -> None:
        """Register an endpoint for all events."""
        secret = seal(SECRET_KEY, "whsec_" + "A" * 44)
        created = await EndpointStore(self.redis).create(
            TENANT, endpoint_id, url=url, events=None, description=None, secret=secret
        )
        assert created == "saved"

    async def end_jobs(self, urls: Mapping[str, str | None], *, output: bytes = b"42", **fields: str) -> None:
        """Submit jobs with these webhooks, or none, and let them succeed, about in this order."""
        jobs = JobStore(self.redis, result_ttl_seconds=600)
        for batch in _batches(list(urls.items())):
            await jobs.submit_many(
                [
                    NewJob(TENANT, job_id, "echo", b"{}", 3, fields={"webhook_url": url, **fields} if url else {})
                    for job_id, url in batch
                ]
            )
            claim = await jobs.claim(
                "ender", lease_seconds=10, limit=len(batch), max_bytes=1_000_000, recover=False,
                queues=["default"], graphs=["echo"],
            )  # fmt: skip
            ended = await asyncio.gather(*(jobs.finish("ender", job, "succeeded", output=output) for job in claim.jobs))
            assert ended == ["done"] * len(batch)

    async def delivery(self, job_id: str) -> dict[str, Any]:
        """The document of this job's delivery, as it goes over HTTP."""
        (document,) = await self.log.of_job(TENANT, job_id)
        return orjson.loads(orjson.dumps(document))  # type: ignore[no-any-return]

    async def after(self, job_id: str, attempts: int, within: float = 10) -> dict[str, Any]:
        """The delivery, once it has had so many attempts."""
        deadline = time.monotonic() + within
        while len((document := await self.delivery(job_id))["attempts"]) < attempts:
            assert time.monotonic() < deadline, f"no {attempts} attempts within {within} s: {document}"
            await asyncio.sleep(0.01)
        return document

    async def resting(self, job_id: str, within: float = 10) -> dict[str, Any]:
        """The delivery, once it is no longer pending."""
        deadline = time.monotonic() + within
        while (document := await self.delivery(job_id))["status"] == "pending":
            assert time.monotonic() < deadline, f"pending for {within} s: {document}"
            await asyncio.sleep(0.01)
        return document

    async def make_due(self, job_id: str) -> None:
        """As if the time of the next try had come, and that of its host."""
        name = f"{TENANT}:{delivery_id(job_id)}"
        host = parse_url((await self.delivery(job_id))["url"]).origin
        await self.redis.zadd(key("host_line", host), {name: 0}, xx=True)
        await self.redis.zadd(key("hosts"), {host: 0}, xx=True)
        await self.redis.rpush(key("deliveries_wake"), "1")  # type: ignore[misc]


def _batches(items: list[tuple[str, str | None]]) -> list[list[tuple[str, str | None]]]:
    return [items[start : start + 20] for start in range(0, len(items), 20)]


def seconds_until(moment: str) -> float:
    """From now to this RFC 3339 time."""
    return (datetime.fromisoformat(moment) - datetime.now(UTC)).total_seconds()
