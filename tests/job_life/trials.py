"""Running a state machine: how often, how long, and from which seeds."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

BATCHES = int(os.environ.get("JOB_LIFE_BATCHES", "5"))  # of the tests; more look deeper
STEPS = 40  # of one life
# From the tenth on hypothesis makes most examples by repeating parts of others, which here finds less than new ones.
BATCH = settings(
    max_examples=9,
    phases=[Phase.generate, Phase.shrink],
    database=None,
    deadline=None,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)
UNSHRUNK = settings(BATCH, phases=[Phase.generate])


def try_out(machine: Callable[[], RuleBasedStateMachine], batches: int = BATCHES, *, steps: int = STEPS) -> None:
    """Let `machine()` live on an empty server each time. Raises `AssertionError` with the shortest bad life."""
    for _ in range(batches):
        run_state_machine_as_test(_factory(machine), settings=settings(BATCH, stateful_step_count=steps))


def try_out_seeded(machine: Callable[[], RuleBasedStateMachine], batches: int, *, steps: int = STEPS) -> None:
    """The same lives each time, and no search for a shorter one where one goes wrong."""
    for number in range(batches):
        run_state_machine_as_test(
            seed(number)(_factory(machine)), settings=settings(UNSHRUNK, stateful_step_count=steps)
        )


def _factory(machine: Callable[[], RuleBasedStateMachine]) -> Any:
    return lambda: machine()  # a seed stays with the function that it was given to
