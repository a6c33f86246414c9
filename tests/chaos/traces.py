"""What a run leaves behind: the lines of its steps, its jobs' status events, and the attempts that a kill cut off."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from redis import Redis

from shared.store.keys import key

TENANT = "default"


class Clock:
    """The server's milliseconds as this machine's monotonic seconds: server and test share one machine."""

    def __init__(self) -> None:
        self.offset = time.time() - time.monotonic()

    def monotonic(self, milliseconds: float) -> float:
        return milliseconds / 1000 - self.offset


@dataclass(frozen=True)
class Line:
    """A step of a job started or ended, at this monotonic time, in this process."""

    job: str
    attempt: int
    step: int
    event: str
    pid: int
    at: float


@dataclass(frozen=True)
class StatusEvent:
    """A status event of a job, at this monotonic time: `running` is a claim, `queued` a return to its lane."""

    status: str
    attempt: int
    at: float


@dataclass(frozen=True)
class Cut:
    """An attempt that a kill cut off, and when its lease was to end."""

    job: str
    attempt: int
    lease_ends: float


@dataclass(frozen=True)
class Kill:
    """A `kill -9`, and what it cut off."""

    pid: int
    at: float
    cut: list[Cut]


@dataclass(frozen=True)
class Traces:
    """What the jobs of one run left, in order of time. By `submitted` they rank, for their priorities are equal."""

    lines: dict[str, list[Line]]
    events: dict[str, list[dict[str, Any]]]  # all that are stored, as they are
    statuses: dict[str, list[StatusEvent]]
    submitted: dict[str, float]

    @property
    def claimed(self) -> dict[tuple[str, int], float]:
        """When each attempt of each job was claimed."""
        return self._times("running")

    @property
    def put_back(self) -> dict[tuple[str, int], float]:
        """When each attempt that ended nothing was put back."""
        return self._times("queued")

    @property
    def started(self) -> dict[tuple[str, int], float]:
        """When each attempt started: with its first step, or with its claim where it came to none."""
        steps = {(job, line.attempt): line.at for job, lines in self.lines.items() for line in reversed(lines)}
        return self.claimed | steps

    def without(self, attempts: set[tuple[str, int]]) -> Traces:
        """The same without the lines of these attempts of jobs."""
        kept = {job: [one for one in lines if (job, one.attempt) not in attempts] for job, lines in self.lines.items()}
        return replace(self, lines=defaultdict(list, kept))

    def _times(self, status: str) -> dict[tuple[str, int], float]:
        return {
            (job, event.attempt): event.at
            for job, events in self.statuses.items()
            for event in events
            if event.status == status
        }


def read_traces(file: Path, redis: Redis, jobs: Iterable[str], clock: Clock) -> Traces:
    """Read the steps' lines from their file, events and times of submit from the server."""
    names = list(jobs)
    lines: dict[str, list[Line]] = defaultdict(list)
    for text in file.read_text().splitlines():
        line = Line(**json.loads(text))
        lines[line.job].append(line)
    for of_job in lines.values():
        of_job.sort(key=lambda line: line.at)
    pipeline = redis.pipeline(transaction=False)
    for job in names:
        pipeline.lrange(key("events", f"{TENANT}:{job}"), 0, -1)
        pipeline.hget(key("job", f"{TENANT}:{job}"), "created_at")
    answers = pipeline.execute()
    events = {job: [json.loads(event) for event in stored] for job, stored in zip(names, answers[::2], strict=True)}
    statuses = {
        job: [
            StatusEvent(event["data"]["status"], event["attempt"], clock.monotonic(event["at"]))
            for event in stored
            if event["type"] == "status"
        ]
        for job, stored in events.items()
    }
    submitted = {job: clock.monotonic(int(at)) for job, at in zip(names, answers[1::2], strict=True)}
    return Traces(lines, events, statuses, submitted)


def cut_by(redis: Redis, pid: int, clock: Clock) -> list[Cut]:
    """What a killed worker still holds, before others put it back."""
    cut = []
    for held in redis.scan_iter(match=key("held", f"*-{pid}-*"), count=10_000):
        for ref in redis.smembers(held):
            name = ref.decode()
            fence, lease_ends = redis.get(key("running", name)), redis.zscore(key("leases"), name)
            if fence is not None and lease_ends is not None:
                attempt = int(fence.decode().rpartition(" ")[2])
                cut.append(Cut(name.partition(":")[2], attempt, clock.monotonic(lease_ends)))
    return cut
