"""What must hold after a run, whatever was killed: each check gives a sentence for each thing that is wrong."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

from tests.chaos.load import Planned
from tests.chaos.traces import Kill, Traces

ENDED = {"succeeded", "failed", "cancelled"}
# Whether jobs without a thread continue from their last finished step, as those of a thread do.
RESUMES_WITHOUT_A_THREAD = True


def wrong_results(planned: Mapping[str, Planned], documents: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Each job has succeeded in its first round, and each of its steps is in its memory once, after those before it."""
    memory: dict[str, list[str]] = defaultdict(list)
    for job, plan in planned.items():
        document = documents[job]
        stands = (document["status"], document["round"], document["error"])
        if stands != ("succeeded", 1, None):
            yield f"{job} is {stands}"
            continue
        memory[plan.thread or job] += plan.trail
        if document["output"]["trail"] != memory[plan.thread or job]:
            yield f"{job} of {plan.thread} came to {document['output']['trail']}, not {memory[plan.thread or job]}"


def wrong_ends(planned: Mapping[str, Planned], traces: Traces) -> Iterator[str]:
    """Each job was claimed, put back and claimed again until it ended, once: nothing came after that."""
    for job in planned:
        attempts = traces.statuses[job][-1].attempt
        expected = [(status, n) for n in range(1, attempts + 1) for status in ("running", "queued")]
        expected[-1:] = [("succeeded", attempts)]
        found = [(event.status, event.attempt) for event in traces.statuses[job]]
        if found != expected:
            yield f"{job} went through {found}"


def repeated_steps(planned: Mapping[str, Planned], traces: Traces) -> Iterator[str]:
    """A step whose successor had started was stored as finished: no later attempt runs it again."""
    for job, plan in planned.items():
        if plan.thread is None and not RESUMES_WITHOUT_A_THREAD:
            continue
        furthest = -1
        for line in traces.lines[job]:
            if line.event == "start" and line.step < furthest:
                yield f"{job} of {plan.thread} ran step {line.step} again in attempt {line.attempt}, after {furthest}"
            furthest = max(furthest, line.step)


def overlapping_attempts(planned: Mapping[str, Planned], traces: Traces) -> Iterator[str]:
    """Nothing runs for an earlier attempt once a later one has started."""
    for job in planned:
        attempts = [line.attempt for line in traces.lines[job]]
        if attempts != sorted(attempts):
            yield f"{job} ran its attempts in the order {attempts}"


def wrong_threads(planned: Mapping[str, Planned], traces: Traces) -> Iterator[str]:
    """Within a thread jobs run one at a time, in the order in which they were submitted."""
    jobs_of: dict[str, list[str]] = defaultdict(list)
    for job, plan in planned.items():
        if plan.thread is not None:
            jobs_of[plan.thread].append(job)
    for thread, jobs in jobs_of.items():
        lines = sorted((line.at, place) for place, job in enumerate(jobs) for line in traces.lines[job])
        places = [place for _, place in lines]
        if places != sorted(places):
            yield f"{thread} ran steps of its jobs in the order {places}"


def overtaken(traces: Traces) -> Iterator[str]:
    """Between a job's return to its lane and its next claim, no job that was submitted later was claimed."""
    claims = [
        (event.at, traces.submitted[job], job, event.attempt)
        for job, events in traces.statuses.items()
        for event in events
        if event.status == "running"
    ]
    for job, events in traces.statuses.items():
        for returned, claimed in pairwise(events):
            if returned.status != "queued":
                continue
            for at, submitted, other, attempt in claims:
                if returned.at < at < claimed.at and submitted > traces.submitted[job]:
                    yield f"{other} (attempt {attempt}) overtook {job} (attempt {claimed.attempt})"


def unkept_cuts(kills: list[Kill], traces: Traces) -> Iterator[str]:
    """Each attempt that was cut off was put back, and followed by another."""
    for kill in kills:
        for cut in kill.cut:
            events = {(event.status, event.attempt) for event in traces.statuses[cut.job]}
            if not {("queued", cut.attempt), ("running", cut.attempt + 1)} <= events:
                yield f"attempt {cut.attempt} of {cut.job} was cut off, and then: {traces.statuses[cut.job]}"


def lost_without_a_kill(kills: list[Kill], traces: Traces) -> set[tuple[str, int]]:
    """The attempts that were put back although nobody killed their worker: on a busy machine a lease may run out.

    Such an attempt runs its step to the end, while the next attempt runs; it starts no other.
    """
    cut = {(cut.job, cut.attempt) for kill in kills for cut in kill.cut}
    put_back = {
        (job, event.attempt) for job, events in traces.statuses.items() for event in events if event.status == "queued"
    }
    return put_back - cut
