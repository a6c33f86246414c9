"""How long jobs wait: a simulation, event by event, of slots, processors and a provider's rate."""

from __future__ import annotations

import heapq
import math
import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Waiting:
    """Seconds from a submit to the job's start; `drained` is when the burst's last job started."""

    p50: float
    p95: float
    drained: float


def simulate(
    *, rate: float, seconds: float, cpu: float, slots: int, processes: int, provider: float = math.inf,
    burst: int = 0, jobs: int = 20_000, spread: bool = True, seed: int = 1,
) -> Waiting:  # fmt: skip
    """Jobs that come at random, `rate` a second, after `burst` of them at once.

    A job holds a slot for `seconds`, and before that one of the processes for `cpu` seconds; `provider` is how many a
    second the provider lets begin. With `spread` seconds are exponential, else all the same.
    """
    chance = random.Random(seed)  # noqa: S311
    free, idle = [0.0] * slots, [0.0] * processes
    now = allowed = drained = 0.0
    waits = []
    for number in range(burst + jobs):
        if number >= burst:
            now += chance.expovariate(rate)
        slot = heapq.heappop(free)
        start = max(now, slot)
        computed = max(start, heapq.heappop(idle)) + cpu
        heapq.heappush(idle, computed)
        # The provider holds the slot: the call waits inside of the job.
        called = max(computed, allowed)
        allowed = called + (0 if math.isinf(provider) else 1 / provider)
        lasts = chance.expovariate(1 / seconds) if spread and seconds else seconds
        heapq.heappush(free, called + lasts)
        waits.append(called - cpu - now)
        if number < burst:
            drained = max(drained, called)
    ordered = sorted(waits[burst:] or waits)
    return Waiting(ordered[len(ordered) // 2], ordered[int(len(ordered) * 0.95)], drained)
