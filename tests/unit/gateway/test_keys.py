"""API keys at the door: who is let in, to what, and for how long."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import fakeredis
import pytest

from gateway.auth import OPEN_PATHS, scope_of
from gateway.copies import LOOK_SECONDS
from gateway.failures import MOST
from shared.api_keys import SCOPES, Scope, new_key
from shared.store import KeyStore
from tests.conditions import until
from tests.unit.gateway.conftest import Gateway, MakeGateway, ask, key_for, problem

ONE = {"graph": "echo", "input": 1}


@pytest.mark.parametrize(
    "header",
    [("authorization", "Bearer {}"), ("Authorization", "bearer  {}"), ("x-api-key", "{}"), ("X-API-Key", " {} ")],
)
async def test_a_key_comes_in_either_header(locked: Gateway, header: tuple[str, str]) -> None:
    key = await key_for(locked)
    answer = await locked.http.post("/api/v1/jobs", json=ONE, headers={header[0]: header[1].format(key)})
    assert answer.status_code == 202
    assert (await locked.worker.run()).tenant == "acme"


@pytest.mark.parametrize("wrong", ["", "x", "Basic eDp5", "mas_", "\xff", "mas_" + "a" * 12 + "_" + "b" * 38])
async def test_what_is_no_key_is_refused(locked: Gateway, wrong: str) -> None:
    await key_for(locked)
    for name, value in (("authorization", f"Bearer {wrong}"), ("x-api-key", wrong), ("authorization", wrong)):
        answer = await locked.http.get("/api/v1/jobs", headers=[(name.encode(), value.encode("latin-1"))])
        problem(answer, 401, "unauthorized")
        assert answer.headers["www-authenticate"] == "Bearer"


async def test_an_expired_key_is_refused(locked: Gateway) -> None:
    key = await key_for(locked, seconds=1.5)
    assert (await ask(locked, key)).status_code == 200
    await until(lambda: locked.services.keys.find(key) is None, 5)
    problem(await ask(locked, key), 401, "unauthorized")


async def test_a_revoked_key_is_refused_within_a_second_and_no_other(locked: Gateway) -> None:
    gone, kept = await key_for(locked), await key_for(locked)
    assert await locked.services.keys.store.revoke(gone.split("_")[1])
    revoked_at = time.monotonic()
    while (await ask(locked, gone)).status_code == 200:
        assert time.monotonic() - revoked_at < 1 + 2, "a second, and slack for a busy machine"
        await asyncio.sleep(0.02)
    problem(await ask(locked, gone), 401, "unauthorized")
    assert (await ask(locked, kept)).status_code == 200
    assert not await locked.services.keys.store.revoke(gone.split("_")[1])


async def test_a_request_asks_redis_for_no_key(locked: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    key = await key_for(locked)
    asked: list[str] = []
    for name in ("all", "changes"):
        real = getattr(KeyStore, name)

        async def counted(self: KeyStore, name: str = name, real: Any = real) -> Any:
            asked.append(name)
            return await real(self)

        monkeypatch.setattr(KeyStore, name, counted)
    begun = time.monotonic()
    for _ in range(100):
        assert (await ask(locked, key)).status_code == 200
    looks = (time.monotonic() - begun) / LOOK_SECONDS
    assert asked == ["changes"] * len(asked)
    assert len(asked) <= looks + 1


@pytest.mark.parametrize("has", SCOPES)
async def test_a_key_opens_what_its_scope_says_and_nothing_else(locked: Gateway, has: Scope) -> None:
    key = await key_for(locked, scopes=[has])
    needed = {
        (method, route.path): scope
        for route in locked.app.routes
        if (scope := scope_of(route)) is not None
        for method in route.methods  # type: ignore[attr-defined]
    }
    assert {*needed.values()} == {*SCOPES}
    for (method, path), scope in needed.items():
        url = path.format(
            job_id="0" * 32, endpoint_id="0" * 32, graph_id="x", delivery_id=f"{'0' * 32}_1_failed", tenant="x"
        )
        answer = await locked.http.request(method, url, headers={"authorization": f"Bearer {key}"}, json={})
        if scope == has:
            assert answer.status_code not in (401, 403), (method, path, answer.text)
        else:
            document = problem(answer, 403, "insufficient_scope")
            assert scope in document["detail"]
            assert answer.headers["www-authenticate"] == f'Bearer error="insufficient_scope", scope="{scope}"'


async def test_every_route_of_the_page_names_the_scope_it_needs_but_those_of_health(locked: Gateway) -> None:
    page = locked.app.openapi()
    for path, methods in page["paths"].items():
        for method, operation in methods.items():
            scopes = {scope for one in operation.get("security", []) for found in one.values() for scope in found}
            if path in OPEN_PATHS:
                assert scopes == set()
            else:
                operators = ("/metrics", "/api/v1/workers", "/api/v1/tenants")
                expected = "ops" if path.startswith(operators) else None
                expected = expected or ("jobs:read" if method == "get" else "jobs:write")
                assert scopes == {expected}, (method, path)


async def test_many_wrong_keys_from_one_address_are_told_to_wait_and_a_right_one_is_let_in(locked: Gateway) -> None:
    key = await key_for(locked)
    codes = [(await ask(locked, "wrong")).json()["code"] for _ in range(MOST + 5)]
    assert codes == ["unauthorized"] * MOST + ["too_many_failures"] * 5
    answer = await ask(locked, "wrong")
    problem(answer, 429, "too_many_failures")
    assert 1 <= int(answer.headers["retry-after"]) <= 60
    assert (await ask(locked, key)).status_code == 200
    problem(await locked.http.get("/api/v1/jobs"), 401, "unauthorized")


async def test_before_the_keys_are_read_nobody_is_let_in_and_the_reason_is_redis(
    make_gateway: MakeGateway, monkeypatch: pytest.MonkeyPatch, fake_server: fakeredis.FakeServer
) -> None:
    fake_server.connected = False
    async with make_gateway(auth_required=True) as gateway:
        text, kept = new_key("acme", "test", SCOPES, now_ms=0)
        problem(await ask(gateway, text), 503, "store_unavailable")
        problem(await gateway.http.get("/api/v1/jobs"), 401, "unauthorized")
        fake_server.connected = True
        await gateway.services.keys.store.save(kept)
        await until(lambda: gateway.services.keys.find(text) is not None, 5)
        assert (await ask(gateway, text)).status_code == 200


async def test_the_first_start_without_a_key_says_how_to_make_one(
    make_gateway: MakeGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    async with make_gateway(auth_required=True):
        pass
    assert "python -m gateway keys create --tenant default --name first" in capsys.readouterr().out
    async with make_gateway(auth_required=False):
        pass
    assert "keys create" not in capsys.readouterr().out
