"""Each route, asked by another tenant about all that one owns: it finds nothing, learns nothing and changes nothing.

A route of the page without a case here fails the last test of this file.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import fakeredis
import pytest
from fastapi.routing import APIRoute

from gateway.auth import OPEN_PATHS
from shared.records import API
from tests.unit.gateway.conftest import Gateway, ask, key_for, problem
from tests.unit.gateway.estate import EVERY_DELIVERY, QUEUE, Estate, make_estates, stored_of

Wanted = Callable[[Estate], Sequence[dict[str, Any]]]
NOTHING: Wanted = lambda _: [{}]  # noqa: E731


@dataclass(frozen=True)
class Refused:
    """404 for whatever the path names of the other's. `more`: what each request has besides."""

    code: str
    more: Wanted = field(default=NOTHING)

    async def hold(self, gateway: Gateway, method: str, path: str, owner: Estate, other: Estate) -> None:
        for where, more in itertools.product(_places(path, owner, other), self.more(owner)):
            answer = await ask(gateway, other.key, method, where, **more)
            problem(answer, 404, self.code)
            assert owner.named_in(answer.text) == []


@dataclass(frozen=True)
class OnlyIts:
    """A list, or what became of the jobs or deliveries that matched: only the caller's own."""

    more: Wanted = field(default=NOTHING)

    async def hold(self, gateway: Gateway, method: str, path: str, owner: Estate, other: Estate) -> None:
        seen: set[str] = set()
        for more in self.more(owner):
            answer = await ask(gateway, other.key, method, path, **more)
            assert answer.status_code in (200, 202), answer.text
            assert owner.named_in(answer.text) == []
            seen |= {item.get("id") or item["url"] for item in answer.json()["items"]}
        assert seen, "it has some of its own"
        assert seen <= other.everything | {other.disabled_url}


@dataclass(frozen=True)
class Made:
    """Something of the caller's own, whatever of the other's it names."""

    more: Wanted

    async def hold(self, gateway: Gateway, method: str, path: str, owner: Estate, other: Estate) -> None:
        for more in self.more(owner):
            answer = await ask(gateway, other.key, method, path, **more)
            assert answer.status_code in (201, 202), answer.text
            assert "error" not in answer.text
            assert [mark for mark in owner.named_in(answer.text) if mark != owner.tenant] == []


@dataclass(frozen=True)
class Shared:
    """The same for all tenants, and of none: the catalogue, and how the service is."""

    async def hold(self, gateway: Gateway, method: str, path: str, owner: Estate, other: Estate) -> None:
        here = path.format(graph_id="echo")
        answers = [await ask(gateway, key, method, here) for key in (owner.key, other.key)]
        assert [answer.status_code for answer in answers] == [200, 200]
        assert answers[0].json() == answers[1].json()
        assert owner.named_in(answers[0].text) == []


@dataclass(frozen=True)
class Operators:
    """About all tenants, for a key with the scope `ops`; and nothing of it tells what belongs to whom."""

    body: dict[str, Any] | None = None

    async def hold(self, gateway: Gateway, method: str, path: str, owner: Estate, other: Estate) -> None:
        plain = await key_for(gateway, other.tenant, ["jobs:read", "jobs:write"])
        for key, status in ((plain, 403), (other.key, 200)):
            answer = await ask(gateway, key, method, path.format(tenant=other.tenant), json=self.body)
            assert answer.status_code == status
            assert owner.named_in(answer.text) == []


def _page_queries(owner: Estate) -> list[dict[str, Any]]:
    status = {"params": {"status": "failed,cancelled,queued,running,interrupted,succeeded"}}
    return [
        {}, status, {"params": {"thread_id": owner.thread}}, {"params": {"graph": "echo"}},
        {"params": {"cursor": owner.cursors["jobs"]}},
    ]  # fmt: skip


def _delivery_queries(owner: Estate) -> list[dict[str, Any]]:
    asked: list[dict[str, Any]] = [{"endpoint": endpoint} for endpoint in owner.endpoints]
    asked += [{"status": ",".join(EVERY_DELIVERY)}, {"cursor": owner.cursors["deliveries"]}, {}]
    return [{"params": one} for one in asked]


def _bulk(*bodies: dict[str, Any], cursor: str) -> Wanted:
    return lambda owner: [{"json": body} for body in (*bodies, {**bodies[-1], "cursor": owner.cursors[cursor]})]


