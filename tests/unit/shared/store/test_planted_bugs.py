"""The state machine finds what it is there to find: each of many bugs, planted into the scripts, makes it fail."""

from __future__ import annotations

import pytest

from tests.planted.bug import Bug
from tests.planted.bugs import BUGS
from tests.planted.hunt import hunt, planted


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_the_state_machine_finds(bug: Bug) -> None:
    with planted(bug):
        assert hunt().broken


def test_and_nothing_where_there_is_no_bug() -> None:
    assert hunt().broken == ""
