"""Calls that coincide share a round trip, and nobody is told of another's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import fakeredis
import pytest

from shared.store import StoreUnavailable, scripts, together
from shared.store.together import LINES, CallsTogether


class Server:
    """Answers a call with its own arguments; `open` lets it, and what it finds in `faults` it raises."""

    def __init__(self) -> None:
        self.trips: list[list[list[Any]]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.down: Exception | None = None

    async def run_many(self, _: Any, script: Any, calls: list[list[Any]], *, replicas: int) -> list[Any]:
        self.trips.append(calls)
        await self.open.wait()
        if self.down is not None:
            raise self.down
        return [ValueError("refused") if call == ["refuse"] else [replicas, *call] for call in calls]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    server = Server()
    monkeypatch.setattr(together, "run_many", server.run_many)
    return server


@pytest.fixture
async def calls() -> AsyncIterator[CallsTogether]:
    redis = fakeredis.FakeAsyncRedis()
    yield CallsTogether(redis, replicas=2)
    await redis.aclose()


async def test_the_calls_of_one_turn_share_a_round_trip_and_each_has_its_own_answer(
    server: Server, calls: CallsTogether
) -> None:
    answers = await asyncio.gather(*(calls.run(scripts.APPEND, number) for number in range(10)))
    assert answers == [[2, number] for number in range(10)]
    assert len(server.trips) == 1


async def test_a_call_that_is_alone_does_not_wait_for_others(server: Server, calls: CallsTogether) -> None:
    assert await calls.run(scripts.APPEND, 1) == [2, 1]
    assert await calls.run(scripts.FINISH, 2) == [2, 2]
    assert server.trips == [[[1]], [[2]]]


async def test_what_comes_while_round_trips_are_under_way_goes_together_in_the_next(
    server: Server, calls: CallsTogether
) -> None:
    server.open.clear()
    asked = []
    for number in range(6):
        asked.append(asyncio.create_task(calls.run(scripts.APPEND, number)))
        await asyncio.sleep(0.001)
    assert len(server.trips) == LINES
    server.open.set()
    assert await asyncio.gather(*asked) == [[2, number] for number in range(6)]
    assert server.trips[LINES] == [[number] for number in range(LINES, 6)]


async def test_an_error_is_its_own_callers_only(server: Server, calls: CallsTogether) -> None:
    found = await asyncio.gather(
        calls.run(scripts.APPEND, 1), calls.run(scripts.APPEND, "refuse"), calls.run(scripts.APPEND, 3),
        return_exceptions=True,
    )  # fmt: skip
    assert isinstance(found[1], ValueError)
    assert (found[0], found[2]) == ([2, 1], [2, 3])


async def test_each_is_told_where_the_server_is_away_and_the_next_call_is_sent(
    server: Server, calls: CallsTogether
) -> None:
    server.down = StoreUnavailable("away")
    found = await asyncio.gather(*(calls.run(scripts.APPEND, n) for n in range(3)), return_exceptions=True)
    assert all(isinstance(one, StoreUnavailable) and str(one) == "away" for one in found)
    assert len({id(one) for one in found}) == 3
    server.down = None
    assert await calls.run(scripts.APPEND, 4) == [2, 4]


async def test_a_caller_that_is_cancelled_takes_nothing_from_the_others(server: Server, calls: CallsTogether) -> None:
    server.open.clear()
    asked = [asyncio.create_task(calls.run(scripts.APPEND, number)) for number in range(3)]
    await asyncio.sleep(0.001)
    asked[1].cancel()
    server.open.set()
    assert await asyncio.gather(asked[0], asked[2]) == [[2, 0], [2, 2]]
    assert asked[1].cancelled()


async def test_a_connection_that_hangs_holds_up_those_only_that_were_asked_over_it(
    server: Server, calls: CallsTogether
) -> None:
    server.open.clear()
    hanging = asyncio.create_task(calls.run(scripts.APPEND, 0))
    await asyncio.sleep(0.001)
    server.open = asyncio.Event()
    server.open.set()
    assert await calls.run(scripts.APPEND, 1) == [2, 1]
    assert not hanging.done()
    hanging.cancel()
