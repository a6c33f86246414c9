"""Ways to set one thing up, measured in turns: each round begins with another way, and ratios are of one round."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import psutil

from bench.figures import shown, spread
from bench.processes import SECRET_KEY, answers, free_port, process, until

Measured = dict[str, float]  # by what is measured: "CPU µs a submit"


@dataclass(frozen=True)
class Knob:
    """One setting, or choice: what each round measured, by the way of setting it. Others are beside the first."""

    name: str
    ways: Mapping[str, Sequence[Measured]]

    @property
    def rows(self) -> Iterator[tuple[str, str, str, str, str]]:
        base, *_ = self.ways.values()
        for measure in base[0]:
            for way, rounds in self.ways.items():
                values = [one[measure] for one in rounds]
                ratios = [one[measure] / other[measure] for one, other in zip(rounds, base, strict=True)]
                beside = "1" if rounds is base else shown(median(ratios))
                yield self.name, measure, way, spread(values), beside


def in_turns(name: str, rounds: Iterator[int], ways: Mapping[str, Callable[[], Measured]]) -> Knob:
    """Measure each way once a round."""
    found: dict[str, list[Measured]] = {way: [] for way in ways}
    names = list(ways)
    for number in rounds:
        turn = number % len(names)
        for way in names[turn:] + names[:turn]:
            found[way].append(ways[way]())
    return Knob(name, found)


def cpu(pid: int) -> float:
    """CPU seconds of a process and its children, those that have ended too."""
    total = 0.0
    for one in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
        times = one.cpu_times()
        total += times.user + times.system
        total += times.children_user + times.children_system
    return total


class Spent:
    """CPU time of processes by name, from when it is made."""

    def __init__(self, **pids: int) -> None:
        self._pids = pids
        self._begun = {name: cpu(pid) for name, pid in pids.items()}

    def micros(self, name: str, count: int) -> float:
        """CPU µs of this process for each of so many."""
        return (cpu(self._pids[name]) - self._begun[name]) / count * 1e6


@dataclass(frozen=True)
class Served:
    """A gateway: its base URL, and the process that all of its processes belong to."""

    base: str
    pid: int


@contextmanager
def served(url: str, log: Path, **environment: str) -> Iterator[Served]:
    """A gateway with these settings, which takes any number of jobs, once it is ready."""
    port = free_port()
    settings = {
        "REDIS_URL": url, "SECRET_KEY": SECRET_KEY, "DATA_DIR": str(log.parent), "LOG_LEVEL": "WARNING",
        "HOST": "127.0.0.1", "PORT": str(port), "AUTH_REQUIRED": "false",
        "MAX_QUEUE_DEPTH": "0", "MAX_TENANT_DEPTH": "0", **environment,
    }  # fmt: skip
    with process("-m", "gateway", log=log, **settings) as started:
        base = f"http://127.0.0.1:{port}/api/v1"
        until(lambda: answers(f"{base}/health/ready"), 30, "the gateway is not ready")
        yield Served(base, started.pid)
