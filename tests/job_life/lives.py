"""One job's life, some moves of it in a row: random calls alone would seldom lead a job through many states."""

from __future__ import annotations

from random import Random

from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from tests.job_life.limits import Limits
from tests.job_life.machine import WORKERS
from tests.job_life.mishaps import WRITES
from tests.job_life.model import Pin
from tests.job_queue import LEASE_SECONDS

FIELDS = ["c1", "c2", "c3"]
MOVES = {
    "queued": ["claim", "claim", "claim", "claim", "cancel", "follow"],
    "running": [
        "step", "step", "step", "fail", "fail", "interrupt", "interrupt", "succeed", "back off", "back off",
        "hand back", "freeze", "freeze", "freeze", "lose", "cancel", "cancel", "follow",
    ],
    "interrupted": ["resume", "resume", "resume", "cancel", "follow"],
    "failed": ["retry", "retry", "retry from start", "retry from start", "erase", "follow"],
    "cancelled": ["retry", "retry", "retry from start", "retry from start", "erase"],
    "succeeded": ["erase"],
}  # fmt: skip


class Lives(Limits):
    """Moves of one job, each of which its status allows."""

    @precondition(lambda self: self.model.jobs)
    @rule(random=st.randoms(use_true_random=True), count=st.integers(3, 12))
    def lead_a_life(self, random: Random, count: int) -> None:
        """`random` is drawn by hypothesis as a seed: choices of its own, one by one, are far from evenly spread."""
        jobs = [ref for ref, job in self.model.jobs.items() if job.status != "succeeded"]
        ref = random.choice(jobs or sorted(self.model.jobs))
        for _ in range(count):
            if ref in self.model.jobs:
                self.move(random, ref, random.choice(MOVES[self.status_of(ref)]))
                self.check()

    def move(self, random: Random, ref: str, move: str) -> None:
        note(f"{ref}: {move}")
        worker, job = next((attempt for attempt in self.running() if attempt[1].ref == ref), ("", None))
        if move == "cancel":
            self.cancel(ref)
        elif move == "follow":
            self.follow(ref, random.choice(["queue", "reject", "cancel", "cancel"]))
        elif move == "resume":
            self.resume(ref, random.choice(["1", '"yes"']))
        elif move in {"retry", "retry from start"}:
            self.retry(ref, "start" if "start" in move else "checkpoint")
        elif move == "erase":
            self.erase(ref)
        elif move == "claim" or job is None:  # nobody knows who has it
            self.queue.pass_time(LEASE_SECONDS + 1 if job is None else 6)
            self.claim_for(random.choice(WORKERS), 5)
        elif move == "step":
            self.take_a_step(worker, job, *self.next_step(random))
        elif move == "lose":
            self.queue.pass_time(LEASE_SECONDS + 1)
            self.claim_for(worker, 0)
        elif move == "freeze":
            self.freeze(worker, job, random.choice([worker, *WORKERS]), random.choice(WRITES))
        elif move in {"back off", "hand back"}:
            self.release(worker, job, "backoff" if move == "back off" else "hand_back", random.choice([0, 5]))
        else:
            ends = {"succeed": "succeeded", "fail": "failed", "interrupt": "interrupted"}
            self.finish(worker, job, ends[move])
            if random.random() < 0.5:
                self.check()
                self.write_without_lease(worker, job, random.choice(WRITES))

    def follow(self, ref: str, on_busy: str) -> None:
        """Another job of the same thread comes."""
        if self.model.jobs[ref].thread and self.count() < 7:
            thread_id = self.before.jobs[ref]["thread_id"]
            self.submit_job(graph=self.model.jobs[ref].graph, thread_id=thread_id, on_busy=on_busy)

    def next_step(self, random: Random) -> tuple[list[Pin], dict[str, str], list[str]]:
        """Pins of new checkpoints and of some that come late; fields that change and that go."""
        self.pinned += 1
        pins = [
            (random.choice(["", "sub"]), f"{max(0, self.pinned - random.choice([0, 0, 2])):04}", task)
            for task in random.sample(["", "", "t1", "t2"], random.choice([1, 2]))
        ]
        changed = {random.choice(FIELDS): random.choice("ab") for _ in range(random.choice([0, 1, 2, 2]))}
        return pins, changed, random.sample(FIELDS, random.choice([0, 0, 1]))
