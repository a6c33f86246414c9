"""Planting a bug into the scripts' texts, in memory, and letting a state machine look for it."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import fakeredis
from redis import Redis as SyncRedis
from redis.asyncio import Redis

from shared.store import scripts
from shared.store.scripts.assembly import read_part
from tests.delivery_life import STEPS as LIFE_STEPS
from tests.delivery_life import DeliveryLife
from tests.fakes import fake_server
from tests.job_life import JobLife
from tests.job_life.trials import try_out_seeded
from tests.planted.bug import Bug, Life

Machine = JobLife | DeliveryLife

BATCHES: dict[Life, int] = {"jobs": 6, "deliveries": 3}
STEPS: dict[Life, int] = {"jobs": 40, "deliveries": LIFE_STEPS}
LIVES: dict[Life, type[JobLife] | type[DeliveryLife]] = {"jobs": JobLife, "deliveries": DeliveryLife}


@dataclass(frozen=True)
class Hunt:
    """How far the state machine went, and the rule that it saw broken; empty where it found nothing."""

    broken: str
    examples: int
    steps: int
    seconds: float


@contextmanager
def planted(bug: Bug) -> Iterator[None]:
    """Within this block the scripts have the bug. Raises `AssertionError` where its place is not there, or not once."""
    text = read_part(bug.script)
    places = text.count(bug.right)
    assert places == 1, f"{bug.name}: {bug.right!r} is in {bug.script}.lua {places} times: plant it anew"

    def with_bug(part: str) -> str:
        return text.replace(bug.right, bug.wrong) if part == bug.script else read_part(part)

    known = [script for script in vars(scripts).values() if isinstance(script, scripts.Script)]
    right = {script.text for script in known}
    for script in known:
        script.read(with_bug)
    assert any(script.text not in right for script in known)
    try:
        yield
    finally:
        for script in known:
            script.read(read_part)


class _Found(BaseException):
    """Leaves hypothesis at once, which would live the same life again to report it."""


def _hunted(life: type[Machine]) -> type[Machine]:
    def teardown(self: Machine) -> None:
        wrong = sys.exc_info()[1]
        try:
            life.teardown(self)
        except AssertionError as error:
            wrong = wrong or error
        if isinstance(wrong, AssertionError):  # not where a script could not run: that is no bug to be found
            raise _Found from wrong

    return type(f"Hunted{life.__name__}", (life,), {"teardown": teardown})


def hunt(life: Life) -> Hunt:
    """Run a state machine until it finds something wrong: on fakeredis, always the same way."""
    started, machines, broken = time.perf_counter(), list[Machine](), ""
    hunted = _hunted(LIVES[life])

    def machine() -> Machine:
        machines.append(hunted(_connect))
        return machines[-1]

    try:
        try_out_seeded(machine, BATCHES[life], steps=STEPS[life])
    except _Found as found:
        broken = str(found.__cause__)
    seconds = time.perf_counter() - started
    return Hunt(broken, len(machines), sum(one.steps for one in machines), seconds)


def _connect() -> tuple[Redis, SyncRedis]:
    server = fake_server()
    return fakeredis.FakeAsyncRedis(server=server), fakeredis.FakeRedis(server=server)
