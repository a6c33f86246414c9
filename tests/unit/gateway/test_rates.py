"""Rate limits: so many requests a minute of each key, whatever processes they come to, and no request more."""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import Callable

import fakeredis
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.rates import Rates, Standing
from shared.metrics import REQUESTS_LIMITED
from shared.store import RateStore, Share, StoreUnavailable, TenantLimits
from shared.store.keys import key
from tests.conditions import until
from tests.fakes import fake_server as new_server
from tests.unit.gateway.conftest import LENIENT, Gateway, MakeGateway, problem
from tests.unit.gateway.test_keys import ask, key_for


class Processes:
    """Several gateway processes on one server, and a clock for all of them."""

    def __init__(self, count: int) -> None:
        self.redis = fakeredis.FakeAsyncRedis(server=new_server())
        self.offset = 0.0
        self.stores = [RateStore(self.redis) for _ in range(count)]
        self.rates = [Rates(store, lambda: time.monotonic() + self.offset) for store in self.stores]
        self.admitted = Counter[str]()

    def pass_time(self, seconds: float) -> None:
        self.offset += seconds
        for store in self.stores:
            store.clock_offset_ms += round(seconds * 1000)

    async def send(self, process: int, count: int, limit: int) -> int:
        """So many requests at once to one process. Gives how many were admitted."""
        standings = await asyncio.gather(*(self.rates[process].take("me", limit) for _ in range(count)))
        admitted = sum(standing.admitted for standing in standings)
        begun, _handed_out = (await self.redis.get(key("rate", "me"))).decode().split(" ")
        self.admitted[begun] += admitted
        return admitted


steps = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from([1, 1, 2, 7, 40, 300]), st.sampled_from([0, 0, 0, 5, 31, 59, 60])),
    min_size=1,
    max_size=30,
)


@settings(max_examples=60, deadline=None)
@given(steps, st.sampled_from([1, 2, 10, 60, 150, 199, 500, 3000]))
def test_in_no_window_more_than_the_limit_is_admitted_whoever_asks_when(
    steps: list[tuple[int, int, float]], limit: int
) -> None:
    async def live() -> None:
        processes = Processes(3)
        for process, count, seconds in steps:
            processes.pass_time(seconds)
            await processes.send(process, count, limit)
        assert all(admitted <= limit for admitted in processes.admitted.values()), processes.admitted
        await processes.redis.aclose()

    asyncio.run(live())


@settings(max_examples=60, deadline=None)
@given(steps, st.sampled_from([1, 2, 10, 60, 199]))
def test_a_small_limit_is_kept_to_the_last_request(steps: list[tuple[int, int, float]], limit: int) -> None:
    async def live() -> None:
        processes, sent = Processes(3), 0
        for process, count, _seconds in steps:  # all in one window
            sent += count
            await processes.send(process, count, limit)
        assert list(processes.admitted.values()) == [min(sent, limit)]
        await processes.redis.aclose()

    asyncio.run(live())


class CountedStore(RateStore):
    """Counts the questions, which take a while."""

    asked = 0

    async def take(self, who: str, limit: int, wanted: int) -> Share:
        self.asked += 1
        await asyncio.sleep(0.001)
        return await super().take(who, limit, wanted)


async def test_a_large_limit_costs_a_question_for_about_each_hundredth(redis: fakeredis.FakeAsyncRedis) -> None:
    rates = Rates(CountedStore(redis))
    for _ in range(10_000):
        assert (await rates.take("me", 1_000_000)).admitted
    assert rates.store.asked <= 2  # type: ignore[attr-defined]


async def test_requests_that_wait_share_one_question(redis: fakeredis.FakeAsyncRedis) -> None:
    rates = Rates(CountedStore(redis))
    standings = await asyncio.gather(*(rates.take("me", 60) for _ in range(50)))
    assert all(standing.admitted for standing in standings)
    assert rates.store.asked == 1  # type: ignore[attr-defined]
    standings = await asyncio.gather(*(rates.take("me", 60) for _ in range(50)))
    assert sum(standing.admitted for standing in standings) == 10
    asked = rates.store.asked  # type: ignore[attr-defined]
    assert asked <= 3
    assert not any([(await rates.take("me", 60)).admitted for _ in range(100)])
    assert rates.store.asked == asked, "what is refused asks nobody"  # type: ignore[attr-defined]


