"""The state machines find what they are there to find: each of many bugs, planted into the scripts, makes one fail."""

from __future__ import annotations

import pytest

from tests.planted.bug import Bug, Life
from tests.planted.bugs import BUGS
from tests.planted.hunt import LIVES, hunt, planted

# These are met only after long, and take as much time together as all the others: `make planted-bugs` hunts them, too.
SELDOM_MET = {
    "a backoff gives up the place in the thread",
    "a cancelled job stays among those not due",
    "a disowned job has lost a try",
    "a hand-back counts as a try",
    "a head before is that of the thread, not of the job",
    "a parked job that is cancelled stays in line",
    "a pause does not double",
    "a release for another try ignores the cancel mark",
    "a retry from the start goes on from the thread's head",
    "a retry from the start takes a head from the one that runs",
    "a retry ignores that its thread has moved on",
    "a retry ignores that its thread is busy",
    "a thread's line is in the order of names",
    "a worker disowns nothing",
    "an answer is given to the next question too",
    "on_busy=cancel ends the round of an interrupt again",
    "the last in a thread's line is next",
}


@pytest.mark.parametrize("bug", [bug for bug in BUGS if bug.name not in SELDOM_MET], ids=lambda bug: bug.name)
def test_the_state_machine_finds(bug: Bug) -> None:
    with planted(bug):
        assert hunt(bug.life).broken


def test_those_that_are_seldom_met_are_among_the_bugs() -> None:
    assert {bug.name for bug in BUGS} > SELDOM_MET


@pytest.mark.parametrize("life", LIVES)
def test_and_nothing_where_there_is_no_bug(life: Life) -> None:
    assert hunt(life).broken == ""
