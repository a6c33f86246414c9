"""What the rules of the state machine share: the store, the model, and the comparison of both after each step."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant
from redis import Redis as SyncRedis
from redis.asyncio import Redis

from shared.store import Claimed
from shared.store.keys import key
from shared.webhooks import DeliveryAttempt
from tests.job_life.model import ENDS, Model
from tests.job_queue import LEASE_SECONDS, RETENTION_SECONDS, TENANT, JobQueue
from tests.store_audit import ENDED, faults
from tests.store_dump import Dump, Record, read_all

GRAPHS = ["x", "y"]
WORKERS = ["w1", "w2", "w3"]
LEFT_BEHIND = {
    b"queues",
    b"graphs",
    b"turns",
    b"drained",
    b"tenant-limits",
    b"tenant-limits-changes",
    b"wake",
    b"control",
    b"claims",
    b"idem",
    b"head",
}  # they belong to no job
Answer = TypeVar("Answer")


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
        self.queue = JobQueue(self.redis, self.sync_redis)
        self.model = Model()
        self.before = read_all(self.sync_redis)
        self.promised: list[Callable[[Dump], None]] = []  # what the last call said of what must now be found
        self.steps = 0
        self.submitted = 0
        self.pinned = 0
        self.ends: dict[tuple[str, str], str] = {}  # by ref and round, as first seen
        self.claimed: list[tuple[str, Claimed]] = []  # what the workers have been told they hold
        self.ended: set[tuple[str, str, int]] = set()  # worker, ref and attempt of those that ended a round
        self.released: dict[str, tuple[str, int]] = {}  # by ref: worker and attempt of the last one that gave it back
        self.rounds_asked: dict[str, tuple[Any, ...]] = {}  # by ref: the last retry or resume, as it was sent
        self.numbers = dict.fromkeys(WORKERS, 0)  # of each worker's last claim
        self.void = dict.fromkeys(WORKERS, 0)  # the last one of them that takes nothing any more
        self.unsure: set[str] = set()  # workers whose last claim has not been answered
        self.on_their_way: list[tuple[str, int]] = []  # claims that have not arrived

    def run(self, call: Coroutine[Any, Any, Answer]) -> Answer:
        return self.runner.get_loop().run_until_complete(call)  # `run` sets a signal handler for each call

    def read(self) -> Dump:
        return read_all(self.sync_redis)

    def send_again(self, sent: tuple[Any, ...], *expected: str) -> None:
        """The reply to a call was lost, and it is sent once more."""
        answer = self.run(self.queue.store.send(sent))
        parts = answer if isinstance(answer, list) else [answer]
        expect("a call sent twice is told what became of it", tuple(part.decode() for part in parts), expected)

    def draw_job(self, data: st.DataObject, *statuses: str) -> str:
        """One of the jobs; one of these statuses where there is any."""
        jobs = [ref for ref, job in self.model.jobs.items() if job.status in statuses]
        return data.draw(st.sampled_from(sorted(jobs or self.model.jobs)))

    def count(self, *statuses: str) -> int:
        """How many jobs have one of these statuses, or have not ended."""
        return sum(job.status in statuses if statuses else job.status not in ENDED for job in self.model.jobs.values())

    def status_of(self, ref: str) -> str:
        return self.model.jobs[ref].status if ref in self.model.jobs else ""

    def holds(self, worker: str, job: Claimed) -> bool:
        """Whether this attempt is the one that runs."""
        now = self.model.jobs.get(job.ref)
        return now is not None and (now.worker, now.attempt) == (worker, job.attempt)

    def running(self) -> list[tuple[str, Claimed]]:
        """The attempts that run, but those of which no worker knows."""
        return [(worker, job) for worker, job in self.claimed if self.holds(worker, job)]

    # What must hold after each step

    @invariant()
    def check(self) -> None:
        now = self.read()
        for ref, record in now.jobs.items():
            self.check_record(ref, self.before.jobs.get(ref, {}), record)
        for ref in self.before.jobs.keys() - now.jobs.keys():
            expect("only ended jobs are forgotten", self.before.jobs[ref]["status"] in ENDED, True)
        for verify in self.promised:
            verify(now)
        self.promised.clear()
        for fault in faults(now):
            raise AssertionError(f"all is where it should be: {fault}")
        self.check_wakes(now)
        for difference in self.model.differences(now):
            raise AssertionError(difference)
        self.before = now
        self.steps += 1

    def check_wakes(self, now: Dump) -> None:
        """What is ready and may run has a token, for nobody here takes one: it would wake an idle worker."""
        kept = sum(f"default:{graph}" in now.zsets["solo"] for graph in GRAPHS)  # places for what must run alone
        if self.model.limits.max_running and self.count("running") + kept >= self.model.limits.max_running:
            return
        ready = {graph for graph in GRAPHS if f"default:{graph}:{TENANT}" in now.zsets["lane"]}
        woken = {graph for graph in GRAPHS if now.lengths["wake"].get(f"default:{graph}")}
        expect("what may run wakes a worker", ready - woken, set())

    def check_record(self, ref: str, old: Record, new: Record) -> None:
        if new["status"] in ENDS:
            seen = self.ends.setdefault((ref, new["round"]), new["status"])
            expect(f"a round ends once: round {new['round']} of {ref}", new["status"], seen)
        expect("a job keeps its rank", old.get("rank", new["rank"]), new["rank"])
        if old.get("status") in ENDS and old["round"] == new["round"]:
            expect("an ended round stays as it is", new, old)
        if "cancel" in old and old["round"] == new["round"]:
            stays = new["status"] in ENDED or (new["status"], new["attempt"]) == ("running", old["attempt"])
            expect(f"a job to be cancelled goes back to no lane: {new}", stays, True)

    # The end: nothing is stuck, and nothing is left

    def teardown(self) -> None:
        try:
            if sys.exc_info()[0] is None:  # what goes wrong after a failure says nothing
                self.check_end()
        finally:
            self.run(self.redis.aclose())
            self.sync_redis.close()
            self.runner.close()

    def check_end(self) -> None:
        for ref in [ref for ref, job in self.model.jobs.items() if job.status == "interrupted"]:
            self.run(self.queue.store.resume(TENANT, ref.partition(":")[2], b"1"))
        for _ in range(3 * len(self.model.jobs)):
            self.queue.pass_time(LEASE_SECONDS + 1)
            for job in self.run(self.queue.claim("last", graphs=GRAPHS)).jobs:
                self.run(self.queue.finish("last", job))
        for fault in faults(self.read()):
            raise AssertionError(f"all is where it should be: {fault}")
        stuck = {ref: job for ref, job in self.read().jobs.items() if job["status"] not in ENDED}
        expect("no job is stuck", stuck, {})
        for ref, record in self.read().jobs.items():
            self.check_events(ref, record)
        self.queue.pass_time(RETENTION_SECONDS + 1)
        self.run(self.queue.store.expire())
        self.deliver_all()
        kinds = {name.split(b":")[1] for name in self.sync_redis.keys("*")}
        expect("nothing is left over", kinds - LEFT_BEHIND, set())

    def deliver_all(self) -> None:
        """Send what the ends have brought, and let that be forgotten too."""
        attempt = DeliveryAttempt(at=datetime.now(UTC), duration_ms=1)
        while deliveries := self.run(self.queue.deliveries.claim("last", lease_seconds=10, limit=100))[0]:
            for delivery in deliveries:
                self.run(
                    self.queue.deliveries.finish("last", delivery, outcome="delivered", attempt=attempt, body=b"{}")
                )
        self.queue.pass_time(RETENTION_SECONDS + 1)
        for _ in range(10):  # what is more is not forgotten at all
            self.run(self.queue.store.expire())

    def check_events(self, ref: str, record: Record) -> None:
        """The events tell of one end a round, and it is the last one of its round."""
        events = [json.loads(event) for event in self.sync_redis.lrange(key("events", ref), 0, -1)]
        told = [event for event in events if event.get("type") == "status"]
        for number in range(1, int(record["round"]) + 1):
            of_round = [event["data"]["status"] for event in told if event["round"] == number]
            ends = [status for status in of_round if status in ENDS]
            seen = self.ends.get((ref, str(number)), record["status"])
            expect(f"the events tell of one end a round: {ref}", (ends, of_round[-1:]), ([seen], [seen]))
