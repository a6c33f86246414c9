"""What must hold after a run, whatever was killed: each check gives a sentence for each thing that is wrong."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from itertools import pairwise
from typing import Any

from tests.chaos.load import Planned
from tests.chaos.traces import Kill, Traces

ENDED = {"succeeded", "failed", "cancelled"}
# Whether jobs without a thread continue from their last finished step, as those of a thread do.
RESUMES_WITHOUT_A_THREAD = True
CLOCKS_DIFFER = 0.05  # the server's and that of the steps' lines, in seconds


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


def late_starts(traces: Traces) -> Iterator[str]:
    """An attempt starts no step once a later one is claimed: a step that was under way may go on to its end."""
    claimed = traces.claimed
    for job, lines in traces.lines.items():
        for line in lines:
            next_claim = claimed.get((job, line.attempt + 1))
            if line.event == "start" and next_claim is not None and line.at > next_claim + CLOCKS_DIFFER:
                yield f"attempt {line.attempt} of {job} started step {line.step} after the next attempt was claimed"


def foreign_steps(traces: Traces, runners: Mapping[tuple[str, int], Collection[int]]) -> Iterator[str]:
    """Each step ran in the one worker that had claimed its attempt. `runners`: the pids of those that say so."""
    for attempt, pids in runners.items():
        if len(pids) != 1:
            yield f"{attempt} was run by {pids}"
    claimed = traces.claimed
    for job, lines in traces.lines.items():
        for line in lines:
            of_attempt = (job, line.attempt)
            if line.pid not in runners.get(of_attempt, ()):
                yield f"{line} was run by another than {runners.get(of_attempt)}"
            if of_attempt not in claimed or line.at < claimed[of_attempt] - CLOCKS_DIFFER:
                yield f"{line} came before its claim"


def stray_events(traces: Traces) -> Iterator[str]:
    """What an attempt tells stands between its claim and its end: nothing was written without the lease."""
    for job, events in traces.events.items():
        holder = None
        for event in events:
            status = event["data"]["status"] if event["type"] == "status" else None
            if status == "running":
                holder = event["attempt"]
            elif event["attempt"] != holder:
                yield f"{job} has {event} while attempt {holder} held it"
            elif status is not None:
                holder = None


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
    return set(traces.put_back) - cut
