"""What senders do with the deliveries that they hold, and how they come to hold them."""

from __future__ import annotations

from random import Random
from typing import Any

from hypothesis.stateful import precondition, rule

from shared.store import ClaimedDelivery, KeeperStore, Recorded
from shared.store.keys import key
from tests.delivery_life.machine import RANDOM, SENDERS, Machine, expect
from tests.delivery_life.model import DAY_MS
from tests.delivery_life.parts import Delivery
from tests.sent_deliveries import TRY
from tests.store_dump import Dump

LEASE_MS = 10_000
DELAYS_MS = [0, 5_000, 5_000, 300_000, DAY_MS]
ANSWERS = {  # outcome, host, address
    "well": ("delivered", "ok", "well"),
    "ill": ("retry", "ok", "ill"),
    "busy": ("retry", "busy", "ill"),
    "silent": ("retry", "silent", "ill"),
    "refused by us": ("retry", "ok", "ill"),
    "over": ("failed", "ok", "ill"),
    "silent and over": ("failed", "silent", "ill"),
    "abort": ("failed", "ok", "none"),
    "gone": ("failed", "ok", "gone"),
}


class Senders(Machine):
    """Claim, renew, finish, release."""

    @rule(random=RANDOM)
    def claim(self, random: Random) -> None:
        recover = random.random() < 0.8
        self.claim_for(random.choice(SENDERS), random.choice([0, 1, 1, 2, 3, 10]), recover=recover)

    @precondition(lambda self: any(delivery.due for delivery in self.model.deliveries.values()))
    @rule(random=RANDOM)
    def claim_when_due(self, random: Random) -> None:
        """First a millisecond too early."""
        ahead = [one.due for one in self.model.deliveries.values() if one.due > self.model.now + 1]
        if ahead:
            self.pass_time(random.choice(sorted(ahead)[:2]) - 1 - self.model.now)
            self.claim_for(random.choice(SENDERS), 10)
            self.pass_time(1)
        self.claim_for(random.choice(SENDERS), random.choice([1, 2, 10]))

    def claim_for(
        self, sender: str, limit: int, *, recover: bool = True, answered: bool = True
    ) -> list[ClaimedDelivery]:
        """`answered`: the sender learns what it has taken."""
        if recover:
            self.model.recover()
        hosts = {delivery.host for delivery in self.model.deliveries.values()}
        lines = {host: (self.model.room(host), self.model.due(host)) for host in hosts if limit}
        lines = {host: (room, due) for host, (room, due) in lines.items() if room}
        before = {dref: (one.url, one.host) for dref, one in self.model.deliveries.items()}
        taken, wait = self.run(
            self.queue.deliveries.claim(sender, lease_seconds=LEASE_MS / 1000, limit=limit, recover=recover)
        )
        now = self.read()
        claims = {delivery.ref: delivery for delivery in taken}
        expect("no delivery is taken twice by one claim", len(claims), len(taken))
        expect("no claim takes too much", len(taken) <= limit, True)
        seen, counts = set[str](), dict[str, tuple[int, bool]]()
        for host, (room, due) in lines.items():
            turns = [dref for dref in due if now.zsets["host_line"].get(host, {}).get(dref) is None]
            expect("the oldest of a host goes first", turns, due[: len(turns)])
            fates = [self.model.take(dref, sender, LEASE_MS) for dref in turns]
            for dref, fate in zip(turns, fates, strict=True):
                expect(f"only what is to be sent is taken: {dref} is {fate}", dref in claims, fate == "taken")
            seen.update(turns)
            count, left = fates.count("taken"), len(turns) < min(limit, len(due))  # so many of a host are looked at
            expect(f"a host is sent no more than it may be: {host}", count <= room, True)
            if len(taken) < limit:
                expect(f"no free slot is left beside a due delivery of {host}", left and count < room, False)
            counts[host] = (count, left and count < room)
        expect("only what is due, at a host with room, is taken", claims.keys() - seen, set())
        self.check_order(counts)
        for dref, delivery in claims.items():
            self.check_claimed(delivery, self.model.deliveries[dref])
        rested = any(self.model.deliveries[dref].status != "pending" for dref in seen)
        self.check_wait(now, wait, recover=recover, idle=not taken and not rested)
        moved = {dref for dref in seen if self.model.deliveries[dref].host != before[dref][1]}
        expect("what moves to another host is not taken on the way", moved & claims.keys(), set())
        if answered:
            self.claimed += [(sender, delivery) for delivery in taken]
        self.check_all(now)
        return taken if answered else []

    def check_order(self, counts: dict[str, tuple[int, bool]]) -> None:
        """Of the hosts that may be sent more, the one that is sent the fewest goes first."""
        sending = {host: len(self.model.sending(host)) for host in counts}
        for host, (_, more) in counts.items():
            for other, (count, _) in counts.items():
                if more and count and sending[other] - 1 > sending[host]:
                    expect("the host that is sent the fewest goes first", (other, sending), (host, sending))

    def check_claimed(self, claimed: ClaimedDelivery, now: Delivery) -> None:
        record = f"{claimed.record[b'round'].decode()} {claimed.record[b'status'].decode()}" if claimed.record else ""
        expect("a delivery is signed with the secrets that are valid", claimed.secrets, self.model.secrets(claimed.ref))
        found = (claimed.attempt, claimed.step, claimed.type, claimed.url, claimed.host, claimed.created_at)
        expected = (now.attempt, now.step, now.type, now.url, now.host, now.created_at)
        expect("a claimed delivery is as it stands", found, expected)
        content = ((claimed.body or b"").decode(), record, (claimed.output or b"").decode(), claimed.job_id)
        expected_content = (now.body, now.record, now.output, now.job.partition(":")[2])
        expect("what is sent is the end of that very round, and the same each time", content, expected_content)

    def check_wait(self, now: Dump, wait: float | None, *, recover: bool, idle: bool) -> None:
        times = [time for time in now.zsets["hosts"].get("", {}).values() if time != float("inf")]
        times += now.zsets["deliveries_leases"].get("", {}).values() if recover else []
        expected = max(0, min(times) - self.model.now) / 1000 if times else None
        expect("a claim says when to look again", wait, expected)
        if idle:
            expect("an idle claim lets the others sleep", self.sync_redis.llen(key("deliveries_wake")), 0)
        elif wait == 0:
            self.expect_a_token("a claim that leaves work")

    # What comes of a try

    @precondition(lambda self: self.under_way())
    @rule(random=RANDOM)
    def finish_one(self, random: Random) -> None:
        sender, delivery = random.choice(self.under_way())
        self.finish(random, sender, delivery, random.choice(list(ANSWERS)))

    @precondition(lambda self: len(self.under_way()) > 1)
    @rule(random=RANDOM)
    def finish_some(self, random: Random) -> None:
        how = random.choice([*ANSWERS, "well", "ill"])
        for sender, delivery in random.sample(self.under_way(), 2):
            self.finish(random, sender, delivery, how)
            self.check()

    def finish(
        self, random: Random, sender: str, delivery: ClaimedDelivery, how: str, delay_ms: int | None = None
    ) -> None:
        outcome, host, address = ANSWERS[how]
        delay = random.choice(DELAYS_MS) if delay_ms is None else delay_ms
        body = "" if how == "refused by us" else f"body {delivery.attempt}"
        options: dict[str, Any] = {"outcome": outcome, "host": host, "address": address}
        call = {**options, "attempt": TRY, "body": body.encode(), "delay_seconds": delay / 1000}
        was_full = "full" in self.before.hashes["host"].get(delivery.host, {})  # a claim had found no room
        first, disabled = self.model.finish(delivery.ref, **options, delay_ms=delay, body=body)
        found = self.run(self.queue.deliveries.finish(sender, delivery, **call))
        expect("a try by who holds the delivery is recorded", found, Recorded(first, disabled))  # type: ignore[arg-type]
        self.finished[delivery.ref] = (sender, delivery.attempt)
        if was_full and self.model.room(delivery.host) and self.model.due(delivery.host):
            self.expect_a_token("a host that has room again")
        self.again(
            random, "a finish", lambda: self.queue.deliveries.finish(sender, delivery, **call), Recorded(None, None)
        )

    @precondition(lambda self: self.under_way())
    @rule(random=RANDOM)
    def release_one(self, random: Random) -> None:
        self.release(*random.choice(self.under_way()))

    def release(self, sender: str, delivery: ClaimedDelivery) -> None:
        self.model.put_back(self.model.deliveries[delivery.ref])
        found = self.run(self.queue.deliveries.release(sender, delivery))
        expect("a delivery is handed back by who holds it", found, True)
        self.expect_a_token("a delivery that is handed back")

    @precondition(lambda self: len(self.under_way()) > 2)
    @rule(random=RANDOM)
    def drain(self, random: Random) -> None:
        """The sender stops: it hands back all that it knows of."""
        stopped = random.choice(SENDERS)
        for sender, delivery in self.under_way():
            if sender == stopped:
                self.release(sender, delivery)
                self.check()

    @precondition(lambda self: self.under_way())
    @rule(random=RANDOM)
    def renew(self, random: Random) -> None:
        """Of all that one sender has ever held."""
        self.pass_time(random.choice([1, 4_000, LEASE_MS - 1]))
        sender = random.choice(self.under_way())[0]
        deliveries = [delivery for by, delivery in self.claimed if by == sender]
        expected = ["held" if self.holds(sender, delivery) else "gone" for delivery in deliveries]
        expect("a renewal says what is held", self.renew_for(sender, deliveries), expected)
        for delivery in deliveries:
            if self.holds(sender, delivery):
                self.model.deliveries[delivery.ref].lease = self.model.now + LEASE_MS

    def renew_for(self, sender: str, deliveries: list[ClaimedDelivery]) -> list[str]:
        keeper = KeeperStore(self.sync_redis, sender, clock_offset_ms=self.model.now)
        return keeper.renew_deliveries(LEASE_MS / 1000, [(one.ref, one.attempt) for one in deliveries])

    def deliver_all(self) -> None:
        steps = 6 * len(self.model.deliveries) + 20
        for _ in range(steps):
            times = [time for one in self.model.deliveries.values() for time in (one.due, one.lease) if time]
            if not times:
                return
            times += [host.paused_until for host in self.model.hosts.values() if host.paused_until > self.model.now]
            ahead = [time for time in times if time > self.model.now]
            taken = self.claim_for("last", 100)
            for delivery in taken:
                self.finish(Random(0), "last", delivery, "well")
            if not taken and ahead:
                self.pass_time(min(ahead) - self.model.now)
