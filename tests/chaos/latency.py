"""How soon a job whose worker was killed ran again."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from tests.chaos.traces import Kill, Traces

Figures = dict[str, float]


@dataclass(frozen=True)
class Restart:
    """The start of an attempt after one that was cut off, in seconds since several points of that one.

    An attempt starts with its first step, or with its claim where no step was left to run or another kill came first.
    """

    since_renewal: float  # its claim or its last renewal, whichever was later: when the lease began to run out
    since_kill: float
    since_start: float
    since_lease_end: float  # made up of these three:
    to_lane: float  # until a claim put the job back
    to_claim: float  # until there was a free slot
    to_step: float
    waiting: int  # jobs that had been submitted then, and not claimed yet


def restarts(kills: list[Kill], traces: Traces, lease_seconds: float) -> list[Restart]:
    """One for each attempt that was cut off."""
    waits = [(traces.submitted[job], events[0].at) for job, events in traces.statuses.items()]
    started, put_back, claimed = traces.started, traces.put_back, traces.claimed
    found = []
    for kill in kills:
        for cut in kill.cut:
            before, after = (cut.job, cut.attempt), (cut.job, cut.attempt + 1)
            again = started[after]
            found.append(
                Restart(
                    since_renewal=again - cut.lease_ends + lease_seconds,
                    since_kill=again - kill.at,
                    since_start=again - started[before],
                    since_lease_end=again - cut.lease_ends,
                    to_lane=put_back[before] - cut.lease_ends,
                    to_claim=claimed[after] - put_back[before],
                    to_step=again - claimed[after],
                    waiting=sum(submitted < again < claimed for submitted, claimed in waits),
                )
            )
    return found


def figures(seconds: Iterable[float]) -> Figures:
    """p50, p95 and the worst, by nearest rank."""
    ordered = sorted(seconds)
    return {
        name: round(ordered[math.ceil(part * len(ordered)) - 1], 3)
        for name, part in (("p50", 0.5), ("p95", 0.95), ("worst", 1.0))
    }
