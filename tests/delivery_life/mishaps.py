"""What goes wrong: senders that wake too late, claims whose reply is lost, hosts that say nothing, days of failures."""

from __future__ import annotations

from random import Random

from hypothesis.stateful import precondition, rule

from shared.store import ClaimedDelivery, Recorded
from tests.delivery_life.clients import Clients
from tests.delivery_life.machine import RANDOM, SENDERS, TENANTS, URLS, expect
from tests.delivery_life.model import DAY_MS
from tests.delivery_life.parts import HOSTS
from tests.delivery_life.senders import LEASE_MS, Senders
from tests.sent_deliveries import TRY


class Mishaps(Clients, Senders):
    """Late writers, lost replies, lost senders, dead hosts, addresses that fail for days."""

    @precondition(lambda self: any(one.due for one in self.model.deliveries.values()))
    @rule(random=RANDOM)
    def claim_in_vain(self, random: Random) -> None:
        """The reply is lost: nobody knows what was taken, and nobody renews it."""
        self.claim_for(random.choice(SENDERS), random.choice([1, 2]), answered=False)

    @precondition(lambda self: self.under_way())
    @rule(random=RANDOM)
    def freeze(self, random: Random) -> None:
        """A sender is frozen past its lease, all is taken over, perhaps by itself, and it goes on where it was."""
        sender, delivery = random.choice(self.under_way())
        lease = self.model.deliveries[delivery.ref].lease
        self.pass_time(max(0, lease - self.model.now + random.choice([-1, 0, 1])))
        self.claim_for(random.choice([sender, sender, *SENDERS]), random.choice([0, 10, 10]))
        if not self.holds(sender, delivery):
            self.write_without_lease(sender, delivery)
        elif sender != "s1":
            self.write_without_lease("s1", delivery)

    @precondition(lambda self: any(not self.holds(*one) for one in self.claimed))
    @rule(random=RANDOM)
    def write_late(self, random: Random) -> None:
        """Of a try that is over, best one whose delivery is being sent again."""
        over = [(sender, one) for sender, one in self.claimed if not self.holds(sender, one)]
        again = [(sender, one) for sender, one in over if self.is_sent(one.ref)]
        for sender, delivery in random.sample((again or over)[-8:], min(2, len((again or over)[-8:]))):
            writer = random.choice([sender, sender, *SENDERS])
            if not self.holds(writer, delivery):
                self.write_without_lease(writer, delivery)

    def is_sent(self, dref: str) -> bool:
        return dref in self.model.deliveries and self.model.deliveries[dref].lease > 0

    @precondition(lambda self: self.under_way())
    @rule(random=RANDOM)
    def write_as_another(self, random: Random) -> None:
        """By a sender that does not hold the delivery, under the number of the try that is under way."""
        holder, delivery = random.choice(self.under_way())
        other = random.choice([one for one in SENDERS if one != holder])
        self.write_without_lease(other, delivery)

    def write_without_lease(self, sender: str, delivery: ClaimedDelivery) -> None:
        """Whatever it tries, it changes nothing, and the sender is told so."""
        state = self.read()
        expect("a late renewal is told so", self.renew_for(sender, [delivery]), ["gone"])
        expect("a late release is told so", self.run(self.queue.deliveries.release(sender, delivery)), False)
        finish = self.queue.deliveries.finish(
            sender, delivery, outcome="delivered", attempt=TRY, body=b"late", host="silent", address="gone"
        )
        known = self.finished.get(delivery.ref) == (sender, delivery.attempt)
        told = Recorded(None, None) if known and delivery.ref in self.model.deliveries else None
        expect("a late finish is told so", self.run(finish), told)
        expect("a late write changes nothing", self.read(), state)

    @rule(random=RANDOM)
    def silence(self, random: Random) -> None:
        """Several tries in a row bring no answer: the host is paused, probed, and paused for longer."""
        url = random.choice(URLS)
        host = HOSTS[url]
        for _ in range(random.choice([0, 3, 6])):
            if self.pending() < 12:
                self.end_job(random, url)
                self.check()
        for _ in range(random.choice([2, 4, 6])):
            self.wait_for_host(random, host)
            self.claim_for(random.choice(SENDERS), random.choice([1, 10, 10]))
            for sender, delivery in self.under_way(host)[: random.choice([1, 3, 6])]:
                self.finish(random, sender, delivery, "silent", random.choice([0, 0, 0, 5_000]))
                self.check()

    def wait_for_host(self, random: Random, host: str) -> None:
        """Until it may be sent something, or to the millisecond before."""
        state = self.model.hosts.get(host)
        dues = [one.due for one in self.model.deliveries.values() if one.host == host and one.due]
        at = max(min(dues, default=0), state.paused_until if state else 0)
        self.pass_time(max(0, at - self.model.now - random.choice([0, 0, 0, 1])))

    @rule(random=RANDOM)
    def days_of_failures(self, random: Random) -> None:
        """An address fails each day; after five of them it is disabled, unless it was well once or seldom tried."""
        gap = random.choice([DAY_MS, DAY_MS, DAY_MS + 1, 2 * DAY_MS, 2 * DAY_MS + 1])
        url, tenant, days = random.choice(URLS), random.choice(TENANTS), random.choice([3, 6, 6])
        well = random.choice([None, None, 2])
        for day in range(days):
            if not any(one.due and one.url == url for one in self.model.deliveries.values()):
                self.end_job(random, url, tenant)
                self.check()
            self.wait_for_host(random, HOSTS[url])
            self.claim_for(random.choice(SENDERS), 10)
            for sender, delivery in self.under_way():
                self.finish(random, sender, delivery, "well" if day == well else "ill", gap)
                self.check()
        if random.random() < 0.5:
            self.use_and_forget(random, url, tenant)

    def use_and_forget(self, random: Random, url: str, tenant: str) -> None:
        """A URL that is disabled is kept for thirty days after its last use."""
        for days in (20, 11, 20):
            self.pass_time(days * DAY_MS)
            self.expire_now()
            self.check()
            if days == 20:
                self.end_job(random, url, tenant)
                self.claim_for(random.choice(SENDERS), 10)

    @precondition(lambda self: self.under_way())
    @rule(random=RANDOM)
    def all_senders_are_lost(self, random: Random) -> None:
        self.pass_time(LEASE_MS + random.choice([-1, 0, 1]))
        self.claim_for(random.choice(SENDERS), random.choice([0, 1, 10]), recover=random.random() < 0.6)
