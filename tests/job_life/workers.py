"""What workers do with the jobs that they hold, and how they come to hold them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from shared.store import Claim, Claimed
from tests.job_life.machine import GRAPHS, WORKERS, Machine, expect
from tests.job_life.model import Pin
from tests.job_queue import LEASE_SECONDS, TENANT
from tests.store_dump import Dump

Fields = Mapping[str, str]
Names = Sequence[str]


class Workers(Machine):
    """Claim, renew, write, finish, release."""

    @precondition(lambda self: self.count())
    @rule(
        seconds=st.sampled_from([0, 0, 6, LEASE_SECONDS + 1, 600]),
        worker=st.sampled_from(WORKERS),
        limit=st.sampled_from([0, 1, 1, 2, 3]),
        graphs=st.sampled_from([GRAPHS, GRAPHS, ["x"]]),
        recover=st.sampled_from([True, True, False]),
    )
    def claim(self, seconds: float, worker: str, limit: int, graphs: list[str], recover: bool) -> None:
        self.queue.pass_time(seconds)
        self.claim_for(worker, limit, graphs=graphs, recover=recover)

    @precondition(lambda self: self.count("queued"))
    @rule(worker=st.sampled_from(WORKERS), limit=st.integers(1, 3))
    def claim_what_is_ready(self, worker: str, limit: int) -> None:
        self.claim_for(worker, limit)

    def claim_for(self, worker: str, limit: int, *, graphs: list[str] = GRAPHS, recover: bool = True) -> None:
        """As a worker claims: not while a job has to be alone, and not before it knows what the last claim brought."""
        if any(job.alone for by, job in self.running() if by == worker):
            return
        if worker in self.unsure:
            self.disown(worker)
            self.check()
        self.numbers[worker] += 1
        for job in self.claim_now(worker, self.numbers[worker], limit, graphs=graphs, recover=recover).jobs:
            self.claimed.append((worker, job))

    def claim_now(
        self, worker: str, number: int, limit: int, *, graphs: list[str] = GRAPHS, recover: bool = True
    ) -> Claim:
        """A claim that arrives in the store, and whose reply is given to nobody yet."""
        claim = self.run(self.queue.claim(worker, limit=limit, graphs=graphs, recover=recover, number=number))
        if number <= self.void[worker]:
            expect(
                "a claim that was given up takes nothing", ([*claim.jobs, *claim.ended], self.read()), ([], self.before)
            )
            return claim
        for _, ref in sorted((due, ref) for ref, due in self.before.due.items() if due <= claim.now_ms):
            self.model.join(ref)
        lost = sorted((end, ref) for ref, end in self.before.leases.items() if recover and end <= claim.now_ms)
        ended = [(ref, self.model.jobs[ref].graph, self.model.lose(ref)) for _, ref in lost]
        found = [(job.ref, job.graph, job.status) for job in claim.ended]
        expect("a claim names the jobs that it ended", found, [job for job in ended if job[2] != "queued"])
        for job in claim.jobs:
            self.check_claimed(worker, job)
        self.promised.append(lambda now: self.check_claim(now, claim, limit, graphs=graphs, recover=recover))
        return claim

    def check_claimed(self, worker: str, job: Claimed) -> None:
        now = self.model.jobs[job.ref]
        alone = now.alone
        self.model.take(job.ref, worker)
        found = (job.attempt, job.round, job.alone, job.answer.decode())
        expect("a claimed job is as it stands", found, (now.attempt, now.round, alone, now.answer))
        kept = {name.decode(): value.decode() for name, value in self.run(self.queue.store.checkpoints(job)).items()}
        expect("an attempt finds what those before it kept", kept, now.checkpoints)

    def check_claim(self, now: Dump, claim: Claim, limit: int, *, graphs: list[str], recover: bool) -> None:
        alone = any(job.alone for job in claim.jobs)
        expect("no claim takes too much", len(claim.jobs) <= (1 if alone else 0 if claim.hold else limit), True)
        ranks = [int(job.record[b"rank"]) for job in claim.jobs]
        expect("the lowest rank goes first", ranks, sorted(ranks))
        most, running = self.model.limits.max_running or 0, self.count("running")
        expect("no claim takes more than its tenant may run", not most or not claim.jobs or running <= most, True)
        kept = sum(f"default:{graph}" in now.zsets["solo"] for graph in graphs)
        if most and claim.jobs and not alone:
            expect("a place is kept for a job that must run alone", running + kept <= most, True)
        full = most and running + kept >= most
        if len(claim.jobs) < limit and not claim.hold and not alone and not full:
            ready = [lane for graph in graphs if (lane := f"default:{graph}:{TENANT}") in now.zsets["lane"]]
            expect("no free slot is left beside a ready job", ready, [])
        leases = {job.ref: now.leases.get(job.ref, 0) - claim.now_ms for job in claim.jobs}
        expect("a lease is as long as was asked", leases, dict.fromkeys(leases, LEASE_SECONDS * 1000))
        waits = [*now.due.values(), *(now.leases.values() if recover else [])]
        wait = max(0, min(waits) - claim.now_ms) / 1000 if waits else None
        expect("a claim says when to look again", claim.next_seconds, wait)

    def disown(self, worker: str) -> None:
        """Hand back what the worker holds and does not know."""
        done = {*self.ended, *((by, ref, attempt) for ref, (by, attempt) in self.released.items())}
        known = [(j.ref, j.attempt) for by, j in self.claimed if by == worker and (by, j.ref, j.attempt) not in done]
        unknown = {
            ref for ref, job in self.model.jobs.items() if job.worker == worker and (ref, job.attempt) not in known
        }
        expected = [(ref, self.model.jobs[ref].graph, self.model.release(ref, tried=False)) for ref in unknown]
        found = self.run(self.queue.store.disown(worker, self.numbers[worker], known))
        self.void[worker] = self.numbers[worker]
        self.unsure.discard(worker)
        answer = sorted((job.ref, job.graph, job.status) for job in found)
        expect("what a worker does not know is handed back", answer, sorted(expected))

    def finish(self, worker: str, job: Claimed, status: Any) -> None:
        fields = {"interrupts": b"[]"} if status == "interrupted" else {}
        self.model.finish(job.ref, status)
        answer = self.run(self.queue.finish(worker, job, status, output=b"1", fields=fields))
        expect("an attempt that holds the job ends it", answer, "done")
        self.ended.add((worker, job.ref, job.attempt))
        self.send_again(self.queue.store.sent, "already")

    def release(self, worker: str, job: Claimed, kind: Any, delay: int) -> None:
        status = self.model.release(job.ref, tried=kind == "backoff", delayed=delay > 0)
        answer = self.run(self.queue.store.release(worker, job, kind, delay_seconds=delay, error=b"{}"))
        expect("an attempt that holds the job gives it back", answer, status)
        if status == "queued":
            self.released[job.ref] = (worker, job.attempt)
        else:
            self.ended.add((worker, job.ref, job.attempt))
        self.send_again(self.queue.store.sent, "already")

    def take_a_step(self, worker: str, job: Claimed, pins: Sequence[Pin], changed: Fields, dropped: Names) -> None:
        """An event, and a checkpoint: as the head of its thread, or beside the job."""
        expect("an attempt that holds the job writes", self.run(self.queue.store.append(worker, job, [b"{}"])), True)
        self.model.jobs[job.ref].events += 1
        if self.model.jobs[job.ref].thread:
            self.model.pin(job.ref, pins)
            answer = self.run(self.queue.store.pin(worker, job, pins))
        else:
            self.model.checkpoint(job.ref, changed, dropped)
            fields = {name.encode(): value.encode() for name, value in changed.items()}
            answer = self.run(self.queue.store.checkpoint(worker, job, fields, [name.encode() for name in dropped]))
        expect("an attempt that holds the job keeps a checkpoint", answer, True)
        self.run(self.queue.store.send(self.queue.store.sent))  # the reply was lost

    @precondition(lambda self: len(self.running()) > 2)
    @rule(worker=st.sampled_from(WORKERS))
    def drain(self, worker: str) -> None:
        """The worker stops: it hands back all that it knows of."""
        for by, job in self.running():
            if by == worker:
                self.release(worker, job, "hand_back", 0)
                self.check()

    @precondition(lambda self: self.running())
    @rule(worker=st.sampled_from(WORKERS))
    def renew(self, worker: str) -> None:
        jobs = [job for by, job in self.claimed if by == worker]
        expected = [
            "gone" if not self.holds(worker, job) else "cancel" if self.model.jobs[job.ref].marked else "held"
            for job in jobs
        ]
        expect("a renewal says what is held", self.queue.renew(worker, *jobs), expected)
        held = {job.ref for job in jobs if self.holds(worker, job)}
        self.promised.append(lambda now: self.check_renewed(held, self.before.leases, now.leases))

    def check_renewed(self, held: set[str], before: Mapping[str, float], now: Mapping[str, float]) -> None:
        renewed = {ref for ref, end in now.items() if end != before.get(ref)}
        expect("a renewal lengthens what is held", renewed - held, set())
        expect("a renewal lengthens all that is held, to one time", len({now[ref] for ref in held}) <= 1, True)
