"""`/tenants`: an operator sets what one tenant may do."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conditions import until
from tests.unit.gateway.conftest import Gateway, MakeGateway, problem
from tests.unit.gateway.test_keys import ask, key_for

NOTHING = {"max_running": None, "max_waiting": None, "requests_per_minute": None}


async def put(gateway: Gateway, tenant: str, body: Any) -> Any:
    return await gateway.http.put(f"/api/v1/tenants/{tenant}/limits", json=body)


async def test_limits_that_are_set_are_shown_listed_and_dropped(gateway: Gateway) -> None:
    assert (await gateway.get("/tenants")).json() == {"items": [], "next_cursor": None}
    assert (await gateway.get("/tenants/acme/limits")).json() == {"tenant": "acme", **NOTHING}
    acme = {"tenant": "acme", **NOTHING, "max_running": 5, "max_waiting": 0}
    assert (await put(gateway, "acme", {"max_running": 5, "max_waiting": 0})).json() == acme
    other = {"tenant": "changes", **NOTHING, "requests_per_minute": 1_000_000_000}
    assert (await put(gateway, "changes", {"requests_per_minute": 1_000_000_000, "max_running": None})).json() == other
    assert (await gateway.get("/tenants/acme/limits")).json() == acme
    assert (await gateway.get("/tenants")).json()["items"] == [acme, other]
    replaced = {"tenant": "acme", **NOTHING, "requests_per_minute": 7}
    assert (await put(gateway, "acme", {"requests_per_minute": 7})).json() == replaced
    assert (await put(gateway, "acme", {})).json() == {"tenant": "acme", **NOTHING}
    assert (await gateway.get("/tenants")).json()["items"] == [other]


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"max_running": -1}, "/max_running"),
        ({"max_waiting": 1.5}, "/max_waiting"),
        ({"max_waiting": "5"}, "/max_waiting"),
        ({"requests_per_minute": True}, "/requests_per_minute"),
        ({"requests_per_minute": 10**9 + 1}, "/requests_per_minute"),
        ({"max_runing": 1}, "/max_runing"),
        ([], ""),
    ],
)
async def test_wrong_limits_are_refused_and_change_nothing(gateway: Gateway, body: Any, pointer: str) -> None:
    document = problem(await put(gateway, "acme", body), 422, "validation_error")
    assert [error["pointer"] for error in document["errors"]] == [pointer]
    assert (await gateway.get("/tenants")).json()["items"] == []


@pytest.mark.parametrize("tenant", ["A", "a:b", "a%0Ab", "*", "-a", "a" * 65, "%F0%9F%98%80"])
async def test_what_is_no_name_of_a_tenant_is_refused(gateway: Gateway, tenant: str) -> None:
    problem(await put(gateway, tenant, {"max_running": 1}), 422, "validation_error")
    problem(await gateway.get(f"/tenants/{tenant}/limits"), 422, "validation_error")


async def test_a_tenants_own_depth_goes_before_that_of_all(make_gateway: MakeGateway) -> None:
    async with make_gateway(max_tenant_depth=2) as gateway:
        await gateway.registry.publish({"echo": {"id": "echo", "input_schema": None, "context_schema": None}}, {})
        for most, taken in ((1, 1), (3, 2), (0, 5), (None, 0)):
            await put(gateway, "default", {"max_waiting": most})
            for _ in range(taken):
                await gateway.submit()
            if most != 0:
                answer = await gateway.post("/jobs", {"graph": "echo", "input": None})
                problem(answer, 429, "tenant_full")


async def test_the_limits_are_for_operators_and_hold_for_every_key_of_the_tenant(make_gateway: MakeGateway) -> None:
    async with make_gateway(auth_required=True) as gateway:
        operator = await key_for(gateway, tenant="operators", scopes=["ops"])
        first, second = [await key_for(gateway, scopes=["jobs:read", "jobs:write"]) for _ in range(2)]
        limits = {"json": {"requests_per_minute": 2}}
        answer = await ask(gateway, first, "PUT", "/tenants/acme/limits", **limits)
        problem(answer, 403, "insufficient_scope")
        assert (await ask(gateway, operator, "PUT", "/tenants/acme/limits", **limits)).status_code == 200
        await until(lambda: gateway.services.tenants.limits("acme").requests_per_minute == 2, 5)
        for each in (first, second):
            assert [(await ask(gateway, each)).status_code for _ in range(3)] == [200, 200, 429]
        assert {(await ask(gateway, operator, path="/tenants")).status_code for _ in range(9)} == {200}
