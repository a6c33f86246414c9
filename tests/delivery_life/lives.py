"""Some moves in a row, all in one life: random calls alone would seldom lead a delivery or an endpoint far."""

from __future__ import annotations

from random import Random

from hypothesis import note
from hypothesis.stateful import initialize, rule

from tests.delivery_life.machine import RANDOM, SENDERS
from tests.delivery_life.mishaps import Mishaps

SENDING = [
    "claim", "claim_when_due", "claim_when_due", "finish_one", "finish_one", "finish_some", "release_one", "renew",
    "freeze", "write_late", "write_as_another", "claim_in_vain", "redeliver", "all_senders_are_lost",
]  # fmt: skip
CHANGING = [
    "claim_when_due", "finish_one", "change_endpoint", "rotate", "switch", "switch", "ping", "drop", "be_gone",
    "be_gone", "outlive_a_secret", "outlive_a_secret", "redeliver", "end_jobs", "move_away", "move_away",
]  # fmt: skip
NEEDS_TRIES = {"finish_one", "release_one", "renew", "freeze", "write_as_another", "all_senders_are_lost"}
NEEDS_ENDPOINTS = {"change_endpoint", "rotate", "switch", "ping", "drop", "be_gone", "outlive_a_secret", "move_away"}


class Lives(Mishaps):
    """Moves that follow each other."""

    @initialize(random=RANDOM)
    def begin(self, random: Random) -> None:
        """Hypothesis leaves some rules out of each life; here each of these has its turn."""
        for _ in range(random.choice([0, 1, 2])):
            self.create_endpoint(random)
        begin = [self.use_an_endpoint, self.use_an_endpoint, self.send_for_a_while, self.days_of_failures, self.silence]
        random.choice(begin)(random)

    @rule(random=RANDOM)
    def send_for_a_while(self, random: Random) -> None:
        if self.pending() < 6:
            self.end_jobs(random)
        self.claim_for(random.choice(SENDERS), 10)
        self.move(random, SENDING)

    @rule(random=RANDOM)
    def use_an_endpoint(self, random: Random) -> None:
        if len(self.model.endpoints) < 2:
            self.create_endpoint(random)
        self.move(random, CHANGING)

    def move(self, random: Random, moves: list[str]) -> None:
        for name in random.choices(moves, k=random.randint(5, 10)):
            if self.can(name):
                note(name)
                getattr(self, name)(random)
                self.check()

    def can(self, name: str) -> bool:
        if name == "write_late":
            return any(not self.holds(*one) for one in self.claimed)
        if name == "finish_some":
            return len(self.under_way()) > 1
        if name == "end_jobs":
            return self.pending() < 8
        if name in NEEDS_TRIES:
            return bool(self.under_way())
        return bool(self.model.endpoints if name in NEEDS_ENDPOINTS else self.model.deliveries)

    def be_gone(self, random: Random) -> None:
        """An endpoint answers 410 to some tries at once, or to one after it was deleted."""
        name = random.choice(list(self.model.endpoints))
        for _ in range(random.choice([2, 4])):
            self.ping_or_end(random, name)
        self.claim_for(random.choice(SENDERS), 10)
        if random.random() < 0.35:
            self.drop_one(random, name)
        for sender, delivery in self.under_way():
            if self.model.deliveries[delivery.ref].target == name.partition(":")[2]:
                self.finish(random, sender, delivery, random.choice(["gone", "gone", "ill"]))
                self.check()
                self.redeliver_one(random, delivery.ref)
                self.check()
        if name in self.model.endpoints and random.random() < 0.5:
            self.switch_one(random, name)

    def move_away(self, random: Random) -> None:
        """An endpoint has a new URL while a message waits for it."""
        name = random.choice(list(self.model.endpoints))
        self.ping_one(random, name)
        self.change_url(random, name)
        for _ in range(2):  # to another host it is not sent before it stands in the line of that
            self.claim_for(random.choice(SENDERS), 10)

    def outlive_a_secret(self, random: Random) -> None:
        """To where an old secret ends, or to the millisecond before it."""
        name = random.choice(list(self.model.endpoints))
        until = self.model.endpoints[name].old_until
        if until > self.model.now + 1:
            self.pass_time(until - self.model.now - random.choice([0, 1]))
            self.ping_one(random, name)
            self.claim_for(random.choice(SENDERS), 10)

    def ping_or_end(self, random: Random, name: str) -> None:
        if random.random() < 0.2:
            self.ping_one(random, name)
        else:
            self.end_job(random, self.model.endpoints[name].url, name.partition(":")[0])
        self.check()
