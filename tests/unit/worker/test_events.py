"""The stream of a job's events: batches, order, and what is cut."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.store import Claimed
from tests.conditions import until
from worker.events import FLUSH_EVENTS, FLUSH_SECONDS, MAX_EVENT_BYTES, MAX_EVENTS, EventStream
from worker.lease import LeaseLost

JOB = Claimed("acme:j1", 3, False, b"{}", {})


class Writer:
    """Keeps the batches it is given. `open` lets it answer; `error` is what it raises then."""

    def __init__(self, error: Exception | None = None) -> None:
        self.job = JOB
        self.error = error
        self.batches: list[list[bytes]] = []
        self.times: list[float] = []
        self.open = asyncio.Event()
        self.open.set()

    async def append(self, events: Sequence[bytes]) -> None:
        self.batches.append(list(events))
        self.times.append(time.monotonic())
        await self.open.wait()
        if self.error is not None:
            raise self.error


def stream(writer: Writer) -> EventStream:
    return EventStream(writer, 2)  # type: ignore[arg-type]


def data_of(*batches: list[bytes]) -> list[Any]:
    return [orjson.loads(event)["data"] for batch in batches for event in batch]


async def test_an_event_says_what_when_and_of_which_round_and_attempt() -> None:
    events = stream(Writer())
    before = int(time.time() * 1000)
    events.add("updates", {"node": {"x": 1}})
    (event,) = [orjson.loads(event) for event in await events.close()]
    assert before <= event.pop("at") <= int(time.time() * 1000)
    assert event == {"type": "updates", "round": 2, "attempt": 3, "data": {"node": {"x": 1}}}


async def test_events_of_a_moment_go_out_in_one_batch_after_20_ms() -> None:
    writer = Writer()
    events = stream(writer)
    started = time.monotonic()
    for number in range(10):
        events.add("custom", number)
    await until(lambda: writer.batches)
    assert data_of(*writer.batches) == list(range(10))
    assert len(writer.batches) == 1
    assert FLUSH_SECONDS * 0.9 <= writer.times[0] - started < FLUSH_SECONDS + 0.5
    assert await events.close() == []


async def test_64_events_do_not_wait_for_the_20_ms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.events.FLUSH_SECONDS", 60)
    writer = Writer()
    events = stream(writer)
    for number in range(FLUSH_EVENTS - 1):
        events.add("custom", number)
    await asyncio.sleep(0.01)
    assert writer.batches == []
    events.add("custom", FLUSH_EVENTS - 1)
    await until(lambda: writer.batches)
    assert data_of(*writer.batches) == list(range(FLUSH_EVENTS))


async def test_a_batch_has_64_events_at_most() -> None:
    writer = Writer()
    events = stream(writer)
    for number in range(1000):
        events.add("custom", number)
    await until(lambda: sum(map(len, writer.batches)) == 1000)
    assert max(map(len, writer.batches)) == FLUSH_EVENTS
    assert data_of(*writer.batches) == list(range(1000))


@given(st.lists(st.integers(0, 70), max_size=20), st.lists(st.booleans(), min_size=20, max_size=20))
@settings(max_examples=50, deadline=None)
def test_nothing_is_lost_or_reordered_between_flushes_and_the_last_write(counts: list[int], pauses: list[bool]) -> None:
    async def run() -> None:
        writer = Writer()
        events = stream(writer)
        sent = 0
        for count, pause in zip(counts, pauses, strict=False):
            writer.open.set() if pause else writer.open.clear()
            for _ in range(count):
                events.add("custom", sent)
                sent += 1
            await asyncio.sleep(0.002 if pause else 0)
        asyncio.get_running_loop().call_later(0.001, writer.open.set)
        left = await events.close()
        assert data_of(*writer.batches, left) == list(range(sent))

    asyncio.run(run())


async def test_a_flush_under_way_ends_before_the_last_write() -> None:
    writer = Writer()
    writer.open.clear()
    events = stream(writer)
    events.add("custom", "in flight")
    await until(lambda: writer.batches)
    events.add("custom", "after")
    closing = asyncio.create_task(events.close())
    await asyncio.sleep(0.01)
    assert not closing.done()
    writer.open.set()
    left = await asyncio.wait_for(closing, 1)
    assert data_of(*writer.batches, left) == ["in flight", "after"]


async def test_data_beyond_256_kb_is_left_out_and_marked() -> None:
    events = stream(Writer())
    events.add("values", "x" * (MAX_EVENT_BYTES - 2))
    events.add("values", "x" * MAX_EVENT_BYTES)
    whole, cut = [orjson.loads(event) for event in await events.close()]
    assert len(whole["data"]) == MAX_EVENT_BYTES - 2
    assert "truncated" not in whole
    assert (cut["data"], cut["truncated"]) == (None, True)


async def test_events_beyond_10_000_are_left_out_and_the_last_one_says_so() -> None:
    writer = Writer()
    events = stream(writer)
    for number in range(MAX_EVENTS + 500):
        events.add("custom", number)
    left = await events.close()
    sent = [orjson.loads(event) for batch in (*writer.batches, left) for event in batch]
    assert len(sent) == MAX_EVENTS
    assert sent[-2]["data"] == MAX_EVENTS - 2
    assert sent[-1]["type"] == "truncated"


async def test_a_lost_lease_stops_the_stream_quietly() -> None:
    writer = Writer(LeaseLost("acme:j1"))
    events = stream(writer)
    for number in range(200):
        events.add("custom", number)
    await until(lambda: writer.batches)
    await asyncio.sleep(0.01)
    assert len(writer.batches) == 1
    await events.close()


async def test_a_batch_that_cannot_be_written_does_not_stop_those_after_it() -> None:
    writer = Writer(RuntimeError("a bug"))
    events = stream(writer)
    events.add("custom", 1)
    await until(lambda: writer.batches)
    writer.error = None
    events.add("custom", 2)
    await until(lambda: len(writer.batches) == 2)
    assert data_of(writer.batches[1]) == [2]
    assert await events.close() == []
