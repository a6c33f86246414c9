"""A hypothesis state machine that drives the job store as clients and several workers do, in any order.

After each step the audit of all keys must be clean, and what changed must be a legal transition: an ended round stays as it is, only
the attempt that holds a job can write, a thread runs its jobs in the order in which they came, and each end has its delivery.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from redis import Redis as SyncRedis
from redis.asyncio import Redis

from shared.store import Claimed
from shared.store.keys import KEYS, key, ref
from tests.job_queue import LEASE_SECONDS, RETENTION_SECONDS, TENANT, WEBHOOK, JobQueue
from tests.store_audit import ENDED, Record, audit

JOBS = [f"job{number}" for number in range(6)]
GRAPHS = ["x", "y"]
WORKERS = ["w1", "w2", "w3"]
ENDS = [*sorted(ENDED), "interrupted"]
Answer = TypeVar("Answer")


@dataclass
class Snapshot:
    """What stands in Redis: records by ref, and the due time of the jobs that are not due yet."""

    jobs: dict[str, Record] = field(default_factory=dict)
    due: dict[str, float] = field(default_factory=dict)


class JobLife(RuleBasedStateMachine):
    """`connect` gives an asynchronous and a synchronous connection to an empty server."""

    def __init__(self, connect: Callable[[], tuple[Redis, SyncRedis]]) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.redis, self.sync_redis = connect()
        self.queue = JobQueue(self.redis, self.sync_redis)
        self.before = Snapshot()
        self.claimed: list[tuple[str, Claimed]] = []
        self.ended_by: set[tuple[str, str, int]] = set()  # worker, ref, attempt of each finish that was accepted
        self.deliveries: dict[str, list[str]] = {}
        self.arrivals: dict[str, int] = {}  # when each job joined its thread, in this round

    def run(self, call: Coroutine[Any, Any, Answer]) -> Answer:
        return self.runner.run(call)

    def holds(self, worker: str, job: Claimed) -> bool:
        """Whether, by the records, this attempt is the one that runs."""
        record = self.before.jobs.get(job.ref, {})
        return (record.get("status"), record.get("worker"), record.get("attempt")) == ("running", worker, str(job.attempt))

    # What clients do

    @rule(
        job_id=st.sampled_from(JOBS),
        graph=st.sampled_from(GRAPHS),
        thread_id=st.sampled_from([None, "t", "u"]),
        on_busy=st.sampled_from(["queue", "queue", "reject", "cancel"]),
        delay_ms=st.sampled_from([None, None, 5_000]),
        priority=st.sampled_from([0, 0, 5]),
        max_attempts=st.integers(1, 3),
        webhook=st.booleans(),
    )
    def submit(self, job_id: str, thread_id: str | None, on_busy: str, webhook: bool, **options: Any) -> None:
        known = self.before.jobs.get(ref(TENANT, job_id))
        holder = self.holder_of(thread_id)
        options |= {"thread_id": thread_id, "on_busy": on_busy, "fields": WEBHOOK if webhook else {}}
        answer = self.run(self.queue.submit(job_id, **options))
        if known:
            assert (answer.outcome, answer.status) == ("created", known["status"])
        elif holder and on_busy == "reject":
            assert (answer.outcome, answer.id) == ("busy", holder.partition(":")[2])
        else:
            assert (answer.outcome, answer.status) == ("created", "queued")

    @rule(job_id=st.sampled_from(JOBS))
    def cancel(self, job_id: str) -> None:
        status = self.before.jobs.get(ref(TENANT, job_id), {}).get("status")
        outcome = self.run(self.queue.store.cancel(TENANT, job_id))[0]
        expected = {None: "missing", "queued": "cancelled", "interrupted": "cancelled", "running": "cancelling"}
        assert outcome == expected.get(status, "ended")

    @rule(job_id=st.sampled_from(JOBS))
    def retry(self, job_id: str) -> None:
        status = self.before.jobs.get(ref(TENANT, job_id), {}).get("status")
        outcome = self.run(self.queue.store.retry(TENANT, job_id))[0]
        assert outcome == ("missing" if status is None else "queued" if status in {"failed", "cancelled"} else "refused")
        if outcome == "queued":
            self.arrivals.pop(ref(TENANT, job_id), None)

    @rule(job_id=st.sampled_from(JOBS))
    def erase(self, job_id: str) -> None:
        status = self.before.jobs.get(ref(TENANT, job_id), {}).get("status")
        outcome = self.run(self.queue.store.erase(TENANT, job_id))[0]
        assert outcome == ("missing" if status is None else "erased" if status in ENDED else "running")

    @rule()
    def expire(self) -> None:
        self.run(self.queue.store.expire())

    @rule(seconds=st.sampled_from([0.5, 2, 6, LEASE_SECONDS + 1, RETENTION_SECONDS + 1]))
    def pass_time(self, seconds: float) -> None:
        self.queue.pass_time(seconds)

    # What workers do

    @rule(
        worker=st.sampled_from(WORKERS),
        limit=st.integers(0, 3),
        graphs=st.sampled_from([GRAPHS, GRAPHS, ["x"]]),
        recover=st.sampled_from([True, True, False]),
    )
    def claim(self, worker: str, limit: int, graphs: list[str], recover: bool) -> None:
        if any(job.alone and self.holds(worker, job) for by, job in self.claimed if by == worker):
            return
        claim = self.run(self.queue.claim(worker, limit=limit, graphs=graphs, recover=recover))
        assert len(claim.jobs) <= limit
        assert not claim.hold or not claim.jobs
        ranks = [int(job.record[b"rank"]) for job in claim.jobs]
        assert ranks == sorted(ranks)
        for job in claim.jobs:
            assert job.attempt == int(self.before.jobs[job.ref]["attempt"]) + 1
            assert not job.alone or len(claim.jobs) == 1
            self.claimed.append((worker, job))
        if len(claim.jobs) < limit and not claim.hold and not any(job.alone for job in claim.jobs):
            lanes = [name for graph in graphs for name in self.sync_redis.keys(key("lane", "default", graph, "*"))]
            assert lanes == [], "a worker with free slots left ready jobs behind"

    @precondition(lambda self: self.claimed)
    @rule(data=st.data(), status=st.sampled_from(ENDS))
    def finish(self, data: st.DataObject, status: Any) -> None:
        worker, job = data.draw(st.sampled_from(self.claimed))
        holds, repeated = self.holds(worker, job), (worker, job.ref, job.attempt) in self.ended_by
        record = self.before.jobs.get(job.ref, {})
        answer = self.run(self.queue.finish(worker, job, status, output=b"1"))
        if holds:
            assert answer == "done"
            self.ended_by.add((worker, job.ref, job.attempt))
        else:
            ended = record.get("status") in ENDS and record.get("attempt") == str(job.attempt)
            assert answer == ("already" if repeated and ended else "gone")

    @precondition(lambda self: self.claimed)
    @rule(data=st.data(), kind=st.sampled_from(["hand_back", "backoff"]), delay=st.sampled_from([0, 5]))
    def release(self, data: st.DataObject, kind: Any, delay: int) -> None:
        worker, job = data.draw(st.sampled_from(self.claimed))
        record = self.before.jobs.get(job.ref, {})
        last_try = kind == "backoff" and record.get("tries") == record.get("max_attempts")
        answer = self.run(self.queue.store.release(worker, job, kind, delay_seconds=delay))
        if self.holds(worker, job):
            assert answer == ("cancelled" if "cancel" in record else "failed" if last_try else "queued")
            if answer != "queued":
                self.ended_by.add((worker, job.ref, job.attempt))
        else:
            assert answer in {"already", "gone"}

    @precondition(lambda self: self.claimed)
    @rule(data=st.data())
    def append(self, data: st.DataObject) -> None:
        worker, job = data.draw(st.sampled_from(self.claimed))
        assert self.run(self.queue.store.append(worker, job, [b"{}"])) is self.holds(worker, job)

    @precondition(lambda self: self.claimed)
    @rule(worker=st.sampled_from(WORKERS))
    def renew(self, worker: str) -> None:
        jobs = [job for by, job in self.claimed if by == worker]
        marked = {name for name, record in self.before.jobs.items() if "cancel" in record}
        expected = ["gone" if not self.holds(worker, job) else "cancel" if job.ref in marked else "held" for job in jobs]
        assert self.queue.renew(worker, *jobs) == expected

    # What must hold after each step

    @invariant()
    def all_is_where_it_should_be(self) -> None:
        assert audit(self.sync_redis) == []
        now = self.snapshot()
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
        if new["status"] in ENDS and (new["status"], new["round"]) != (old.get("status"), old.get("round")):
            job_id = name.partition(":")[2]
            if "webhook_url" in new:
                self.deliveries.setdefault(name, []).append(f"{job_id}.{new['round']}.{new['status']}")

    def note_arrivals(self, now: Snapshot) -> None:
        """Check that each thread belongs to the job that joined it first."""
        arrived = [name for name, job in now.jobs.items() if "thread" in job and name not in now.due]
        for name in sorted(arrived, key=lambda name: (self.before.due.get(name, 0), name)):
            if now.jobs[name]["status"] not in ENDED:
                self.arrivals.setdefault(name, max(self.arrivals.values(), default=0) + 1)
            else:
                self.arrivals.pop(name, None)
        first: dict[str, tuple[int, str]] = {}
        for name, number in self.arrivals.items():
            if name in now.jobs:
                thread = f"{TENANT}:{now.jobs[name]['thread']}"
                first[thread] = min(first.get(thread, (number, name)), (number, name))
        holders = {
            thread.decode().removeprefix(KEYS["thread"]): (self.sync_redis.hget(thread, "holder") or b"").decode()
            for thread in self.sync_redis.keys(KEYS["thread"] + "*")
        }
        assert holders == {thread: name for thread, (_, name) in first.items()}

    def holder_of(self, thread_id: str | None) -> str | None:
        jobs = {name: number for name, number in self.arrivals.items() if self.before.jobs[name]["thread_id"] == thread_id}
        return min(jobs, key=lambda name: jobs[name]) if jobs else None

    def snapshot(self) -> Snapshot:
        jobs = {}
        for name in self.sync_redis.keys(KEYS["job"] + "*"):
            record = {field.decode(): value.decode() for field, value in self.sync_redis.hgetall(name).items()}
            jobs[name.decode().removeprefix(KEYS["job"])] = record
        due = {name.decode(): due for name, due in self.sync_redis.zrange(key("due"), 0, -1, withscores=True)}
        return Snapshot(jobs, due)

    # The end: nothing is stuck, and nothing is left

    def teardown(self) -> None:
        for _ in range(4 * len(JOBS)):
            self.queue.pass_time(LEASE_SECONDS + 1)
            for job in self.run(self.queue.claim("last", graphs=GRAPHS)).jobs:
                self.run(self.queue.finish("last", job))
        for job_id in JOBS:
            self.run(self.queue.store.cancel(TENANT, job_id))
        jobs = self.snapshot().jobs.values()
        assert [job for job in jobs if job["status"] not in ENDED] == []
        assert audit(self.sync_redis) == []
        self.queue.pass_time(RETENTION_SECONDS + 1)
        self.run(self.queue.store.expire())
        left = [name for name in self.sync_redis.keys("mas:*") if b"deliver" not in name and b"control" not in name]
        assert {name.split(b":")[1] for name in left} <= {b"queues", b"graphs", b"turns", b"wake", b"solo"}
        self.run(self.redis.aclose())
        self.sync_redis.close()
        self.runner.close()
