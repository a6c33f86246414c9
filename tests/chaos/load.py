"""The jobs that a chaos test submits, and what each must come to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

STEPS = {"one_step": 1, "two_steps": 2, "three_steps": 3}
JOBS_OF_A_THREAD = 6
JOBS_OF_A_CLIENTS_THREAD = 5


@dataclass(frozen=True)
class Planned:
    """A job to submit. `seconds` is how long each of its steps takes."""

    name: str
    graph: str
    seconds: tuple[float, ...]
    thread: str | None = None
    webhook: bool = False
    max_attempts: int = 20

    def request(self, file: str, webhook_url: str) -> dict[str, Any]:
        """The body for the gateway; the steps leave their lines in `file`."""
        body: dict[str, Any] = {
            "graph": self.graph,
            "input": {"file": file, "name": self.name, "seconds": self.seconds},
            "max_attempts": self.max_attempts,
        }
        if self.thread is not None:
            body["thread_id"] = self.thread
        if self.webhook:
            body["webhook"] = {"url": webhook_url}
        return body

    @property
    def trail(self) -> list[str]:
        """What its own steps add to the thread's memory."""
        return [f"{self.name}/{step}" for step in range(len(self.seconds))]


def mixed(threads: int, random: Random) -> Iterator[list[Planned]]:
    """For each thread a batch with its six jobs, in order, among six others without a thread, two with a webhook."""
    for number in range(threads):
        batch = []
        for place in range(2 * JOBS_OF_A_THREAD):
            graph = random.choice(["two_steps", "three_steps"])
            batch.append(
                Planned(
                    name=f"{number}.{place}",
                    graph=graph,
                    seconds=tuple(round(random.uniform(0.2, 1.2), 3) for _ in range(STEPS[graph])),
                    thread=f"thread {number}" if place % 2 else None,
                    webhook=place < 2,
                )
            )
        yield batch


def short(count: int, random: Random) -> list[Planned]:
    """Jobs of one step, of a second on average."""
    return [Planned(f"short.{number}", "one_step", (round(random.uniform(0.5, 1.5), 3),)) for number in range(count)]


def of_a_client(name: str, count: int, random: Random) -> list[Planned]:
    """So many jobs of one to three steps, all with a webhook. Two in five are in threads of five, in order."""
    threads = [f"thread {name}.{number // JOBS_OF_A_CLIENTS_THREAD}" for number in range(2 * count // 5)]
    places = sorted(random.sample(range(count), len(threads)))
    random.shuffle(threads)
    thread_of = dict(zip(places, threads, strict=True))
    plans = []
    for place in range(count):
        graph = random.choice(list(STEPS))
        seconds = tuple(round(random.uniform(0.3, 1.0), 3) for _ in range(STEPS[graph]))
        plans.append(Planned(f"{name}.{place}", graph, seconds, thread_of.get(place), webhook=True))
    return plans
