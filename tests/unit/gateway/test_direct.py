"""The short way to a route answers as the framework would: every check that it has, in the same words."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import fakeredis
import httpx
import pytest
from fastapi import APIRouter, Cookie, Header
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway import main
from gateway.direct import Direct
from gateway.routes import DIRECT
from tests import fakes
from tests.unit.gateway.conftest import LENIENT, STRICT, Gateway, MakeGateway, ask, key_for, problem

JOB = b'{"graph": "echo", "input": {"a": 1}}'
JSON = {"content-type": "application/json"}
NOBODY = "0" * 32
OF_EACH_REQUEST = re.compile(r"[0-9a-f]{32}|\d{4}-\d\d-\d\dT[\d:.]+Z")
SUBMITS: dict[str, tuple[bytes, Mapping[str, str]]] = {
    "right": (JOB, JSON),
    "right, in another writing": (JOB, {"content-type": "Application/JSON; charset=utf-8"}),
    "no body": (b"", JSON),
    "no body, nor its type": (b"", {}),
    "a body of no type": (JOB, {}),
    "a body of another type": (JOB, {"content-type": "text/plain"}),
    "a body of a type of JSON": (JOB, {"content-type": "application/problem+json"}),
    "no JSON": (b"{", JSON),
    "null": (b"null", JSON),
    "a list": (b"[]", JSON),
    "a text": (b'"job"', JSON),
    "nothing in it": (b"{}", JSON),
    "an unknown field": (b'{"graph": "echo", "input": 1, "colour": 2, "size": 3}', JSON),
    "wrong fields": (b'{"graph": "e c", "input": 1, "priority": 10, "limits": {"steps": 0}}', JSON),
    "two times": (b'{"graph": "echo", "input": 1, "delay_seconds": 1, "run_at": "2030-01-01T00:00:00Z"}', JSON),
    "a thousand fields": (b'{"graph": "echo", "input": 1, %s}' % b",".join(b'"%d": 1' % n for n in range(1001)), JSON),
    "a field twice": (b'{"graph": "nosuch", "graph": "echo", "input": 1}', JSON),
    "a large integer": (b'{"graph": "echo", "input": 123456789012345678901234567890}', JSON),
    "a deep input": (b'{"graph": "echo", "input": %s}' % (b"[" * 255 + b"]" * 255), JSON),
    "many keys": (b'{"graph": "echo", "input": {%s}}' % b",".join(b'"%d":1' % n for n in range(10_001)), JSON),
    "a large body": (b'{"graph": "echo", "input": "%s"}' % (b"x" * 100_000), JSON),
    "a large wrong body": (b'{"graph": "echo", "input": "%s", "queue": ""}' % (b"x" * 100_000), JSON),
    "too large a body": (b'{"graph": "echo", "input": "%s"}' % (b"x" * 300_000), JSON),
    "an unknown graph": (b'{"graph": "nosuch", "input": 1}', JSON),
    "an input that the graph does not take": (b'{"graph": "strict", "input": {"messages": [{}]}}', JSON),
    "a key": (JOB, {**JSON, "idempotency-key": '"order-1"'}),
    "the same key": (JOB, {**JSON, "idempotency-key": "order-1"}),
    "the same key with another body": (b'{"graph": "echo", "input": 2}', {**JSON, "idempotency-key": "order-1"}),
    "no key": (JOB, {**JSON, "idempotency-key": ""}),
    "a wrong key": (JOB, {**JSON, "idempotency-key": "a b"}),
    "a long key": (JOB, {**JSON, "idempotency-key": "x" * 256}),
    "a wrong key and a wrong body": (b"{}", {**JSON, "idempotency-key": "a b"}),
    "a trace": (JOB, {**JSON, "traceparent": f"00-{'1' * 32}-{'2' * 16}-01"}),
    "a wrong trace": (JOB, {**JSON, "traceparent": "00"}),
}
READS = (
    "", "?", "?wait=0", "?wait=0.05", "?wait=", "?wait=-1", "?wait=soon", "?wait=nan", "?wait=0&wait=-1",
    "?wait=-1&wait=0", "?wait=1e-2", "?wait=%30", "?wait=+0", "?WAIT=-1", "?other=1", "?wait[]=1", "?wait=1_0;",
    "?%ff=%ff",
)  # fmt: skip


@asynccontextmanager
async def _both(make_gateway: MakeGateway, **settings: Any) -> AsyncIterator[tuple[Gateway, Gateway]]:
    """A gateway with the short way, and one without."""

    def not_direct(app: ASGIApp, routes: object) -> ASGIApp:
        return app

    redis, other_redis = (fakeredis.FakeAsyncRedis(server=fakes.fake_server()) for _ in range(2))
    async with make_gateway(redis=redis, **settings) as short:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(main, "Direct", not_direct)
            async with make_gateway(redis=other_redis, **settings) as long:
                for gateway in (short, long):
                    await gateway.registry.publish({"echo": LENIENT, "strict": STRICT}, {})
                yield short, long


def _said(answer: httpx.Response) -> tuple[int, str, dict[str, str]]:
    """All that an answer says but for ids and times."""
    headers = {name: OF_EACH_REQUEST.sub("?", value) for name, value in answer.headers.items()}
    return answer.status_code, OF_EACH_REQUEST.sub("?", answer.text), headers


async def test_a_submit_is_answered_in_the_same_words_the_short_and_the_long_way(make_gateway: MakeGateway) -> None:
    seen = set()
    async with _both(make_gateway, max_body_bytes=200_000) as gateways:
        for what, (body, headers) in SUBMITS.items():
            short, long = [
                _said(await one.http.post("/api/v1/jobs", content=body, headers=headers)) for one in gateways
            ]
            assert short == long, what
            seen.add(short[0])
    assert seen == {202, 400, 413, 415, 422}


async def test_headers_that_are_sent_twice_are_read_alike(make_gateway: MakeGateway) -> None:
    async with _both(make_gateway) as gateways:
        for keys in (["a", "a b"], ["a b", "a"], ["a", "b"]):
            headers = [*JSON.items(), *(("idempotency-key", key) for key in keys)]
            short, long = [_said(await one.http.post("/api/v1/jobs", content=JOB, headers=headers)) for one in gateways]
            assert short == long, keys


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_job_is_read_in_the_same_words_the_short_and_the_long_way(
    make_gateway: MakeGateway, method: str
) -> None:
    seen = set()
    async with _both(make_gateway) as gateways:
        ids = []
        for gateway in gateways:
            ids.append(await gateway.submit())
            await gateway.worker.run(output=b'{"a": [1]}')
        for query in READS:
            for prefer in ({}, {"prefer": "wait=0"}, {"prefer": ""}):
                short, long = [
                    _said(await one.http.request(method, f"/api/v1/jobs/{job_id}{query}", headers=prefer))
                    for one, job_id in zip(gateways, ids, strict=True)
                ]
                assert short == long, (query, prefer)
                seen.add(short[0])
        for name in (NOBODY, "batch", NOBODY.upper().replace("0", "A"), f"{NOBODY}/", f"{NOBODY}0", "", "%00"):
            short, long = [_said(await one.http.request(method, f"/api/v1/jobs/{name}")) for one in gateways]
            assert short == long, name
            seen.add(short[0])
    assert seen == {200, 404, 422}


async def test_a_key_without_the_scope_is_refused(locked: Gateway) -> None:
    reader = await key_for(locked, scopes=["jobs:read"])
    writer = await key_for(locked, scopes=["jobs:write"])
    problem(await ask(locked, reader, "POST", "/jobs", content=JOB, headers=JSON), 403, "insufficient_scope")
    problem(await ask(locked, writer, "GET", f"/jobs/{NOBODY}"), 403, "insufficient_scope")
    assert (await ask(locked, writer, "POST", "/jobs", content=JOB, headers=JSON)).status_code == 202


async def test_the_routes_of_one_job_do_not_pass_the_framework(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached: list[str] = []
    framework = gateway.app.router.middleware_stack

    async def noted(scope: Scope, receive: Receive, send: Send) -> None:
        reached.append(scope["path"])
        await framework(scope, receive, send)

    monkeypatch.setattr(gateway.app.router, "middleware_stack", noted)
    job_id = await gateway.submit()
    assert (await gateway.get(f"/jobs/{job_id}")).json()["status"] == "queued"
    assert (await gateway.get(f"/jobs/{job_id}", wait="0.01")).json()["status"] == "queued"
    assert not reached
    assert (await gateway.get("/jobs")).status_code == 200
    assert reached == ["/api/v1/jobs"]


def test_a_route_that_wants_what_is_not_provided_for_is_refused_at_the_start() -> None:
    router = APIRouter()

    @router.get("/a")
    async def with_cookie(name: str = Cookie("")) -> None: ...

    @router.get("/b")
    async def with_required_header(name: str = Header()) -> None: ...

    @router.get("/c/{name}")
    async def with_path(name: str) -> None: ...

    async def nothing(scope: Scope, receive: Receive, send: Send) -> None: ...

    for route in router.routes:
        with pytest.raises(TypeError):
            Direct(nothing, [route])  # type: ignore[list-item]
    assert {route.path for route in DIRECT} == {"/api/v1/jobs", "/api/v1/jobs/{job_id}"}