def _redeliveries(owner: Estate) -> list[dict[str, Any]]:
    bodies: list[dict[str, Any]] = [{"endpoint": one, "status": EVERY_DELIVERY} for one in owner.endpoints]
    bodies += [{"status": EVERY_DELIVERY, "dry_run": True}, {"cursor": owner.cursors["redeliver"]}, {}]
    return [{"json": body} for body in bodies]


def _submits(owner: Estate) -> list[dict[str, Any]]:
    job = {"graph": "echo", "input": 1, "queue": QUEUE, "thread_id": owner.thread}
    key = {"Idempotency-Key": owner.idempotency_key}
    return [
        {"json": {**job, "on_busy": "reject"}, "headers": key},
        {"json": {**job, "on_busy": "cancel"}},
        {"json": {**job, "webhook": {"url": owner.disabled_url}}},
    ]


def _batches(owner: Estate) -> list[dict[str, Any]]:
    return [{"json": {"jobs": [one["json"]]}} for one in _submits(owner)[1:]]


def _registrations(owner: Estate) -> list[dict[str, Any]]:
    return [{"json": {"url": url}} for url in (f"https://{owner.tenant}.example/on", owner.disabled_url)]


def _json(*bodies: Any) -> Wanted:
    return lambda _: [{"json": body} for body in bodies]


Case = Refused | OnlyIts | Made | Shared | Operators
CASES: dict[str, Case] = {
    "GET /jobs": OnlyIts(_page_queries),
    "POST /jobs": Made(_submits),
    "POST /jobs/batch": Made(_batches),
    "POST /jobs/retry": OnlyIts(
        _bulk({"dry_run": True}, {"status": ["failed", "cancelled"], "from": "start"}, cursor="retry")
    ),
    "GET /jobs/{job_id}": Refused("job_not_found", lambda _: [{}, {"params": {"wait": 30}}]),
    "DELETE /jobs/{job_id}": Refused("job_not_found"),
    "POST /jobs/{job_id}/cancel": Refused("job_not_found"),
    "POST /jobs/{job_id}/retry": Refused("job_not_found", _json({}, {"from": "start"})),
    "POST /jobs/{job_id}/resume": Refused("job_not_found", _json({"value": 1}, {"value": 1, "round": 1})),
    "GET /jobs/{job_id}/deliveries": Refused("job_not_found"),
    "POST /jobs/{job_id}/deliveries/{delivery_id}/redeliver": Refused("delivery_not_found"),
    "GET /deliveries": OnlyIts(_delivery_queries),
    "GET /deliveries/{delivery_id}": Refused("delivery_not_found"),
    "POST /deliveries/{delivery_id}/redeliver": Refused("delivery_not_found"),
    "POST /deliveries/redeliver": OnlyIts(_redeliveries),
    "GET /webhooks": OnlyIts(),
    "POST /webhooks": Made(_registrations),
    "GET /webhooks/{endpoint_id}": Refused("endpoint_not_found"),
    "PATCH /webhooks/{endpoint_id}": Refused(
        "endpoint_not_found", _json({}, {"url": "https://evil.example/"}, {"events": None}, {"description": "mine"})
    ),
    "DELETE /webhooks/{endpoint_id}": Refused("endpoint_not_found"),
    "POST /webhooks/{endpoint_id}/rotate": Refused("endpoint_not_found", _json({}, {"secret": "whsec_" + "A" * 32})),
    "POST /webhooks/{endpoint_id}/ping": Refused("endpoint_not_found"),
    "POST /webhooks/{endpoint_id}/enable": Refused("endpoint_not_found"),
    "POST /webhooks/{endpoint_id}/disable": Refused("endpoint_not_found"),
    "GET /webhooks/{endpoint_id}/deliveries": Refused(
        "endpoint_not_found", lambda owner: [{}, {"params": {"cursor": owner.cursors["deliveries"]}}]
    ),
    "GET /webhooks/addresses": OnlyIts(),
    "POST /webhooks/addresses/enable": Refused(
        "address_not_found", lambda owner: [{"json": {"url": owner.disabled_url}}]
    ),
    # Graphs are the operator's, and for all tenants.
    "GET /graphs": Shared(),
    "GET /graphs/{graph_id}": Shared(),
    "GET /health": Shared(),
    "GET /health/live": Shared(),
    "GET /health/ready": Shared(),
    "GET /workers": Operators(),
    "GET /metrics": Operators(),
    "GET /tenants": Operators(),
    "GET /tenants/{tenant}/limits": Operators(),
    "PUT /tenants/{tenant}/limits": Operators({"max_running": 5}),
}  # fmt: skip


