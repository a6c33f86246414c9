"""What clients do: jobs that end, endpoints that change, deliveries that are sent again; and time that passes."""

from __future__ import annotations

from random import Random

from hypothesis.stateful import precondition, rule

from tests.delivery_life.machine import RANDOM, TENANTS, URLS, Machine, expect
from tests.delivery_life.model import DAY_MS, PING
from tests.delivery_life.parts import Endpoint

STATUSES = ["succeeded", "succeeded", "failed", "failed", "cancelled", "interrupted", "interrupted"]
EVENTS = [
    None,
    None,
    None,
    None,
    ["job.succeeded"],
    ["job.failed", "job.interrupted"],
    ["job.cancelled", "job.succeeded"],
]
GRAPH = "delivered"


class Clients(Machine):
    """Rounds end, endpoints come, change and go, deliveries are sent again and forgotten."""

    @precondition(lambda self: self.pending() < 12)
    @rule(random=RANDOM)
    def end_jobs(self, random: Random) -> None:
        for _ in range(random.choice([1, 2, 3])):
            self.end_job(random, random.choice(URLS[:2] + URLS))
            self.check()

    @precondition(lambda self: self.pending() < 12)
    @rule(random=RANDOM)
    def end_jobs_of_one_url(self, random: Random) -> None:
        url = random.choice(URLS)
        for _ in range(random.choice([2, 4, 7])):
            self.end_job(random, url)
            self.check()

    def pending(self) -> int:
        return sum(one.status == "pending" for one in self.model.deliveries.values())

    def end_job(self, random: Random, url: str, tenant: str = "") -> None:
        self.pass_time(1)
        tenant = tenant or random.choice(TENANTS)
        job_id = f"job{999 - self.number()}"  # the order of names is not the order of arrival
        fields = {"webhook_url": url} if random.random() < 0.8 else {}
        if fields and random.random() < 0.3:
            fields["webhook_secret"] = "its own"
        if fields and random.random() < 0.3:
            fields["webhook_events"] = ",".join(random.choice(EVENTS) or ["job.failed"])
        self.run(self.queue.submit(job_id, tenant=tenant, graph=GRAPH, fields=fields))
        self.model.now += 1  # a submit is a millisecond after the one before
        self.end_round(f"{tenant}:{job_id}", 1, random.choice(STATUSES), fields)

    @precondition(lambda self: any(status in {"failed", "interrupted"} for _, status, _ in self.jobs.values()))
    @rule(random=RANDOM)
    def end_another_round(self, random: Random) -> None:
        refs = sorted(ref for ref, (_, status, _) in self.jobs.items() if status in {"failed", "interrupted"})
        ref = random.choice(refs)
        tenant, _, job_id = ref.partition(":")
        number, status, fields = self.jobs[ref]
        if status == "failed":
            self.run(self.queue.store.retry(tenant, job_id))
        else:
            self.run(self.queue.store.resume(tenant, job_id, b"1"))
        self.end_round(ref, number + 1, random.choice(STATUSES), fields)

    def end_round(self, ref: str, number: int, status: str, fields: dict[str, str]) -> None:
        tenant, _, job_id = ref.partition(":")
        output = "" if status in {"cancelled", "interrupted"} else f'"{job_id} {number}"'
        if status == "cancelled":
            self.run(self.queue.store.cancel(tenant, job_id))
        else:
            job = self.run(self.queue.take(graphs=[GRAPH]))
            self.run(self.queue.finish("w1", job, status, output=output.encode()))
        self.jobs[ref] = (number, status, fields)
        deliveries = len(self.model.deliveries)
        self.model.end(ref, number, status, fields, output)
        if len(self.model.deliveries) > deliveries:
            self.expect_a_token("a new delivery")

    def end_all(self) -> None:
        for ref, (number, status, fields) in self.jobs.items():
            if status == "interrupted":
                self.end_round(ref, number + 1, "cancelled", fields)

    # Deliveries

    @precondition(lambda self: self.model.deliveries)
    @rule(random=RANDOM)
    def redeliver(self, random: Random) -> None:
        at_rest = [dref for dref, one in self.model.deliveries.items() if one.status != "pending"]
        for dref in random.sample(at_rest, min(len(at_rest), 2)) or [random.choice(list(self.model.deliveries))]:
            self.redeliver_one(random, dref)
            self.check()

    @precondition(lambda self: self.model.deliveries)
    @rule(random=RANDOM)
    def redeliver_any(self, random: Random) -> None:
        self.redeliver_one(random, random.choice([*self.model.deliveries, "acme:nosuch"]))

    def redeliver_one(self, random: Random, dref: str) -> None:
        tenant, _, delivery_id = dref.partition(":")
        outcome = self.model.redeliver(dref)
        expect("a redeliver is told what it did", self.run(self.queue.log.redeliver(tenant, delivery_id)), outcome)
        if outcome == "queued":
            self.expect_a_token("a delivery that is sent again")
        self.again(random, "a redeliver", lambda: self.queue.log.redeliver(tenant, delivery_id), outcome)

    @rule(random=RANDOM)
    def time_passes(self, random: Random) -> None:
        """Mostly to where something happens, or to just before."""
        if random.random() < 0.25:
            self.pass_time(random.choice([1_000, 60_000, DAY_MS, 2 * DAY_MS + 1]))
            return
        times = [time for one in self.model.deliveries.values() for time in (one.due, one.lease)]
        times += [host.paused_until for host in self.model.hosts.values()]
        times += [endpoint.old_until for endpoint in self.model.endpoints.values()]
        self.pass_time_until(random, times)

    @rule(random=RANDOM)
    def expire(self, random: Random) -> None:
        times = [one.kept_until for one in self.model.deliveries.values()]
        self.pass_time_until(random, times + [one.kept_until for one in self.model.addresses.values()])
        self.expire_now()

    def expire_now(self) -> None:
        _, *found = self.run(self.queue.store.expire())
        expect("exactly what has been kept for long enough is forgotten", tuple(found), self.model.forget())
        for ref in [ref for ref in self.jobs if ref not in self.read().jobs]:
            del self.jobs[ref]

    # Endpoints

    def of_tenant(self, tenant: str) -> list[str]:
        return [name for name in self.model.endpoints if name.startswith(f"{tenant}:")]

    @precondition(lambda self: any(len(self.of_tenant(tenant)) < 2 for tenant in TENANTS))
    @rule(random=RANDOM)
    def create_endpoint(self, random: Random) -> None:
        tenant, name = random.choice([one for one in TENANTS if len(self.of_tenant(one)) < 2]), f"e{self.number()}"
        url, events, secret = random.choice(URLS), random.choice(EVENTS), f"secret {self.number()}"

        def create() -> object:
            return self.queue.endpoints.create(tenant, name, url=url, events=events, description=None, secret=secret)

        expect("an endpoint is created", self.run(create()), "saved")
        kept = Endpoint(
            url=url, events=",".join(events or ["*"]), secret=secret,
            secret_changed_at=self.model.now, created_at=self.model.now,
        )  # fmt: skip
        self.model.endpoints[f"{tenant}:{name}"] = kept
        self.pass_time(1)
        self.again(random, "a create", create, "saved")

    @precondition(lambda self: self.model.endpoints)
    @rule(random=RANDOM)
    def change_endpoint(self, random: Random) -> None:
        name = random.choice(list(self.model.endpoints))
        if random.random() < 0.6:
            self.change_url(random, name)
            return
        events = random.choice(EVENTS)
        self.model.endpoints[name].events = ",".join(events or ["*"])
        self.change(random, name, {"events": events})
        self.end_job(random, random.choice(URLS), name.partition(":")[0])

    def change_url(self, random: Random, name: str) -> None:
        url = random.choice(URLS)
        self.model.move(name, url)
        self.change(random, name, {"url": url})

    def change(self, random: Random, name: str, fields: dict[str, object]) -> None:
        tenant, _, endpoint_id = name.partition(":")
        expect("a change", self.run(self.queue.endpoints.change(tenant, endpoint_id, fields)), "saved")
        self.again(random, "a change", lambda: self.queue.endpoints.change(tenant, endpoint_id, fields), "saved")

    @precondition(lambda self: self.model.endpoints)
    @rule(random=RANDOM)
    def rotate(self, random: Random) -> None:
        name, secret = random.choice(list(self.model.endpoints)), f"secret {self.number()}"
        tenant, _, endpoint_id = name.partition(":")
        self.model.rotate(name, secret)
        expect("a rotation", self.run(self.queue.endpoints.rotate(tenant, endpoint_id, secret)), "saved")
        self.again(random, "a rotation", lambda: self.queue.endpoints.rotate(tenant, endpoint_id, secret), "saved")

    @precondition(lambda self: self.model.endpoints)
    @rule(random=RANDOM)
    def drop(self, random: Random) -> None:
        self.drop_one(random, random.choice(list(self.model.endpoints)))

    def drop_one(self, random: Random, name: str) -> None:
        tenant, _, endpoint_id = name.partition(":")
        expect("an endpoint is dropped", self.run(self.queue.endpoints.drop(tenant, endpoint_id)), True)
        del self.model.endpoints[name]
        self.again(random, "a drop", lambda: self.queue.endpoints.drop(tenant, endpoint_id), False)
        expect("what is gone cannot change", self.run(self.queue.endpoints.rotate(tenant, endpoint_id, "s")), "missing")
        expect("what is gone has no switch", self.run(self.queue.endpoints.switch(tenant, endpoint_id, True)), False)

    @precondition(lambda self: self.model.endpoints)
    @rule(random=RANDOM)
    def switch(self, random: Random) -> None:
        self.switch_one(random, random.choice(list(self.model.endpoints)))

    def switch_one(self, random: Random, name: str) -> None:
        tenant, _, endpoint_id = name.partition(":")
        on = random.random() < (0.6 if self.model.endpoints[name].disabled_at else 0.2)
        self.model.switch(name, on)
        expect("a switch", self.run(self.queue.endpoints.switch(tenant, endpoint_id, on)), True)
        self.again(random, "a switch", lambda: self.queue.endpoints.switch(tenant, endpoint_id, on), True)

    @precondition(lambda self: self.model.addresses)
    @rule(random=RANDOM)
    def enable_address(self, random: Random) -> None:
        name = random.choice(list(self.model.addresses))
        address, tenant = self.model.addresses[name], name.partition(":")[0]
        found = self.run(self.queue.endpoints.enable_address(tenant, address.url))
        expect("only a URL that is disabled is enabled", found, bool(address.disabled_at))
        if found:
            del self.model.addresses[name]

    @precondition(lambda self: self.model.endpoints)
    @rule(random=RANDOM)
    def ping(self, random: Random) -> None:
        self.ping_one(random, random.choice(list(self.model.endpoints)))

    def ping_one(self, random: Random, name: str) -> None:
        delivery_id, body = f"ping_{self.number()}", "a ping"
        tenant, _, endpoint_id = name.partition(":")

        def ping() -> object:
            return self.queue.endpoints.ping(tenant, endpoint_id, delivery_id, body.encode())

        expect("a ping is sent", self.run(ping()), True)
        self.model.add(f"{tenant}:{delivery_id}", endpoint_id, PING, self.model.endpoints[name].url, body=body)
        self.expect_a_token("a ping")
        self.pass_time(1)
        self.again(random, "a ping", ping, True)
