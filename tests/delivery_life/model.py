"""What must be true of all deliveries, from what was done: the rules of the delivery scripts, written a second time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from shared.store.keys import digest
from tests.delivery_life.clock import START_MS
from tests.delivery_life.parts import (
    HOSTS,
    Address,
    Delivery,
    Endpoint,
    Health,
    Host,
    addresses_of,
    deliveries_of,
    endpoints_of,
    hosts_of,
)
from tests.store_dump import Dump

AT_ONCE = 6  # to one host
TRIES_KEPT = 100
RETENTION_MS = 3_600_000
DAY_MS = 86_400_000
PING = "webhook.ping"
DELETED, DISABLED = "its endpoint was deleted", "its address is disabled"


class Model:
    """All deliveries by dref, and all that they depend on; `now` is the time of all scripts."""

    def __init__(self) -> None:
        self.now = START_MS
        self.deliveries: dict[str, Delivery] = {}
        self.hosts: dict[str, Host] = {}
        self.addresses: dict[str, Address] = {}
        self.endpoints: dict[str, Endpoint] = {}

    def host(self, name: str) -> Host:
        return self.hosts.setdefault(name, Host())

    def health(self, dref: str) -> Health | None:
        """Of the address of a delivery, where it has any."""
        tenant, delivery = dref.partition(":")[0], self.deliveries[dref]
        if delivery.target != "job":
            return self.endpoints.get(f"{tenant}:{delivery.target}")
        return self.addresses.get(f"{tenant}:{digest(delivery.url)}")

    def is_disabled(self, dref: str) -> bool:
        health = self.health(dref)
        return bool(health and health.disabled_at) and self.deliveries[dref].type != PING

    def sending(self, host: str) -> list[str]:
        return [dref for dref, delivery in self.deliveries.items() if delivery.lease and delivery.host == host]

    def room(self, host: str) -> int:
        """How many more may be sent to a host now."""
        state = self.hosts.get(host, Host())
        allowed = 1 if state.silent >= 5 else min(AT_ONCE, state.limit or AT_ONCE)
        return 0 if state.paused_until > self.now else max(0, allowed - len(self.sending(host)))

    def due(self, host: str) -> list[str]:
        """What waits for this host and is due, the longest one first."""
        line = [(d.due, dref) for dref, d in self.deliveries.items() if d.host == host and 0 < d.due <= self.now]
        return [dref for _, dref in sorted(line)]

    # What clients do

    def end(self, ref: str, number: int, status: str, job: dict[str, str], output: str) -> None:
        """A round of a job ends, and each address that wants to know is told."""
        tenant, _, job_id = ref.partition(":")
        kind = f"job.{status}"
        targets = [("job", job["webhook_url"], job.get("webhook_events", "*"))] if "webhook_url" in job else []
        targets += [
            (name.partition(":")[2], endpoint.url, endpoint.events)
            for name, endpoint in self.endpoints.items()
            if name.startswith(f"{tenant}:")
        ]
        for target, url, events in targets:
            if events == "*" or kind in events.split(","):
                name = f"{job_id}_{number}_{status}" + ("" if target == "job" else f"_{target}")
                secret = job.get("webhook_secret", "") if target == "job" else ""
                record = f"{number} {status}"
                self.add(f"{tenant}:{name}", target, kind, url, job=ref, record=record, output=output, secret=secret)

    def add(self, dref: str, target: str, kind: str, url: str, **fields: Any) -> None:
        now = self.now
        times = {"created_at": now, "changed_at": now, "next_at": now, "due": now}
        self.deliveries[dref] = Delivery(target=target, type=kind, url=url, host=HOSTS[url], **times, **fields)

    def redeliver(self, dref: str) -> str:
        delivery = self.deliveries.get(dref)
        if delivery is None:
            return "missing"
        if delivery.lease:
            return "sending"
        if self.is_disabled(dref):
            return "disabled"
        delivery.status, delivery.detail, delivery.step, delivery.kept_until = "pending", "", 0, 0
        delivery.changed_at = delivery.next_at = delivery.due = self.now
        return "queued"

    def move(self, name: str, url: str) -> None:
        """An endpoint has a new URL, of which nothing is known; a disabled one is not switched on by that."""
        endpoint = self.endpoints[name]
        if endpoint.url != url:
            endpoint.failing_since = endpoint.failed_at = 0
        endpoint.url = url

    def rotate(self, name: str, secret: str) -> None:
        endpoint = self.endpoints[name]
        endpoint.old_secret, endpoint.old_until = endpoint.secret, self.now + DAY_MS
        endpoint.secret, endpoint.secret_changed_at = secret, self.now

    def switch(self, name: str, on: bool) -> None:
        endpoint = self.endpoints[name]
        if on:
            endpoint.failing_since = endpoint.failed_at = endpoint.disabled_at = 0
            endpoint.why = ""
        elif not endpoint.disabled_at:
            endpoint.disabled_at, endpoint.why = self.now, "by_request"

    def forget(self) -> tuple[int, int]:
        """What has been kept for long enough is gone. Gives the numbers of deliveries and of addresses."""
        deliveries = [dref for dref, one in self.deliveries.items() if 0 < one.kept_until <= self.now]
        addresses = [name for name, one in self.addresses.items() if one.kept_until <= self.now]
        for dref in deliveries:
            del self.deliveries[dref]
        for name in addresses:
            del self.addresses[name]
        return len(deliveries), len(addresses)

    # What senders do

    def recover(self) -> None:
        """What was leased for too long is due again."""
        for delivery in self.deliveries.values():
            if 0 < delivery.lease <= self.now:
                self.put_back(delivery)

    def put_back(self, delivery: Delivery) -> None:
        delivery.lease, delivery.sender, delivery.due = 0, "", delivery.next_at  # its old place

    def take(self, dref: str, sender: str, lease_ms: int) -> str:
        """It is this one's turn. Gives what becomes of it: 'taken', 'held', 'failed' or 'moved'."""
        delivery, health = self.deliveries[dref], self.health(dref)
        if delivery.target != "job":
            if not isinstance(health, Endpoint):
                self.settle(delivery, "failed", DELETED)
                return "failed"
            old_host, delivery.url, delivery.host = delivery.host, health.url, HOSTS[health.url]
            if delivery.host != old_host:
                delivery.due = delivery.next_at
                return "moved"
        if self.is_disabled(dref):
            if isinstance(health, Address):
                health.kept_until = self.now + 30 * DAY_MS
            self.settle(delivery, "held", DISABLED)
            return "held"
        delivery.due, delivery.lease, delivery.sender = 0, self.now + lease_ms, sender
        delivery.attempt += 1
        return "taken"

    def secrets(self, dref: str) -> tuple[str, ...]:
        """With which it must be signed now, the newest first."""
        health = self.health(dref)
        if isinstance(health, Endpoint):
            return (health.secret, health.old_secret) if health.old_until > self.now else (health.secret,)
        secret = self.deliveries[dref].secret
        return (secret,) if secret else ()

    def settle(self, delivery: Delivery, status: str, detail: str = "") -> None:
        delivery.status, delivery.detail, delivery.changed_at = status, detail, self.now
        delivery.next_at, delivery.due, delivery.kept_until = 0, 0, self.now + RETENTION_MS

    def finish(
        self, dref: str, outcome: str, *, delay_ms: int, body: str, host: str, address: str
    ) -> tuple[float | None, str | None]:
        """A try is over. Gives the seconds to the first success, and why the address is disabled by this."""
        delivery = self.deliveries[dref]
        delivery.tries = min(TRIES_KEPT, delivery.tries + 1)
        delivery.lease, delivery.sender, delivery.detail = 0, "", ""
        if body:
            delivery.body, delivery.record, delivery.output = delivery.body or body, "", ""
        first = None
        if outcome == "retry":
            delivery.step += 1
            delivery.changed_at = self.now
            delivery.next_at = delivery.due = self.now + delay_ms
        else:
            self.settle(delivery, outcome)
            if outcome == "delivered" and not delivery.succeeded:
                delivery.succeeded, first = True, (self.now - delivery.created_at) / 1000
        self.hear(self.host(delivery.host), host)
        return first, self.judge(dref, address)

    def hear(self, host: Host, answer: str) -> None:
        """What a try says of the host."""
        if answer == "silent":
            host.silent += 1
            if host.silent >= 5 and host.paused_until <= self.now:
                host.pause = min(60_000, 2 * host.pause) if host.pause else 1_000
                host.paused_until = self.now + host.pause
        else:
            host.silent = host.pause = host.paused_until = 0
        if answer == "ok":
            host.limit = 0 if 2 * host.limit >= AT_ONCE else 2 * host.limit
        else:
            host.limit = max(1, (host.limit or AT_ONCE) // 2)

    def judge(self, dref: str, answer: str) -> str | None:
        """What a try says of the address. Gives why that is disabled from now on."""
        delivery, health = self.deliveries[dref], self.health(dref)
        name = f"{dref.partition(':')[0]}:{digest(delivery.url)}"
        if answer == "well" and health:
            health.failing_since = health.failed_at = 0
            if isinstance(health, Address) and not health.disabled_at:
                del self.addresses[name]
        if answer in {"well", "none"} or delivery.type == PING:
            return None
        if delivery.target == "job":
            health = self.addresses.setdefault(name, Address(url=delivery.url))
            health.kept_until = self.now + 30 * DAY_MS
        if health is None:
            return None
        if not health.failing_since or self.now - health.failed_at > 2 * DAY_MS:
            health.failing_since = self.now
        health.failed_at = self.now
        gone = answer == "gone" and delivery.target != "job"
        if health.disabled_at or not (gone or self.now - health.failing_since >= 5 * DAY_MS):
            return None
        health.disabled_at, health.why = self.now, "gone" if gone else "failing"
        return health.why

    # What must be found

    def differences(self, dump: Dump) -> Iterator[str]:
        """A sentence for each thing that is not as it must be; each begins with the rule that it breaks."""
        found = deliveries_of(dump)
        for dref in self.deliveries.keys() ^ found.keys():
            yield f"no delivery is lost, and none comes back: {dref} is {self.deliveries.get(dref)}, {found.get(dref)}"
        for dref in self.deliveries.keys() & found.keys():
            if found[dref] != self.deliveries[dref]:
                yield f"a delivery is as each call left it: {dref} is {found[dref]}, not {self.deliveries[dref]}"
        listed: dict[str, list[str]] = {}
        for dref, delivery in self.deliveries.items():
            if delivery.job:
                listed.setdefault(delivery.job, []).append(dref.partition(":")[2])
        in_lists = {ref: sorted(names) for ref, names in dump.lists["deliveries"].items()}
        if in_lists != {ref: sorted(names) for ref, names in listed.items()}:
            yield f"a job lists its deliveries, while they are kept: {in_lists}, not {listed}"
        hosts = {name: host for name, host in self.hosts.items() if host != Host()}
        if hosts_of(dump) != hosts:
            yield f"a host is as its tries said: {hosts_of(dump)}, not {hosts}"
        if addresses_of(dump) != self.addresses:
            yield f"an address is as its tries said: {addresses_of(dump)}, not {self.addresses}"
        if endpoints_of(dump) != self.endpoints:
            yield f"an endpoint is as each call left it: {endpoints_of(dump)}, not {self.endpoints}"
        targets = {(dref.partition(":")[0], delivery.target) for dref, delivery in self.deliveries.items()}
        named = {(tenant, target) for tenant, names in dump.sets["targets"].items() for target in names}
        if named != targets:
            yield f"the targets that have deliveries are known: {named}, not {targets}"
