"""Long polls: held until the job ends, at next to no cost, and never longer than they should be."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Self

import fakeredis
import httpx
import pytest

from gateway import notices
from shared.store import connect, connect_blocking
from tests.unit.gateway.conftest import LENIENT, Gateway, MakeGateway, problem


async def _until(condition: Callable[[], Any], within: float = 5.0) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        await asyncio.sleep(0.005)


async def _held(gateway: Gateway, job_id: str, seconds: float = 30) -> asyncio.Task[httpx.Response]:
    """A long poll that is waiting by now."""
    before = len(gateway.waiters)
    poll = asyncio.create_task(gateway.get(f"/jobs/{job_id}", wait=seconds))
    await _until(lambda: len(gateway.waiters) == before + 1 or poll.done())
    return poll


@pytest.mark.parametrize("status", ["succeeded", "failed", "cancelled", "interrupted"])
async def test_a_wait_ends_when_the_job_does_or_is_interrupted(gateway: Gateway, status: str) -> None:
    job_id = await gateway.submit()
    poll = await _held(gateway, job_id)
    await asyncio.sleep(0.05)
    assert not poll.done()
    await gateway.worker.run(status)
    answer = await asyncio.wait_for(poll, 2)
    assert (answer.status_code, answer.json()["status"]) == (200, status)
    assert len(gateway.waiters) == 0


async def test_a_job_that_has_ended_is_not_waited_for(gateway: Gateway) -> None:
    job_id = await gateway.submit()
    await gateway.worker.run()
    started = time.monotonic()
    assert (await gateway.get(f"/jobs/{job_id}", wait=30)).json()["status"] == "succeeded"
    assert time.monotonic() - started < 1


async def test_a_wait_that_is_over_answers_with_the_record_as_it_stands(gateway: Gateway) -> None:
    job_id = await gateway.submit()
    started = time.monotonic()
    answer = await gateway.get(f"/jobs/{job_id}", wait=0.2)
    assert answer.json()["status"] == "queued"
    assert 0.2 <= time.monotonic() - started < 1.5
    assert len(gateway.waiters) == 0


async def test_a_job_that_ends_while_the_record_is_read_is_not_missed(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = await gateway.submit()
    get = gateway.jobs.get

    async def slow_get(tenant: str, job: str, **options: Any) -> Any:
        found = await get(tenant, job, **options)
        if found is not None and found.status == "queued":
            await gateway.worker.run()  # after the read, before the wait
            await asyncio.sleep(0.1)
        return found

    monkeypatch.setattr(gateway.jobs, "get", slow_get)
    answer = await asyncio.wait_for(gateway.get(f"/jobs/{job_id}", wait=30), 5)
    assert answer.json()["status"] == "succeeded"


async def test_a_job_that_is_erased_while_waited_for_is_not_found(gateway: Gateway) -> None:
    job_id = await gateway.submit()
    poll = await _held(gateway, job_id)
    await gateway.worker.run()
    await gateway.jobs.erase("default", job_id)
    assert (await asyncio.wait_for(poll, 2)).status_code in (200, 404)
    problem(await gateway.get(f"/jobs/{job_id}", wait=30), 404, "job_not_found")


@pytest.mark.parametrize("prefer", ["wait=30", "respond-async, wait=30", 'WAIT = "30"', "return=minimal;x=y , wait=30"])
async def test_prefer_wait_does_the_same(gateway: Gateway, prefer: str) -> None:
    job_id = await gateway.submit()
    poll = asyncio.create_task(gateway.http.get(f"/api/v1/jobs/{job_id}", headers={"prefer": prefer}))
    await _until(lambda: len(gateway.waiters) == 1)
    await gateway.worker.run()
    assert (await asyncio.wait_for(poll, 2)).json()["status"] == "succeeded"


@pytest.mark.parametrize("prefer", ["", "wait", "wait=soon", "await=9", "wait=-1", "x" * 5000])
async def test_a_preference_that_is_none_is_ignored(gateway: Gateway, prefer: str) -> None:
    job_id = await gateway.submit()
    answer = await asyncio.wait_for(gateway.http.get(f"/api/v1/jobs/{job_id}", headers={"prefer": prefer}), 2)
    assert answer.json()["status"] == "queued"


async def test_more_than_60_seconds_is_taken_as_60(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.routes.jobs.MAX_WAIT_SECONDS", 0.1)
    job_id = await gateway.submit()
    for wait in ("99999", "1e300", "9" * 300):
        answer = await asyncio.wait_for(gateway.get(f"/jobs/{job_id}", wait=wait), 2)
        assert answer.json()["status"] == "queued"


def test_the_longest_wait_is_a_minute() -> None:
    from gateway.routes.jobs import MAX_WAIT_SECONDS

    assert MAX_WAIT_SECONDS == 60


@pytest.mark.parametrize("wait", ["-1", "nan", "inf", "soon", "", "%00"])
async def test_a_wait_that_is_no_number_of_seconds_is_refused(gateway: Gateway, wait: str) -> None:
    job_id = await gateway.submit()
    answer = await gateway.http.get(f"/api/v1/jobs/{job_id}?wait={wait}")
    assert problem(answer, 422, "validation_error")["errors"][0]["parameter"] == "wait"


async def test_a_hundred_waiters_of_one_job_are_all_woken_and_cost_no_call_each(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = await gateway.submit()
    polls = [await _held(gateway, job_id) for _ in range(100)]
    calls: list[Any] = []
    statuses = gateway.jobs.statuses

    async def counted(refs: Any) -> Any:
        calls.append(refs)
        return await statuses(refs)

    monkeypatch.setattr(gateway.jobs, "statuses", counted)
    await asyncio.sleep(1)
    assert len(calls) <= 1 / notices.PULSE_SECONDS + 1, "one question per process and pulse, not one per waiter"
    assert all(len(refs) == 1 for refs in calls)
    await gateway.worker.run()
    answers = await asyncio.wait_for(asyncio.gather(*polls), 5)
    assert {answer.json()["status"] for answer in answers} == {"succeeded"}
    assert len(gateway.waiters) == 0


async def test_each_of_many_is_asked_for_in_time_and_never_all_of_them_at_once(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notices, "PULSE_SECONDS", 0.01)
    monkeypatch.setattr(notices, "RECHECK_SECONDS", 1.0)
    asked: list[list[str]] = []

    async def counted(refs: list[str]) -> dict[str, str]:
        asked.append(refs)
        return dict.fromkeys(refs, "queued")

    monkeypatch.setattr(gateway.jobs, "statuses", counted)
    names = {f"default:{number}" for number in range(1000)}
    with ExitStack() as waiting:
        for name in names:
            waiting.enter_context(gateway.waiters.waiting(name))
        await _until(lambda: {ref for refs in asked for ref in refs} == names, within=10)
    assert max(map(len, asked)) <= 1000 * 0.01 * 2


async def test_a_client_that_goes_away_leaves_no_waiter(gateway: Gateway) -> None:
    job_id = await gateway.submit()
    gone = asyncio.Event()
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        if not sent:
            sent.append("request")
            return {"type": "http.request", "body": b"", "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(_: Any) -> None:
        return None

    path = f"/api/v1/jobs/{job_id}"
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "scheme": "http",
        "path": path, "raw_path": path.encode(), "query_string": b"wait=60", "root_path": "", "headers": [],
        "client": None, "server": None,
    }  # fmt: skip
    request = asyncio.create_task(gateway.app(scope, receive, send))
    await _until(lambda: len(gateway.waiters) == 1)
    gone.set()
    await asyncio.wait_for(request, 2)
    assert len(gateway.waiters) == 0


async def test_a_stopping_process_lets_its_waiters_go_with_the_record_as_it_stands(gateway: Gateway) -> None:
    job_id = await gateway.submit()
    poll = await _held(gateway, job_id)
    started = time.monotonic()
    gateway.waiters.release()
    assert (await asyncio.wait_for(poll, 2)).json()["status"] == "queued"
    assert (await asyncio.wait_for(gateway.get(f"/jobs/{job_id}", wait=30), 2)).json()["status"] == "queued"
    assert time.monotonic() - started < 1


async def test_what_was_not_told_is_asked_for_once_the_subscription_is_back(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [await gateway.submit(input=number) for number in range(3)]
    monkeypatch.setattr(notices, "CHUNK", 2)
    monkeypatch.setattr(gateway.waiters, "_wake", lambda *_: None)  # deaf: nothing that is told now is heard
    polls = [await _held(gateway, job_id) for job_id in ids]
    for _ in range(2):
        await gateway.worker.run()
    await asyncio.sleep(0.1)
    assert not any(poll.done() for poll in polls)
    monkeypatch.undo()
    monkeypatch.setattr(notices, "CHUNK", 2)
    await gateway.waiters._recheck()
    await asyncio.wait_for(asyncio.gather(*polls[:2]), 2)
    assert not polls[2].done()
    await gateway.worker.run()
    assert (await asyncio.wait_for(polls[2], 2)).json()["status"] == "succeeded"


async def test_a_subscription_that_died_without_a_word_delays_a_wait_but_does_not_lose_it(
    make_gateway: MakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notices, "RECHECK_SECONDS", 0.2)
    deaf = fakeredis.FakeAsyncRedis(server=fakeredis.FakeServer(server_type="valkey"))
    async with make_gateway(notices_redis=deaf) as gateway:
        await gateway.registry.publish({"echo": LENIENT}, {})
        poll = await _held(gateway, await gateway.submit())
        await gateway.worker.run()
        assert (await asyncio.wait_for(poll, 5)).json()["status"] == "succeeded"


class _Mute:
    """A server that cuts connections off, until it is told to hang: then it takes them and never says a word."""

    def __init__(self) -> None:
        self.writers: list[asyncio.StreamWriter] = []
        self.hangs = False

    async def __aenter__(self) -> Self:
        self.server = await asyncio.start_server(self._take, "127.0.0.1", 0)
        port = self.server.sockets[0].getsockname()[1]
        self.url = f"redis://127.0.0.1:{port}/0"
        return self

    async def _take(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.hangs:
            self.writers.append(writer)
        else:
            writer.close()

    async def __aexit__(self, *_: object) -> None:
        self.server.close()
        for writer in self.writers:
            writer.close()
        await self.server.wait_closed()


async def test_every_route_that_needs_redis_answers_503_within_2_s_while_it_hangs(make_gateway: MakeGateway) -> None:
    async with (
        _Mute() as mute,
        make_gateway(
            redis=connect(mute.url, answer_within=30, tries=2), notices_redis=connect_blocking(mute.url)
        ) as gateway,
    ):
        mute.hangs = True  # from the start it would hold up the start for the 30 seconds
        job, endpoint = f"/api/v1/jobs/{'0' * 32}", f"/api/v1/webhooks/{'0' * 32}"
        delivery = f"/api/v1/deliveries/{'0' * 32}_1_failed"
        calls = [
            ("POST", "/api/v1/jobs"), ("POST", "/api/v1/jobs/batch"), ("GET", "/api/v1/jobs"), ("GET", job),
            ("GET", f"{job}?wait=30"), ("POST", f"{job}/cancel"), ("POST", f"{job}/retry"), ("DELETE", job),
            ("GET", f"{job}/deliveries"), ("POST", f"{job}/deliveries/{'0' * 32}_1_failed/redeliver"),
            ("GET", "/api/v1/deliveries"), ("GET", delivery), ("POST", f"{delivery}/redeliver"),
            ("POST", "/api/v1/deliveries/redeliver"), ("POST", "/api/v1/webhooks"), ("GET", "/api/v1/webhooks"),
            ("GET", endpoint), ("PATCH", endpoint), ("DELETE", endpoint), ("POST", f"{endpoint}/rotate"),
            ("POST", f"{endpoint}/ping"), ("POST", f"{endpoint}/enable"), ("POST", f"{endpoint}/disable"),
            ("GET", f"{endpoint}/deliveries"), ("GET", "/api/v1/webhooks/addresses"),
            ("POST", "/api/v1/webhooks/addresses/enable"),
            ("GET", "/api/v1/graphs"), ("GET", "/api/v1/graphs/echo"), ("GET", "/api/v1/workers"),
            ("GET", "/api/v1/health/ready"),
        ]  # fmt: skip
        body = {"graph": "echo", "input": 1}
        url = {"url": "https://example.com/"}
        bodies: dict[str, dict[str, Any]] = {
            "/api/v1/jobs": body, "/api/v1/jobs/batch": {"jobs": [body]}, "/api/v1/webhooks": url, endpoint: url,
            "/api/v1/webhooks/addresses/enable": url, "/api/v1/deliveries/redeliver": {},
        }  # fmt: skip
        started = time.monotonic()
        answers = await asyncio.gather(
            *(
                gateway.http.request(method, path, json=bodies.get(path) if method in ("POST", "PATCH") else None)
                for method, path in calls
            )
        )
        assert time.monotonic() - started < 5
        for answer in answers:
            problem(answer, 503, "store_unavailable")
            assert answer.headers["retry-after"] == "1"
        health = await gateway.get("/health")
        assert (health.status_code, health.json()["status"]) == (503, "down")
