"""What an operator allows a tenant, and the jobs that a limit has most to do with: those that must run alone."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from shared.store import TenantLimits
from tests.job_life.mishaps import Mishaps
from tests.job_queue import LEASE_SECONDS, TENANT


class Limits(Mishaps):
    """Limits that come, go and change while jobs run."""

    @rule(
        max_running=st.sampled_from([None, 0, 1, 1, 2]),
        max_waiting=st.sampled_from([None, None, None, 0, 3]),
    )
    def set_limits(self, max_running: int | None, max_waiting: int | None = None) -> None:
        self.model.limits = TenantLimits(max_running=max_running, max_waiting=max_waiting)
        self.run(self.queue.tenants.put(TENANT, self.model.limits))

    @precondition(lambda self: self.count() < 4)
    @rule(places=st.sampled_from([0, 1, 1]), order=st.permutations(["w1", "w2", "w3"]))
    def lose_jobs_of_a_limited_tenant(self, places: int, order: list[str]) -> None:
        """One worker is lost with jobs whose next try has to run alone; two others are busy, and one is idle."""
        lost, *busy = order
        self.set_limits(None)
        for _ in range(2):
            self.submit_job("x", None, "queue", max_attempts=2)
        self.claim_and_check(lost, 5)
        self.queue.pass_time(LEASE_SECONDS * 0.6)
        for worker in busy:
            self.submit_job("x", None, "queue")
            self.claim_and_check(worker, 1)
        self.queue.pass_time(LEASE_SECONDS * 0.6)
        self.submit_job("y", None, "queue")
        self.claim_and_check(lost, 0)
        self.set_limits(self.count("running") + places)
        for worker in (*busy, lost, busy[1]):
            self.claim_and_check(worker, 2)

    def claim_and_check(self, worker: str, limit: int) -> None:
        self.claim_for(worker, limit)
        self.check()
