"""What goes wrong: workers that are frozen and wake too late, replies that are lost, claims that arrive too late."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from shared.store import Claimed
from tests.job_life.clients import Clients
from tests.job_life.machine import WORKERS, expect
from tests.job_life.model import ENDS
from tests.job_life.workers import Workers
from tests.job_queue import LEASE_SECONDS

WRITES = ["finish", "interrupt", "hand back", "back off", "append", "checkpoint", "pin", "renew"]


class Mishaps(Clients, Workers):
    """Late writers, lost replies, lost workers."""

    def freeze(self, worker: str, job: Claimed, other: str, how: str) -> None:
        """A worker is frozen past its lease, all is taken over, perhaps by itself, and it goes on where it was."""
        self.queue.pass_time(LEASE_SECONDS + 1)
        self.claim_for(other, 5)
        self.check()
        if not self.holds(worker, job):
            self.write_without_lease(worker, job, how)

    @precondition(lambda self: any(not self.holds(*attempt) for attempt in self.claimed))
    @rule(data=st.data(), how=st.sampled_from(WRITES))
    def write_late(self, data: st.DataObject, how: str) -> None:
        """Of an attempt that is over, best one whose job runs again."""
        over = [(worker, job) for worker, job in self.claimed if not self.holds(worker, job)]
        again = [(worker, job) for worker, job in over if self.status_of(job.ref) == "running"]
        worker, job = data.draw(st.sampled_from((again or over)[-8:]))
        self.write_without_lease(worker, job, how)

    @precondition(lambda self: self.running())
    @rule(data=st.data(), how=st.sampled_from(WRITES))
    def write_as_another(self, data: st.DataObject, how: str) -> None:
        """By a worker that does not hold the job, under the number of the attempt that does."""
        holder, job = data.draw(st.sampled_from(self.running()))
        self.write_without_lease(data.draw(st.sampled_from([one for one in WORKERS if one != holder])), job, how)

    def write_without_lease(self, worker: str, job: Claimed, how: str) -> None:
        """It changes nothing, and the worker is told so."""
        store = self.queue.store
        answer: object
        if how == "append":
            answer = self.run(store.append(worker, job, [b"{}"]))
        elif how == "renew":
            answer = self.queue.renew(worker, job) != ["gone"]
        elif how == "checkpoint":
            answer = self.run(store.checkpoint(worker, job, {b"c1": b"late"}, [b"c2"]))
        elif how == "pin":
            answer = b"thread" in job.record and self.run(store.pin(worker, job, [("", "9999", ""), ("", "9999", "t")]))
        elif how in {"finish", "interrupt"}:
            answer = self.run(self.queue.finish(worker, job, "succeeded" if how == "finish" else "interrupted"))
        else:
            kind = "hand_back" if how == "hand back" else "backoff"
            answer = self.run(store.release(worker, job, kind, delay_seconds=5))  # type: ignore[arg-type]
        expected = "already" if self.repeats(worker, job, how) else "gone"
        expect(f"a late write is told so ({how})", answer or "gone", expected)
        expect(f"a late write changes nothing ({how})", self.read(), self.before)

    def repeats(self, worker: str, job: Claimed, how: str) -> bool:
        """Whether this is the lost end of that very attempt, sent once more."""
        if how in {"hand back", "back off"} and self.released.get(job.ref) == (worker, job.attempt):
            return job.ref in self.model.jobs
        now = self.model.jobs.get(job.ref)
        stands = now is not None and now.status in ENDS and now.attempt == job.attempt
        return how in WRITES[:4] and stands and (worker, job.ref, job.attempt) in self.ended

    # Claims without a reply

    @precondition(lambda self: self.count("queued") and not self.unsure)
    @rule(
        worker=st.sampled_from(WORKERS),
        limit=st.integers(1, 3),
        arrives=st.sampled_from(["in time", "too late", "some day"]),
        at_once=st.booleans(),
        cancelled=st.booleans(),
    )
    def claim_in_vain(self, worker: str, limit: int, arrives: str, at_once: bool, cancelled: bool) -> None:
        """The reply to a claim is lost, or the claim itself is slow; the worker disowns it at once, or some time."""
        if any(job.alone for by, job in self.running() if by == worker):
            return
        self.numbers[worker] += 1
        self.unsure.add(worker)
        self.on_their_way.append((worker, self.numbers[worker]))
        if arrives == "in time":
            taken = self.let_arrive(worker, self.numbers[worker], limit)
            if taken and cancelled:
                self.cancel(taken[0])
                self.check()
        if at_once or arrives == "too late":
            self.disown(worker)
            self.check()
        if arrives == "too late":
            self.let_arrive(worker, self.numbers[worker], limit)

    @precondition(lambda self: self.on_their_way)
    @rule(data=st.data(), limit=st.integers(1, 3))
    def a_slow_claim_arrives(self, data: st.DataObject, limit: int) -> None:
        """Perhaps after the worker has disowned it, or has claimed again."""
        worker, number = data.draw(st.sampled_from(self.on_their_way))
        self.let_arrive(worker, number, limit)

    def let_arrive(self, worker: str, number: int, limit: int) -> list[str]:
        """The store runs a claim; the worker does not learn what it took. Gives the refs of that."""
        self.on_their_way.remove((worker, number))
        taken = [job.ref for job in self.claim_now(worker, number, limit).jobs]
        self.check()
        return taken

    @precondition(lambda self: self.unsure)
    @rule(worker=st.sampled_from(WORKERS))
    def disown_what_is_unknown(self, worker: str) -> None:
        """A worker may do so at any time: what it knows is not touched."""
        self.disown(worker)
