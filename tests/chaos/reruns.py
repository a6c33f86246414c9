"""How soon a job ran again whose worker was killed or suspended, also where Redis was away then."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tests.chaos.traces import Traces


@dataclass(frozen=True)
class Loss:
    """A worker was lost: killed, or suspended. Times are monotonic."""

    pid: int
    at: float


@dataclass(frozen=True)
class Outage:
    """Redis was away: from its kill until it answered again."""

    begun: float
    ended: float


@dataclass(frozen=True)
class Rerun:
    """The start of the attempt after one that a loss had cut off."""

    job: str
    attempt: int  # the one that was cut off
    since_loss: float
    since_outage: float | None  # where Redis was away between the loss and this start: since it was back
    late: float  # beyond the time by which the lease had run out and might be taken back


def reruns(
    losses: Sequence[Loss], outages: Sequence[Outage], traces: Traces,
    runners: Mapping[tuple[str, int], Collection[int]], lease_seconds: float,
) -> Iterator[Rerun]:  # fmt: skip
    """One for each attempt that was put back after its worker was lost.

    After an outage a worker takes no lease back for a third of a lease and half a second.
    """
    started = traces.started
    for (job, attempt), at in traces.put_back.items():
        ran_in = runners.get((job, attempt), ())
        # One that was suspended may be killed later on.
        lost_at = max((loss.at for loss in losses if loss.pid in ran_in and loss.at < at), default=None)
        if lost_at is None:
            continue
        again = started[(job, attempt + 1)]
        possible, back = lost_at + lease_seconds, None
        for outage in outages:
            if lost_at < outage.ended and outage.begun < again:
                back = outage.ended
                possible = max(possible, back + lease_seconds / 3 + 0.5)
        since_outage = None if back is None else again - back
        yield Rerun(job, attempt, again - lost_at, since_outage, again - possible)
