"""The receivers that tenants register, and the URLs of jobs that are disabled. Secrets come and stay sealed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from redis.asyncio import Redis

from shared.addresses import parse_url
from shared.jobs import rfc3339
from shared.store import scripts
from shared.store.connection import Argument, run
from shared.store.errors import store_errors
from shared.store.keys import digest, key

MAX_ENDPOINTS = 50
OLD_SECRET_MS = 24 * 3600 * 1000
Fields = Mapping[bytes, bytes]


class EndpointStore:
    """What clients do to endpoints and addresses. Documents are as `shared.webhooks` has them."""

    def __init__(self, redis: Redis, *, wait_replicas: int = 0, clock_offset_ms: int = 0) -> None:
        self.redis = redis
        self.wait_replicas = wait_replicas
        self.clock_offset_ms = clock_offset_ms

    async def create(
        self, tenant: str, endpoint_id: str, *,
        url: str, events: Sequence[str] | None, description: str | None, secret: str,
    ) -> Literal["saved", "too_many"]:  # fmt: skip
        """Register an endpoint. Raises `AddressRefused` for what is not a URL."""
        fields = {**_fields({"url": url, "events": events, "description": description}), "secret": secret}
        return await self._save(tenant, endpoint_id, fields, most=MAX_ENDPOINTS)  # type: ignore[return-value]

    async def change(self, tenant: str, endpoint_id: str, fields: Mapping[str, Any]) -> Literal["saved", "missing"]:
        """Change `url`, `events` or `description`, those that are given. What waits goes to the new URL."""
        return await self._save(tenant, endpoint_id, _fields(fields))  # type: ignore[return-value]

    async def rotate(self, tenant: str, endpoint_id: str, secret: str) -> Literal["saved", "missing"]:
        """Give the endpoint a new secret; the one before it signs too for a day."""
        return await self._save(tenant, endpoint_id, {"secret": secret})  # type: ignore[return-value]

    async def get(self, tenant: str, endpoint_id: str) -> dict[str, Any] | None:
        """One endpoint, or None."""
        with store_errors():
            fields = await self.redis.hgetall(key("endpoint", tenant, endpoint_id))  # type: ignore[misc]
        return _endpoint(endpoint_id, fields, await self._now_ms()) if fields else None

    async def of_tenant(self, tenant: str) -> list[dict[str, Any]]:
        """All endpoints, oldest first."""
        with store_errors():
            ids = [name.decode() for name in await self.redis.hkeys(key("endpoints", tenant))]  # type: ignore[misc]
            pipeline = self.redis.pipeline(transaction=False)
            for endpoint_id in ids:
                pipeline.hgetall(key("endpoint", tenant, endpoint_id))
            found = await pipeline.execute() if ids else []
        now = await self._now_ms() if ids else 0
        documents = [_endpoint(name, fields, now) for name, fields in zip(ids, found, strict=True) if fields]
        return sorted(documents, key=lambda document: (document["created_at"], document["id"]))

    async def drop(self, tenant: str, endpoint_id: str) -> bool:
        """Delete an endpoint. What waits for it fails when its turn comes. False: there is none."""
        return await self._call(scripts.ENDPOINT_DROP, tenant, endpoint_id)

    async def switch(self, tenant: str, endpoint_id: str, on: bool) -> bool:
        """Let deliveries go to the endpoint, or hold them from now on. False: there is none."""
        return await self._call(scripts.ADDRESS_SWITCH, tenant, endpoint_id, "", "on" if on else "off")

    async def ping(self, tenant: str, endpoint_id: str, delivery_id: str, body: bytes) -> bool:
        """Send a message for trying the endpoint, also while it is disabled. False: there is no such endpoint."""
        return await self._call(scripts.PING, tenant, endpoint_id, delivery_id, body)

    async def disabled_addresses(self, tenant: str) -> list[dict[str, Any]]:
        """The URLs of jobs that are disabled, the longest one first."""
        with store_errors():
            names = [name.decode() for name in await self.redis.zrange(key("disabled"), 0, -1)]
            names = [name for name in names if name.startswith(f"{tenant}:")]
            pipeline = self.redis.pipeline(transaction=False)
            for name in names:
                pipeline.hgetall(key("address", name))
            found = await pipeline.execute() if names else []
        return [{"url": fields[b"url"].decode(), **_health(fields)} for fields in found if b"disabled_at" in fields]

    async def enable_address(self, tenant: str, url: str) -> bool:
        """Let deliveries go to a URL of jobs again. False: it was not disabled."""
        return await self._call(scripts.ADDRESS_SWITCH, tenant, "job", digest(url), "on")

    async def _save(self, tenant: str, endpoint_id: str, fields: Mapping[str, str], most: int | None = None) -> str:
        flat = [part for pair in fields.items() for part in pair]
        answer = await run(
            self.redis, scripts.ENDPOINT_SAVE, self.clock_offset_ms,
            tenant, endpoint_id, "" if most is None else most, OLD_SECRET_MS, *flat, replicas=self.wait_replicas,
        )  # fmt: skip
        return answer.decode()  # type: ignore[no-any-return]

    async def _call(self, script: scripts.Script, *args: Argument) -> bool:
        return int(await run(self.redis, script, self.clock_offset_ms, *args, replicas=self.wait_replicas)) == 1

    async def _now_ms(self) -> int:
        with store_errors():
            seconds, microseconds = await self.redis.time()
        return int(seconds) * 1000 + int(microseconds) // 1000 + self.clock_offset_ms


def _fields(given: Mapping[str, Any]) -> dict[str, str]:
    fields: dict[str, str] = {}
    if "url" in given:
        fields |= {"url": given["url"], "host": parse_url(given["url"]).origin}
    if "events" in given:
        fields["events"] = "*" if given["events"] is None else ",".join(given["events"])
    if "description" in given:
        fields["description"] = given["description"] or ""
    return fields


def _endpoint(endpoint_id: str, fields: Fields, now_ms: int) -> dict[str, Any]:
    events = fields[b"events"].decode()
    old_until = int(fields.get(b"old_until", b"0"))
    return {
        "id": endpoint_id,
        "url": fields[b"url"].decode(),
        "events": None if events == "*" else events.split(","),
        "description": fields.get(b"description", b"").decode() or None,
        "created_at": rfc3339(int(fields[b"created_at"])),
        "secret_changed_at": rfc3339(int(fields[b"secret_changed_at"])),
        "old_secret_until": rfc3339(old_until) if old_until > now_ms else None,
        **_health(fields),
    }


def _health(fields: Fields) -> dict[str, Any]:
    since, disabled_at = fields.get(b"failing_since"), fields.get(b"disabled_at")
    return {
        "failing_since": rfc3339(int(since)) if since else None,
        "disabled": {"at": rfc3339(int(disabled_at)), "why": fields[b"disabled_why"].decode()} if disabled_at else None,
    }