def _places(path: str, owner: Estate, other: Estate) -> Iterator[str]:
    """The path with each id of the owner's in it, and with the other's own job where there are two."""
    ids = {"job_id": owner.jobs, "delivery_id": owner.deliveries, "endpoint_id": dict.fromkeys(owner.endpoints)}
    values: list[list[tuple[str, str]]] = []
    for name in re.findall(r"{(\w+)}", path):
        known = ids[name]
        values.append([(name, value or one) for one, value in known.items()])
    for chosen in itertools.product(*values):
        yield path.format(**dict(chosen))
    if len(values) > 1:
        for delivery in owner.deliveries.values():
            yield path.format(job_id=other.jobs["failed"], delivery_id=delivery)
            yield path.format(job_id=delivery[:32], delivery_id=delivery)


@pytest.fixture
async def estates(locked: Gateway) -> list[Estate]:
    made = await make_estates(locked, "acme", "beta")
    del locked.http.headers["authorization"]
    return made


@pytest.mark.parametrize("name", CASES)
async def test_another_tenant_finds_learns_and_changes_nothing(
    locked: Gateway, estates: list[Estate], fake_server: fakeredis.FakeServer, name: str
) -> None:
    owner, other = estates
    method, path = name.split()
    before = stored_of(fake_server, owner.tenant)
    assert len(before) > 100
    await CASES[name].hold(locked, method, path, owner, other)
    changed = before ^ stored_of(fake_server, owner.tenant)
    # What the other made under the owner's names is the other's.
    assert {entry for entry in changed if other.tenant not in entry} == set()


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if isinstance(case, Refused)])
async def test_to_its_owner_the_same_thing_is_there(locked: Gateway, estates: list[Estate], name: str) -> None:
    owner, other = estates
    method, path = name.split()
    case = CASES[name]
    assert isinstance(case, Refused)
    statuses: set[int] = set()
    for where, more in itertools.product(_places(path, owner, other), case.more(owner)):
        if "wait" not in more.get("params", {}):
            statuses.add((await ask(locked, owner.key, method, where, **more)).status_code)
    assert statuses & {200, 202, 204}, statuses


async def test_the_same_names_of_two_tenants_are_two_things(locked: Gateway) -> None:
    keys = [await key_for(locked, tenant) for tenant in ("acme", "beta")]
    body = {
        "graph": "echo",
        "input": 1,
        "thread_id": "t",
        "on_busy": "reject",
        "webhook": {"url": "https://x.example/"},
    }
    jobs: list[str] = []
    for key in keys * 2:
        answer = await ask(locked, key, "POST", "/jobs", json=body, headers={"Idempotency-Key": "k"})
        jobs.append(answer.json()["id"])
        await ask(locked, key, "POST", "/webhooks", json={"url": "https://x.example/"})
    assert jobs[:2] == jobs[2:]
    assert len({*jobs}) == 2
    assert {(await locked.worker.claim()).tenant for _ in keys} == {"acme", "beta"}, "both run, in one thread each"
    assert (await ask(locked, keys[0], "POST", f"/jobs/{jobs[0]}/cancel")).status_code == 202
    assert (await ask(locked, keys[1], path=f"/jobs/{jobs[1]}")).json()["status"] == "running"
    for key, own in zip(keys, jobs, strict=False):
        listed = (await ask(locked, key, path="/jobs", params={"thread_id": "t"})).json()["items"]
        assert [job["id"] for job in listed] == [own]
        assert len((await ask(locked, key, path="/webhooks")).json()["items"]) == 2


def _route_names(app: Any) -> set[str]:
    routes = [route for route in app.routes if isinstance(route, APIRoute)]
    assert len(routes) == len(app.routes), "routes of another kind have no scope and no case"
    return {f"{method} {route.path}" for route in routes for method in route.methods}


async def test_every_route_has_a_case_here(locked: Gateway) -> None:
    cases = {name.replace(" ", f" {API}", 1) if "/metrics" not in name else name for name in CASES}
    page = {f"{method.upper()} {path}" for path, methods in locked.app.openapi()["paths"].items() for method in methods}
    assert page == cases
    # The page itself, and what shows it.
    assert _route_names(locked.app) - cases == {"GET /openapi.json", "GET /docs", "GET /static/{version}/{name}"}
    assert {path for path in OPEN_PATHS if f"GET {path}" not in cases} == set()
