"""All that one tenant can own: jobs and deliveries in each status, threads, endpoints, disabled addresses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import fakeredis

from tests.fakes import values_in_memory
from tests.unit.gateway.conftest import Gateway, key_for

QUEUE = "default"
FIVE_DAYS = 5 * 24 * 3600
EVERY_DELIVERY = ["pending", "delivered", "failed", "held"]


@dataclass(frozen=True)
class Estate:
    """What a tenant owns, and its key with all scopes. Whatever it named itself has the tenant's name in it."""

    tenant: str
    key: str
    jobs: Mapping[str, str]  # by status; one more is parked behind its thread
    endpoints: tuple[str, ...]  # one of them is disabled
    deliveries: Mapping[str, str]  # by status
    cursors: Mapping[str, str]  # by list
    everything: frozenset[str]  # the ids of all its jobs, endpoints and deliveries

    @property
    def thread(self) -> str:
        return f"thread of {self.tenant}"

    @property
    def disabled_url(self) -> str:
        return f"https://{self.tenant}.example/off"

    @property
    def idempotency_key(self) -> str:
        return f"key-of-{self.tenant}"

    def named_in(self, text: str) -> list[str]:
        """Whatever of it stands in an answer."""
        return [mark for mark in (self.tenant, *self.everything) if mark in text]


async def make_estates(gateway: Gateway, *tenants: str) -> list[Estate]:
    """All that these tenants can own."""
    keys = {tenant: await key_for(gateway, tenant) for tenant in tenants}
    for tenant, key in keys.items():
        _be(gateway, key)
        await gateway.end_job(webhook={"url": f"https://{tenant}.example/off"})
    for _ in range(7):
        await gateway.sender.send("retry")
        gateway.pass_time(FIVE_DAYS / 6 + 1)
    return [await _estate(gateway, tenant, key) for tenant, key in keys.items()]


async def _estate(gateway: Gateway, tenant: str, key: str) -> Estate:
    _be(gateway, key)
    fields: dict[str, Any] = {"metadata": {"of": tenant}, "webhook": {"url": f"https://{tenant}.example/hook"}}
    on = await gateway.register(url=f"https://{tenant}.example/on", description=f"for {tenant}")
    off = await gateway.register(url=f"https://{tenant}.example/by-hand")
    assert (await gateway.post(f"/webhooks/{off['id']}/disable")).status_code == 200
    jobs = {
        status: await gateway.end_job(status, thread_id=f"{status} of {tenant}", **fields)
        for status in ("succeeded", "failed", "cancelled", "interrupted")
    }
    for delivery, (outcome, code) in zip(
        await gateway.sender.claim(), [("delivered", 204), ("failed", 500), ("retry", 500)] * 9, strict=False
    ):
        await gateway.sender.settle(delivery, outcome, code)
    jobs["running"] = await gateway.submit(thread_id=f"thread of {tenant}", **fields)
    assert (await gateway.worker.claim()).id == jobs["running"]
    await gateway.submit(thread_id=f"thread of {tenant}", **fields)
    body = {"graph": "echo", "input": tenant, "delay_seconds": 3600, **fields}
    accepted = await gateway.post("/jobs", body, Idempotency_Key=f"key-of-{tenant}")
    jobs["queued"] = accepted.json()["id"]
    listed = {name: (await gateway.get(f"/{name}", limit=100)).json()["items"] for name in ("jobs", "deliveries")}
    assert {job["status"] for job in listed["jobs"]} == jobs.keys()
    deliveries = {delivery["status"]: delivery["id"] for delivery in listed["deliveries"]}
    assert sorted(deliveries) == sorted(EVERY_DELIVERY)
    endpoints = (on["id"], off["id"])
    cursors = {name: (await gateway.get(f"/{name}", limit=2)).json()["next_cursor"] for name in listed}
    for name, path in (("retry", "/jobs/retry"), ("redeliver", "/deliveries/redeliver")):
        asked = {"status": ["failed", "cancelled"]} if name == "retry" else {"status": EVERY_DELIVERY}
        cursors[name] = (await gateway.post(path, {**asked, "limit": 1, "dry_run": True})).json()["next_cursor"]
    assert all(cursors.values())
    ids = {one["id"] for items in listed.values() for one in items}
    return Estate(tenant, key, jobs, endpoints, deliveries, cursors, frozenset(ids | {*endpoints}))


def stored_of(server: fakeredis.FakeServer, tenant: str) -> set[str]:
    """Every value in Redis that names this tenant, with its key."""
    found: set[str] = set()
    for name, value in (values_in_memory(fakeredis.FakeRedis(server=server)) or {}).items():
        found |= {f"{name} {part}" for part in _parts(value)}
    return {entry for entry in found if tenant in entry}


def _parts(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return [f"{field!r} {inner!r}" for field, inner in value.items()]
    if isinstance(value, set | list):
        return [repr(member) for member in value]
    return [repr(value)]


def _be(gateway: Gateway, key: str) -> None:
    """Requests that bring no key of their own bring this one."""
    gateway.http.headers["authorization"] = f"Bearer {key}"
