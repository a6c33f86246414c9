"""The state machines find what they are there to find: each of many bugs, planted into the scripts, makes one fail."""

from __future__ import annotations

import pytest

from tests.planted.bug import Bug, Life
from tests.planted.bugs import BUGS
from tests.planted.hunt import LIVES, hunt, planted


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_the_state_machine_finds(bug: Bug) -> None:
    with planted(bug):
        assert hunt(bug.life).broken


@pytest.mark.parametrize("life", LIVES)
def test_and_nothing_where_there_is_no_bug(life: Life) -> None:
    assert hunt(life).broken == ""
