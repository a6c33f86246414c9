"""A hypothesis state machine that drives the job store as clients and several workers do, in any order.

After each step the audit of all keys must be clean, and what changed must be a legal transition: an ended round stays
as it is, only the attempt that holds a job can write, a thread runs its jobs in the order in which they came, and each
end has its delivery.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from redis import Redis as SyncRedis
from redis.asyncio import Redis

from shared.store import Claimed
from shared.store.keys import key
from tests.job_queue import LEASE_SECONDS, RETENTION_SECONDS, TENANT, WEBHOOK, JobQueue
from tests.store_audit import ENDED, Dump, Record, faults, read_all

GRAPHS = ["x", "y"]
WORKERS = ["w1", "w2", "w3"]
ENDS = [*sorted(ENDED), "interrupted"]
Answer = TypeVar("Answer")


class JobLife(RuleBasedStateMachine):
    """`connect` gives an asynchronous and a synchronous connection to an empty server."""

    def __init__(self, connect: Callable[[], tuple[Redis, SyncRedis]]) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.redis, self.sync_redis = connect()
        self.queue = JobQueue(self.redis, self.sync_redis)
        self.before = read_all(self.sync_redis)
        self.submitted = 0
        self.claimed: list[tuple[str, Claimed]] = []
        self.ended: set[tuple[str, str, int]] = set()  # worker, ref and attempt of those that ended a round
        self.released: set[tuple[str, str, int]] = set()  # of those that gave their job back
        self.deliveries: dict[str, list[str]] = {}
        self.arrivals: dict[str, int] = {}  # when each job joined its thread, in this round

    def run(self, call: Coroutine[Any, Any, Answer]) -> Answer:
        return self.runner.run(call)

    # What clients do

    @precondition(lambda self: sum(job["status"] not in ENDED for job in self.before.jobs.values()) < 5)
    @rule(
        graph=st.sampled_from(GRAPHS),
        thread_id=st.sampled_from([None, "t", "t", "u"]),
        on_busy=st.sampled_from(["queue", "queue", "reject", "cancel"]),
        delay_ms=st.sampled_from([None, None, 5_000]),
        priority=st.sampled_from([0, 0, 5]),
        max_attempts=st.integers(1, 3),
        webhook=st.booleans(),
    )
    def submit(self, thread_id: str | None, on_busy: str, webhook: bool, **options: Any) -> None:
        self.submitted += 1
        holder = self.holder_of(thread_id)
        options |= {"thread_id": thread_id, "on_busy": on_busy, "fields": WEBHOOK if webhook else {}}
        answer = self.run(self.queue.submit(f"job{self.submitted}", **options))
        if holder and on_busy == "reject":
            assert (answer.outcome, answer.id) == ("busy", holder.partition(":")[2])
        else:
            assert (answer.outcome, answer.status) == ("created", "queued")

    @precondition(lambda self: self.before.jobs)
    @rule(data=st.data(), delay_ms=st.sampled_from([None, 5_000]))
    def submit_again(self, data: st.DataObject, delay_ms: int | None) -> None:
        """The reply was lost: nothing may change, wherever the job is by now."""
        name = self.draw_job(data)
        answer = self.run(self.queue.submit(name.partition(":")[2], delay_ms=delay_ms))
        assert (answer.outcome, answer.status) == ("created", self.before.jobs[name]["status"])
        assert read_all(self.sync_redis) == self.before

    @precondition(lambda self: self.before.jobs)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        name = self.draw_job(data)
        outcome = self.run(self.queue.store.cancel(TENANT, name.partition(":")[2]))[0]
        expected = {"queued": "cancelled", "interrupted": "cancelled", "running": "cancelling"}
        assert outcome == expected.get(self.before.jobs[name]["status"], "ended")

    @precondition(lambda self: self.before.jobs)
    @rule(data=st.data())
    def retry(self, data: st.DataObject) -> None:
        name = self.draw_job(data, "failed", "cancelled")
        outcome = self.run(self.queue.store.retry(TENANT, name.partition(":")[2]))[0]
        assert outcome == ("queued" if self.before.jobs[name]["status"] in {"failed", "cancelled"} else "refused")

    @precondition(lambda self: self.before.jobs)
    @rule(data=st.data())
    def erase(self, data: st.DataObject) -> None:
        name = self.draw_job(data)
        outcome = self.run(self.queue.store.erase(TENANT, name.partition(":")[2]))[0]
        assert outcome == ("erased" if self.before.jobs[name]["status"] in ENDED else "running")

    # What workers do

    @rule(
        seconds=st.sampled_from([0, 0, 6, LEASE_SECONDS + 1]),
        worker=st.sampled_from(WORKERS),
        limit=st.sampled_from([0, 1, 1, 2, 3]),
        graphs=st.sampled_from([GRAPHS, GRAPHS, ["x"]]),
        recover=st.sampled_from([True, True, False]),
    )
    def claim(self, seconds: float, worker: str, limit: int, graphs: list[str], recover: bool) -> None:
        self.queue.pass_time(seconds)
        self.claim_for(worker, limit, graphs, recover)

    @precondition(lambda self: any(job["status"] == "queued" for job in self.before.jobs.values()))
    @rule(worker=st.sampled_from(WORKERS), limit=st.integers(1, 3))
    def claim_what_is_ready(self, worker: str, limit: int) -> None:
        self.claim_for(worker, limit, GRAPHS, True)

    def claim_for(self, worker: str, limit: int, graphs: list[str], recover: bool) -> None:
        if any(job.alone and self.holds(worker, job) for by, job in self.claimed if by == worker):
            return
        claim = self.run(self.queue.claim(worker, limit=limit, graphs=graphs, recover=recover))
        assert len(claim.jobs) <= limit
        assert not claim.hold or not claim.jobs
        ranks = [int(job.record[b"rank"]) for job in claim.jobs]
        assert ranks == sorted(ranks)
        for job in claim.jobs:
            old = self.before.jobs[job.ref]
            assert (job.attempt, int(job.record[b"tries"])) == (int(old["attempt"]) + 1, int(old["tries"]) + 1)
            lost = int(job.record.get(b"lost", 0))
            assert job.alone == (lost > 0 and job.record[b"tries"] == job.record[b"max_attempts"])
            assert not job.alone or len(claim.jobs) == 1
            self.claimed.append((worker, job))
        if len(claim.jobs) < limit and not claim.hold and not any(job.alone for job in claim.jobs):
            lanes = [name for graph in graphs for name in self.sync_redis.keys(key("lane", "default", graph, "*"))]
            assert lanes == [], "a worker with free slots left ready jobs behind"

    @precondition(lambda self: self.running())
    @rule(data=st.data(), status=st.sampled_from(ENDS))
    def finish(self, data: st.DataObject, status: Any) -> None:
        worker, job = data.draw(st.sampled_from(self.running()))
        assert self.run(self.queue.finish(worker, job, status, output=b"1")) == "done"
        self.ended.add((worker, job.ref, job.attempt))

    @precondition(lambda self: self.running())
    @rule(data=st.data(), kind=st.sampled_from(["hand_back", "backoff"]), delay=st.sampled_from([0, 5]))
    def release(self, data: st.DataObject, kind: Any, delay: int) -> None:
        worker, job = data.draw(st.sampled_from(self.running()))
        old = self.before.jobs[job.ref]
        no_try_left = kind == "backoff" and old["tries"] == old["max_attempts"]
        answer = self.run(self.queue.store.release(worker, job, kind, delay_seconds=delay))
        assert answer == ("cancelled" if "cancel" in old else "failed" if no_try_left else "queued")
        if answer == "queued":
            tries = read_all(self.sync_redis).jobs[job.ref]["tries"]
            assert int(tries) == int(old["tries"]) - (kind == "hand_back")
            self.released.add((worker, job.ref, job.attempt))
        else:
            self.ended.add((worker, job.ref, job.attempt))

    @precondition(lambda self: self.claimed)
    @rule(data=st.data(), how=st.sampled_from(["finish", "interrupt", "release", "append"]))
    def write_late(self, data: st.DataObject, how: str) -> None:
        """A worker that does not hold the job, or not any more, writes nothing; it is told so."""
        by, job = data.draw(st.sampled_from(self.running() + self.claimed[-8:]))
        worker = data.draw(st.sampled_from([worker for worker in [by, by, *WORKERS] if not self.holds(worker, job)]))
        answer: Any
        if how == "append":
            answer = self.run(self.queue.store.append(worker, job, [b"{}"]))
            assert answer is False
        elif how == "release":
            answer = self.run(self.queue.store.release(worker, job, "backoff", delay_seconds=5))
            assert answer in {"already", "gone"}
        else:
            answer = self.run(self.queue.finish(worker, job, "succeeded" if how == "finish" else "interrupted"))
            attempt = (worker, job.ref, job.attempt)
            record = self.before.jobs.get(job.ref, {})
            stands = record.get("status") in ENDS and record.get("attempt") == str(job.attempt)
            assert answer == ("already" if stands and attempt in self.ended else "gone")
        assert read_all(self.sync_redis) == self.before

    @precondition(lambda self: self.claimed)
    @rule(worker=st.sampled_from(WORKERS))
    def renew(self, worker: str) -> None:
        jobs = [job for by, job in self.claimed if by == worker]
        marked = {name for name, record in self.before.jobs.items() if "cancel" in record}
        expected = [
            "gone" if not self.holds(worker, job) else "cancel" if job.ref in marked else "held" for job in jobs
        ]
        assert self.queue.renew(worker, *jobs) == expected

    def draw_job(self, data: st.DataObject, *statuses: str) -> str:
        """One of the jobs; one of these statuses where there is any."""
        jobs = [name for name, record in self.before.jobs.items() if record["status"] in statuses]
        return data.draw(st.sampled_from(sorted(jobs or self.before.jobs)))

    def holds(self, worker: str, job: Claimed) -> bool:
        """Whether, by the records, this attempt is the one that runs."""
        record = self.before.jobs.get(job.ref, {})
        return (record.get("status"), record.get("worker"), record.get("attempt")) == (
            "running",
            worker,
            str(job.attempt),
        )

    def running(self) -> list[tuple[str, Claimed]]:
        return [(worker, job) for worker, job in self.claimed if self.holds(worker, job)]

    # What must hold after each step

    @invariant()
    def all_is_where_it_should_be(self) -> None:
        now = read_all(self.sync_redis)
        assert faults(now) == []
        for name, record in now.jobs.items():
            self.check_transition(name, self.before.jobs.get(name, {}), record)
        for name in self.before.jobs.keys() - now.jobs.keys():
            assert self.before.jobs[name]["status"] in ENDED, "only ended jobs are forgotten"
            self.arrivals.pop(name, None)
        self.note_arrivals(now)
        self.before = now
        for name, ids in self.deliveries.items():
            assert [str(value, "ascii") for value in self.sync_redis.lrange(key("deliveries", name), 0, -1)] == ids

    def check_transition(self, name: str, old: Record, new: Record) -> None:
        if old.get("status") in ENDED and old["round"] == new["round"]:
            assert new == old, "an ended round changed"
        assert int(new["attempt"]) >= int(old.get("attempt", 0))
        assert int(new["tries"]) <= int(new["max_attempts"])
        assert int(new["round"]) - int(old.get("round", 1)) in {0, 1}
        if "cancel" in old and old["round"] == new["round"]:
            assert (new["attempt"], new["status"] != "queued") == (old["attempt"], True), "a job to be cancelled ran on"
        if new["status"] in ENDS and (new["status"], new["round"]) != (old.get("status"), old.get("round")):
            job_id = name.partition(":")[2]
            if "webhook_url" in new:
                self.deliveries.setdefault(name, []).append(f"{job_id}.{new['round']}.{new['status']}")

    def note_arrivals(self, now: Dump) -> None:
        """Check that each thread belongs to the job that joined it first."""
        arrived = [name for name, job in now.jobs.items() if "thread" in job and name not in now.due]
        for name in sorted(arrived, key=lambda name: (self.before.due.get(name, 0), name)):
            if now.jobs[name]["round"] != self.before.jobs.get(name, {}).get("round"):
                self.arrivals.pop(name, None)
            if now.jobs[name]["status"] not in ENDED:
                self.arrivals.setdefault(name, max(self.arrivals.values(), default=0) + 1)
            else:
                self.arrivals.pop(name, None)
        first: dict[str, tuple[int, str]] = {}
        for name, number in self.arrivals.items():
            if name in now.jobs:
                thread = f"{TENANT}:{now.jobs[name]['thread']}"
                first[thread] = min(first.get(thread, (number, name)), (number, name))
        holders = {thread: fields["holder"] for thread, fields in now.hashes["thread"].items()}
        assert holders == {thread: name for thread, (_, name) in first.items()}

    def holder_of(self, thread_id: str | None) -> str | None:
        jobs = {
            name: number for name, number in self.arrivals.items() if self.before.jobs[name]["thread_id"] == thread_id
        }
        return min(jobs, key=lambda name: jobs[name]) if jobs else None

    # The end: nothing is stuck, and nothing is left

    def teardown(self) -> None:
        for name in [name for name, job in self.before.jobs.items() if job["status"] == "interrupted"]:
            self.run(self.queue.store.cancel(TENANT, name.partition(":")[2]))
        for _ in range(3 * len(self.before.jobs)):
            self.queue.pass_time(LEASE_SECONDS + 1)
            for job in self.run(self.queue.claim("last", graphs=GRAPHS)).jobs:
                self.run(self.queue.finish("last", job))
        assert faults(read_all(self.sync_redis)) == []
        assert [job for job in read_all(self.sync_redis).jobs.values() if job["status"] not in ENDED] == [], "stuck"
        self.queue.pass_time(RETENTION_SECONDS + 1)
        self.run(self.queue.store.expire())
        kinds = {name.split(b":")[1] for name in self.sync_redis.keys("*") if b"deliver" not in name}
        assert kinds <= {b"queues", b"graphs", b"turns", b"wake", b"control"}, "left over"
        self.run(self.redis.aclose())
        self.sync_redis.close()
        self.runner.close()
