"""What clients do, and the answers that they must get."""

from __future__ import annotations

import time
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from shared.store import DepthLimits
from shared.store.keys import digest
from tests.job_life.machine import GRAPHS, Machine, expect
from tests.job_life.model import Job
from tests.job_queue import RETENTION_SECONDS, TENANT, WEBHOOK
from tests.store_audit import ENDED

NO_LIMITS = DepthLimits()


class Clients(Machine):
    """Submit, cancel, retry, resume, erase; and time that passes until jobs are forgotten."""

    @precondition(lambda self: self.count() < 5)
    @rule(
        graph=st.sampled_from(GRAPHS),
        thread_id=st.sampled_from([None, None, "t", "t", "u"]),
        on_busy=st.sampled_from(["queue", "queue", "queue", "reject", "cancel"]),
        delay_ms=st.sampled_from([None, None, 5_000]),
        priority=st.sampled_from([0, 0, 5]),
        max_attempts=st.sampled_from([1, 2, 2, 3]),
        webhook=st.booleans(),
        idempotency_key=st.sampled_from(["", "", "", "k"]),
        fingerprint=st.sampled_from(["f", "f", "g"]),
        limits=st.sampled_from([NO_LIMITS, NO_LIMITS, DepthLimits(of_queue=2), DepthLimits(of_tenant=2)]),
    )
    def submit(self, **options: Any) -> None:
        self.submit_job(**options)

    def submit_job(
        self, graph: str, thread_id: str | None, on_busy: str, delay_ms: int | None = None, max_attempts: int = 2,
        webhook: bool = True, idempotency_key: str = "", fingerprint: str = "f", limits: DepthLimits = NO_LIMITS,
        **options: Any,
    ) -> None:  # fmt: skip
        self.submitted += 1
        job_id = f"job{999 - self.submitted}"  # the order of names is not the order of arrival
        thread = f"{TENANT}:{digest(thread_id)}" if thread_id else ""
        holder = self.model.holder(thread)
        known_id, known_fingerprint = self.model.keys.get(idempotency_key, ("", ""))
        options |= {
            "graph": graph, "thread_id": thread_id, "on_busy": on_busy, "delay_ms": delay_ms,
            "max_attempts": max_attempts, "fields": WEBHOOK if webhook else {},
            "idempotency_key": idempotency_key, "fingerprint": fingerprint,
        }  # fmt: skip
        waiting = self.count("queued")
        own = self.model.limits.max_waiting
        of_tenant = limits.of_tenant if own is None else own
        self.queue.store.limits = limits
        answer = self.run(self.queue.submit(job_id, **options))
        found = (answer.outcome, answer.id, answer.status, answer.ended_graph)
        if known_id and fingerprint != known_fingerprint:
            expect("a key stands for one request", found, ("conflict", "", "", ""))
        elif known_id:
            expect("the same key gives the same job", found, ("duplicate", known_id, "queued", ""))
        elif 0 < limits.of_queue <= waiting:
            expect("a full queue refuses", found, ("queue_full", "", "", ""))
        elif 0 < of_tenant <= waiting:
            expect("a tenant with too much waiting is refused", found, ("tenant_full", "", "", ""))
        elif holder and on_busy == "reject":
            expect("a busy thread refuses", found, ("busy", holder.partition(":")[2], "", ""))
        else:
            ended = ""
            if holder and on_busy == "cancel" and self.model.cancel(holder) == "cancelled":
                ended = self.model.jobs[holder].graph
            expect("a submit is accepted", found, ("created", job_id, "queued", ended))
            self.model.submit(f"{TENANT}:{job_id}", Job(graph, max_attempts, thread, webhook, due=delay_ms is not None))
            if idempotency_key:
                self.model.keys[idempotency_key] = (job_id, fingerprint)
            self.submit_again(job_id)

    def submit_again(self, job_id: str) -> None:
        answer = self.run(self.queue.submit(job_id))
        status = self.status_of(f"{TENANT}:{job_id}")
        expect("a submit sent twice gives the same job", (answer.outcome, answer.status), ("created", status))

    def cancel(self, ref: str) -> None:
        graph, outcome = self.model.jobs[ref].graph, self.model.cancel(ref)
        found = self.run(self.queue.store.cancel(TENANT, ref.partition(":")[2]))
        expect("a cancel is told what it did", found, (outcome, self.status_of(ref), graph))

    def retry(self, ref: str, start: Any) -> None:
        outcome = self.model.retry(ref, start)
        found = self.run(self.queue.store.retry(TENANT, ref.partition(":")[2], start))
        expect("a retry is told what it did", found, (outcome, self.status_of(ref)))
        if outcome == "queued":
            self.rounds_asked[ref] = self.queue.store.sent
        self.send_again(self.queue.store.sent, outcome, self.status_of(ref))

    def resume(self, ref: str, answer: str) -> None:
        outcome = self.model.resume(ref, answer)
        found = self.run(self.queue.store.resume(TENANT, ref.partition(":")[2], answer.encode()))
        expect("a resume is told what it did", found, (outcome, self.status_of(ref)))
        self.rounds_asked[ref] = self.queue.store.sent
        self.send_again(self.queue.store.sent, outcome, self.status_of(ref))

    def erase(self, ref: str) -> None:
        status = self.status_of(ref)
        self.model.forget(ref)
        found = self.run(self.queue.store.erase(TENANT, ref.partition(":")[2]))
        expect("an erase is told what it did", found, ("erased", status))

    @precondition(lambda self: self.count() > 1)
    @rule(data=st.data(), start=st.sampled_from(["checkpoint", "start"]))
    def ask_for_what_cannot_be(self, data: st.DataObject, start: Any) -> None:
        """Again what was asked before, a retry of a job that has not failed, a resume of one that does not wait."""
        ref = self.draw_job(data)
        job, status = ref.partition(":")[2], self.status_of(ref)
        self.submit_again(job)
        if ref in self.rounds_asked:
            self.send_again(self.rounds_asked[ref], "queued", status)
        if status not in {"failed", "cancelled"}:
            expect("retry is refused", self.run(self.queue.store.retry(TENANT, job, start)), ("refused", status))
        if status != "interrupted":
            expect("resume is refused", self.run(self.queue.store.resume(TENANT, job, b"0")), ("refused", status))
        if status not in ENDED:
            expect("erase is refused", self.run(self.queue.store.erase(TENANT, job)), ("running", status))
        expect("what is refused changes nothing", self.read(), self.before)

    @precondition(lambda self: self.count(*ENDED) > 2)
    @rule(seconds=st.sampled_from([0, 60, RETENTION_SECONDS + 1]))
    def expire(self, seconds: int) -> None:
        self.queue.pass_time(seconds)
        retention = self.before.zsets["expiry"].get("", {})
        count, *_ = self.run(self.queue.store.expire())
        now = time.time() * 1000 + self.queue.store.clock_offset_ms
        over = {ref for ref, end in retention.items() if end <= now}
        expect("exactly what has been kept for long enough is forgotten", count, len(over))
        for ref in over:
            self.model.forget(ref)