async def test_a_request_that_is_given_up_takes_nobody_along(redis: fakeredis.FakeAsyncRedis) -> None:
    rates = Rates(CountedStore(redis))
    waiting = [asyncio.create_task(rates.take("me", 60)) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(answers[0], asyncio.CancelledError)
    assert all(isinstance(answer, Standing) and answer.admitted for answer in answers[1:])
    assert (await rates.take("me", 60)).left == 57, "what it would have spent is the next one's"


async def test_what_a_process_has_not_spent_is_forgotten_with_its_window() -> None:
    processes = Processes(2)
    await processes.send(0, 1, 1000)  # which has nine more
    processes.pass_time(59.5)
    await processes.send(1, 1, 1000)
    processes.pass_time(0.6)
    assert await processes.send(1, 2000, 1000) == 1000
    assert await processes.send(0, 20, 1000) == 0
    await processes.redis.aclose()


async def test_a_limit_that_changes_holds_from_the_next_request_on() -> None:
    processes = Processes(1)
    assert await processes.send(0, 30, 20) == 20
    assert await processes.send(0, 30, 40) == 20
    assert await processes.send(0, 30, 10) == 0
    await processes.redis.aclose()


# Over HTTP


@pytest.fixture
def policy() -> Callable[[str], tuple[int, int]]:
    """Reads the number of requests that are left, and the seconds until the window ends."""

    def read(field: str) -> tuple[int, int]:
        match = re.fullmatch(r'"minute";r=(\d+);t=(\d+)', field)
        assert match, field
        return int(match[1]), int(match[2])

    return read


async def test_beyond_its_limit_a_request_is_refused_with_the_time_to_come_again(
    make_gateway: MakeGateway, policy: Callable[[str], tuple[int, int]]
) -> None:
    before = REQUESTS_LIMITED._value.get()
    async with make_gateway(rate_limit_per_minute=3) as gateway:
        for left in (2, 1, 0):
            answer = await gateway.get("/jobs")
            assert answer.status_code == 200
            assert answer.headers["ratelimit-policy"] == '"minute";q=3;w=60'
            assert policy(answer.headers["ratelimit"])[0] == left
            assert 1 <= policy(answer.headers["ratelimit"])[1] <= 60
        answer = await gateway.get("/jobs")
        assert "3 requests a minute" in problem(answer, 429, "rate_limited")["detail"]
        left, seconds = policy(answer.headers["ratelimit"])
        assert (left, str(seconds)) == (0, answer.headers["retry-after"])
        assert answer.headers["ratelimit-policy"] == '"minute";q=3;w=60'
    assert REQUESTS_LIMITED._value.get() == before + 1


async def test_without_a_limit_nothing_is_counted_and_nothing_is_said(gateway: Gateway, redis: object) -> None:
    answer = await gateway.get("/jobs")
    assert "ratelimit" not in answer.headers
    assert "ratelimit-policy" not in answer.headers
    assert await gateway.services.redis.keys(f"{key('rate')}*") == []


async def test_all_that_a_key_was_good_for_counts_and_health_does_not(make_gateway: MakeGateway) -> None:
    async with make_gateway(rate_limit_per_minute=6, auth_required=True) as gateway:
        reads = await key_for(gateway, scopes=["jobs:read"])
        assert (await ask(gateway, reads, path="/jobs/none")).status_code == 404
        assert (await ask(gateway, reads, "HEAD")).status_code == 200
        assert (await ask(gateway, reads, "OPTIONS")).status_code == 405
        assert (await ask(gateway, reads, path="/workers")).status_code == 403
        assert (await ask(gateway, reads, path="/jobs?limit=x")).status_code == 422
        for _ in range(5):
            assert (await gateway.get("/jobs")).status_code == 401
            assert (await gateway.get("/health/live")).status_code == 200
            assert "ratelimit" not in (await ask(gateway, reads, path="/health/live")).headers
        answer = await ask(gateway, reads)
        assert (answer.status_code, answer.headers["ratelimit"].split(";")[1]) == (200, "r=0")
        problem(await ask(gateway, reads), 429, "rate_limited")
        assert (await ask(gateway, reads, path="/health")).status_code != 429


async def test_a_body_is_not_read_for_a_request_that_is_refused(make_gateway: MakeGateway) -> None:
    async with make_gateway(rate_limit_per_minute=1, max_body_bytes=10) as gateway:
        assert (await gateway.post("/jobs", b"x" * 11)).status_code == 413
        problem(await gateway.post("/jobs", b"x" * 11), 429, "rate_limited")


async def test_a_key_has_a_limit_of_its_own_and_a_tenant_may_have_another(make_gateway: MakeGateway) -> None:
    async with make_gateway(rate_limit_per_minute=2, auth_required=True) as gateway:
        await gateway.registry.publish({"echo": LENIENT}, {})
        one, two = await key_for(gateway), await key_for(gateway)
        for each in (one, two):
            assert [(await ask(gateway, each)).status_code for _ in range(3)] == [200, 200, 429]
        other = await key_for(gateway, tenant="other")
        await gateway.services.tenants.store.put("other", TenantLimits(requests_per_minute=4))
        await until(lambda: gateway.services.tenants.limits("other").requests_per_minute == 4, 5)
        assert [(await ask(gateway, other)).status_code for _ in range(5)] == [200] * 4 + [429]
        assert (await ask(gateway, one)).status_code == 429
        await gateway.services.tenants.store.put("acme", TenantLimits(requests_per_minute=0))
        await until(lambda: gateway.services.tenants.limits("acme").requests_per_minute == 0, 5)
        assert {(await ask(gateway, one)).status_code for _ in range(9)} == {200}


async def test_while_redis_is_away_nothing_is_let_in_but_what_needs_no_store(
    make_gateway: MakeGateway, fake_server: fakeredis.FakeServer
) -> None:
    async with make_gateway(rate_limit_per_minute=1000) as gateway:
        fake_server.connected = False
        problem(await gateway.get("/jobs"), 503, "store_unavailable")
        problem(await gateway.get("/nowhere"), 503, "store_unavailable")
        assert (await gateway.http.get("/docs")).status_code == 200
        assert (await gateway.http.get("/metrics")).status_code == 200
        assert (await gateway.get("/health/live")).status_code == 200
        fake_server.connected = True
        assert (await gateway.get("/jobs")).status_code == 200


async def test_a_question_that_fails_fails_all_who_wait_and_the_next_one_is_asked_anew(
    redis: fakeredis.FakeAsyncRedis, fake_server: fakeredis.FakeServer
) -> None:
    rates = Rates(RateStore(redis))
    fake_server.connected = False
    answers = await asyncio.gather(*(rates.take("me", 60) for _ in range(3)), return_exceptions=True)
    assert {type(answer) for answer in answers} == {StoreUnavailable}
    fake_server.connected = True
    assert (await rates.take("me", 60)).left == 59
