"""`python -m bench` (or `make bench`): measures everything, prints the tables and keeps them in `results.md`.

`python -m bench service --only finished sleepers` is for a quick look at some of the service's figures, and
`python -m bench tuning --only fsync threads` at what some settings do.

`python -m bench service`, `savers`, `webhooks`, `protocol`, `auth`, `waiters`, `sizes` or `tuning` measures that part,
and replaces its section only.
`python -m bench soak` (or `make soak`) is no part of the whole, for it takes long; its exit status is 1 where something
grew. `python -m bench capacity --jobs-per-second 20 …` calculates what a load needs (`--help` has its options).
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from pathlib import Path

from bench.auth import measure as auth
from bench.budget import measure as budget
from bench.capacity import main as capacity
from bench.protocol import measure as protocol
from bench.savers import measure as savers
from bench.service import MEASUREMENTS, WAITING
from bench.service import measure as service
from bench.sizes import measure as sizes
from bench.soak import JOBS as SOAK_JOBS
from bench.soak import measure as soak
from bench.tuning import KNOBS
from bench.tuning import measure as tuning
from bench.waiters import measure as waiters
from bench.webhooks import measure as webhooks

# By part: what measures it, its repetitions, and the jobs of a run.
PARTS = {
    "service": (service, 5, 2000),
    "savers": (savers, 3, 300),
    "webhooks": (webhooks, 3, 2000),
    "protocol": (protocol, 3, 2000),
    "auth": (auth, 3, 1000),
    "waiters": (waiters, 3, 5000),
    "tuning": (tuning, 3, 1000),
    "sizes": (sizes, 1, 2000),
}


def _arguments() -> argparse.Namespace:
    options = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    options.add_argument(
        "part", nargs="?", choices=[*PARTS, "budget", "soak"], help="all but the last two, if not given"
    )
    options.add_argument("--repeats", type=int, help="runs of each measurement: 5 of the service, else 3")
    options.add_argument("--jobs", type=int, help="jobs of a run")
    options.add_argument(
        "--only", nargs="+", choices=[*MEASUREMENTS, *KNOBS], help="of the service, or of tuning; printed, not kept"
    )
    options.add_argument("--before", type=Path, help="of the budget: an earlier checkout to measure in turns with this")
    options.add_argument("--waiting", type=int, default=WAITING, help="jobs in the long queue; fewer are not kept")
    return options.parse_args()


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as at an error, what was started is stopped
    if sys.argv[1:2] == ["capacity"]:  # has options of its own
        return capacity(sys.argv[2:])
    asked = _arguments()
    if asked.part == "soak":
        return 0 if soak(asked.jobs or SOAK_JOBS) else 1
    if asked.part == "budget":
        budget(asked.repeats or 3, asked.jobs or 2000, before=asked.before)
        return 0
    started = time.perf_counter()
    for part in [asked.part] if asked.part else PARTS:
        measure, repeats, jobs = PARTS[part]
        repeats, jobs = asked.repeats or repeats, asked.jobs or jobs
        if part == "service":
            service(repeats, jobs, many=asked.waiting, only=asked.only or ())
        elif part == "tuning":
            tuning(repeats, jobs, only=asked.only or ())
        else:
            measure(repeats, jobs)
    print(f"all of it took {(time.perf_counter() - started) / 60:.0f} minutes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
