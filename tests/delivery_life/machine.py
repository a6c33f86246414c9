"""What the rules of the state machine share: the stores, the model, and the comparison of both after each step."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine, Sequence
from contextlib import ExitStack
from random import Random
from typing import Any, TypeVar

from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant
from redis import Redis as SyncRedis
from redis.asyncio import Redis

from shared.store import ClaimedDelivery
from shared.store.keys import key
from tests.delivery_life.clock import START_MS, clock_by_hand
from tests.delivery_life.model import AT_ONCE, DAY_MS, Model
from tests.delivery_life.parts import HOSTS
from tests.job_queue import JobQueue
from tests.store_audit import faults
from tests.store_dump import Dump, read_all

TENANTS = ["acme", "beta"]
SENDERS = ["s1", "s2", "s3"]
URLS = sorted(HOSTS)
RANDOM = st.randoms(use_true_random=True)  # drawn as a seed: choices of hypothesis' own are far from evenly spread
LEFT_BEHIND = {b"queues", b"graphs", b"turns", b"drained", b"wake", b"claims", b"host"}  # they belong to no delivery
Answer = TypeVar("Answer")
Choice = TypeVar("Choice")


def expect(rule: str, found: object, expected: object) -> None:
    """Raises `AssertionError`, which begins with the rule that is broken."""
    if found != expected:
        raise AssertionError(f"{rule}: {found}, not {expected}")


class Machine(RuleBasedStateMachine):
    """`connect` gives an asynchronous and a synchronous connection to an empty server."""

    def __init__(self, connect: Callable[[], tuple[Redis, SyncRedis]]) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.redis, self.sync_redis = connect()
        self.block = ExitStack()
        self.block.enter_context(clock_by_hand())
        self.queue = JobQueue(self.redis, self.sync_redis)
        self.queue.deliveries.host_concurrency = AT_ONCE
        self.model = Model()
        self.queue.pass_time(START_MS / 1000)
        self.before = read_all(self.sync_redis)
        self.steps = 0
        self.created = 0  # jobs, endpoints, pings and secrets, which have numbers
        self.jobs: dict[str, tuple[int, str, dict[str, str]]] = {}  # by ref: round, status and what was submitted
        self.claimed: list[tuple[str, ClaimedDelivery]] = []  # what the senders have been told they hold
        self.finished: dict[str, tuple[str, int]] = {}  # by dref: sender and attempt of the last try that was recorded

    def run(self, call: Coroutine[Any, Any, Answer]) -> Answer:
        return self.runner.get_loop().run_until_complete(call)  # `run` sets a signal handler for each call

    def read(self) -> Dump:
        return read_all(self.sync_redis)

    def number(self) -> int:
        self.created += 1
        return self.created

    def pass_time(self, ms: int) -> None:
        self.model.now += ms
        self.queue.pass_time(ms / 1000)

    def pass_time_until(self, random: Random, times: Sequence[int]) -> None:
        """To one of these times, to the millisecond before it, or after it."""
        ahead = sorted({time for time in times if time > self.model.now + 1})
        if ahead:
            at = random.choice(ahead[:4]) + random.choice([-1, 0, 0, 1])
            note(f"{at - self.model.now} ms pass")
            self.pass_time(at - self.model.now)

    def holds(self, sender: str, delivery: ClaimedDelivery) -> bool:
        """Whether this try is the one that is under way."""
        now = self.model.deliveries.get(delivery.ref)
        return now is not None and (now.sender, now.attempt) == (sender, delivery.attempt)

    def under_way(self, host: str = "") -> list[tuple[str, ClaimedDelivery]]:
        """The tries that their senders know of."""
        return [
            (sender, delivery)
            for sender, delivery in self.claimed
            if self.holds(sender, delivery) and host in {"", delivery.host}
        ]

    def again(self, random: Random, rule: str, call: Callable[[], Coroutine[Any, Any, object]], answer: object) -> None:
        """Perhaps the reply was lost, and the call is sent once more: it changes nothing."""
        if random.random() < 0.5:
            state = self.read()
            expect(f"{rule} that is sent twice is told the same", self.run(call()), answer)
            expect(f"{rule} that is sent twice changes nothing", self.read(), state)

    def expect_a_token(self, rule: str) -> None:
        expect(f"{rule} wakes a sender", bool(self.sync_redis.llen(key("deliveries_wake"))), True)

    # What must hold after each step

    @invariant()
    def check(self) -> None:
        self.check_all(self.read())

    def check_all(self, now: Dump) -> None:
        for host, drefs in now.sets["host_sending"].items():
            expect(f"no host is sent too much at once: {host}, {drefs}", len(drefs) <= AT_ONCE, True)
        for difference in self.model.differences(now):
            raise AssertionError(difference)
        for fault in faults(now):
            raise AssertionError(f"all is where it should be: {fault}")
        self.before = now
        self.steps += 1

    # The end: once all hosts answer, all is delivered, and nothing is left

    def teardown(self) -> None:
        try:
            if sys.exc_info()[0] is None:  # what goes wrong after a failure says nothing
                self.check_end()
        finally:
            self.block.close()
            self.run(self.redis.aclose())
            self.sync_redis.close()
            self.runner.close()

    def check_end(self) -> None:
        self.end_all()
        self.deliver_all()
        stuck = {dref: one for dref, one in self.model.deliveries.items() if one.status == "pending"}
        expect("once all hosts answer, nothing stays pending", stuck, {})
        self.check()
        for name in list(self.model.endpoints):
            tenant, _, endpoint = name.partition(":")
            self.run(self.queue.endpoints.drop(tenant, endpoint))
        self.pass_time(31 * DAY_MS)
        for _ in range(10):  # what is more is not forgotten at all
            self.run(self.queue.store.expire())
        self.run(self.queue.deliveries.claim("last", lease_seconds=10, limit=100))
        kinds = {name.split(b":")[1] for name in self.sync_redis.keys("*")}
        expect("nothing is left over", kinds - LEFT_BEHIND, set())
        for name in self.sync_redis.keys(key("host") + "*"):
            expect(f"a host is forgotten some day: {name.decode()}", self.sync_redis.ttl(name) > 0, True)

    def end_all(self) -> None:
        """No job waits for an answer any more."""
        raise NotImplementedError

    def deliver_all(self) -> None:
        """In so many steps as there can be: pauses, moves to another host, and waits for the next one that is due."""
        raise NotImplementedError
