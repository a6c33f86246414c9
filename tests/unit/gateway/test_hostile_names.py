"""Names that clients choose: they come back as they were, never become a key of their own making, and never meet."""

from __future__ import annotations

import re
from base64 import urlsafe_b64encode
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.store.keys import KEYS
from tests.unit.gateway.conftest import Gateway, MakeGateway, problem
from tests.unit.gateway.test_keys import ask, key_for

ID = "[0-9a-f]{32}"
REF = f"default:{ID}"
SHA1 = "[0-9a-f]{40}"
NAME = "[A-Za-z0-9][A-Za-z0-9_.-]{0,127}"
HOST = r"https://hooks\.test:443"
# All that a submit, a claim and an end may leave behind. What a client chose freely stands in them as a SHA-1 only.
SAFE = {
    "job": REF, "input": REF, "events": REF, "result": REF, "running": REF, "held": "worker-1", "expiry": "",
    "lane": f"{NAME}:{NAME}:default", "lanes": NAME, "turns": NAME, "queues": "", "due": "", "leases": "",
    "thread": f"default:{SHA1}", "line": f"default:{SHA1}", "index_thread": f"default:{SHA1}",
    "index": f"default:{NAME}:[a-z]+", "graphs": "default", "waiting": f"default:{NAME}", "drained": f"default:{NAME}",
    "idem": f"default:{SHA1}", "wake": f"{NAME}:{NAME}", "catalogue": "", "catalogue_errors": "", "claims": "worker-1",
    "deliveries": REF, "delivery": f"{REF}_1_[a-z]+", "delivery_record": f"{REF}_1_[a-z]+",
    "delivery_output": f"{REF}_1_[a-z]+", "deliveries_index": "default:job:[a-z]+", "targets": "default", "hosts": "",
    "host": HOST, "host_line": HOST, "deliveries_wake": "", "deliveries_leases": "",
}  # fmt: skip
SAFE_KEY = re.compile("|".join(f"(?:{re.escape(KEYS[name])}{rest})" for name, rest in SAFE.items()))
NASTY = [
    "*", "?", "[a-z]*", "default:x", "../../etc/passwd", "/dev/null", "a b", "\N{PILE OF POO}" * 128, "x" * 512, "%00",
    "a" + "\N{COMBINING ACUTE ACCENT}", "\N{LATIN SMALL LETTER A WITH ACUTE}", "\u202egnp.exe", "\u2028", "\x85",
    "\ufeff",
    "<script>alert(1)</script>", "'; DROP TABLE jobs; --", '"', "\\", "${jndi:ldap://x}", "{{7*7}}", "mas:job:default",
    " ", ":", "::", "null", "0", "-1", "K", "\N{KELVIN SIGN}", "\ud7ff", "\uffff", "\U0010ffff", ",", "a,b",
]  # fmt: skip
REFUSED = ["", "x" * 513, "x" * 4096, "a\nb", "\n", "a\rb", "\x00", "a\x00", "\x1b[31m", "\x7f", "\t"]
hostile = st.sampled_from(NASTY) | st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="".join(map(chr, range(32))) + "\x7f"),
    min_size=1, max_size=512,
)  # fmt: skip
several_times = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


async def keys_of(gateway: Gateway) -> list[str]:
    return [name.decode("utf-8", "backslashreplace") for name in await gateway.services.redis.keys("*")]


async def unsafe_keys(gateway: Gateway) -> list[str]:
    return [name for name in await keys_of(gateway) if not SAFE_KEY.fullmatch(name)]


@several_times
@given(
    st.lists(hostile, min_size=2, max_size=4, unique=True),
    st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=255),
)
async def test_threads_of_different_names_never_meet_and_names_come_back_as_they_were(
    gateway: Gateway, names: list[str], idempotency_key: str
) -> None:
    jobs: dict[str, str] = {}
    for name in names:
        body = {
            "graph": "echo",
            "input": {name: name},
            "thread_id": name,
            "metadata": {name: name},
            "on_busy": "reject",
        }
        answer = await gateway.post("/jobs", body)
        if answer.status_code == 409:
            assert answer.json()["code"] == "thread_busy"
            listed = (await gateway.get("/jobs", thread_id=name)).json()["items"]
            assert listed, "nobody else is in its way"
            assert {one["thread_id"] for one in listed} == {name}
            jobs[name] = answer.json()["job_id"]
            continue
        assert answer.status_code == 202, answer.text
        assert answer.headers["location"] == f"/api/v1/jobs/{answer.json()['id']}"
        jobs[name] = answer.json()["id"]
    assert len(set(jobs.values())) == len(names)
    for name, job_id in jobs.items():
        record = (await gateway.get(f"/jobs/{job_id}")).json()
        assert (record["thread_id"], record["metadata"]) == (name, {name: name})
        found = (await gateway.get("/jobs", thread_id=name)).json()["items"]
        assert job_id in {one["id"] for one in found}
        assert {one["thread_id"] for one in found} == {name}
    # The header is kept as bytes of ASCII; which of them are no key at all is another test's.
    await gateway.post("/jobs", {"graph": "echo", "input": 1}, idempotency_key=idempotency_key)
    assert await unsafe_keys(gateway) == []


async def test_a_job_s_whole_life_leaves_safe_keys_only(gateway: Gateway) -> None:
    for number, name in enumerate(NASTY):
        for key in (f"{number}*", f"{number}:b", f'"{number} q \\" "'):
            body = {
                "graph": "echo", "input": name, "thread_id": name, "metadata": {name: name},
                "webhook": {"url": "https://hooks.test/" + "*?:" * 3},
                "context": {name: name}, "config": {"configurable": {name: name}, "tags": [name]},
            }  # fmt: skip
            answer = await gateway.post("/jobs", body, idempotency_key=key)
            assert answer.status_code == 202, answer.text
        job = await gateway.worker.claim()
        await gateway.worker.finish(job, output=b'"<b>"')
    names = await keys_of(gateway)
    assert len(names) > 50
    assert await unsafe_keys(gateway) == []
    assert any(name.startswith(KEYS["delivery"]) for name in names)


@pytest.mark.parametrize(
    "host",
    [
        "*", "a*.test", "a b.test", "a%2a.test", "a:b:c", "hooks.test\n", "hooks.test\x00", "a{b}.test", "a,b.test",
        "[::1]:x", "user:pw@hooks.test", "\N{PILE OF POO}.test", "b\N{LATIN SMALL LETTER U WITH DIAERESIS}cher.test",
        "x" * 300 + ".test", "a_b.test", "..", "A.TEST", "hooks.test.", "\u3002", "a\u2024test", "'.test", "$(x).test",
    ],
)  # fmt: skip
async def test_the_host_of_a_webhook_is_a_host_name_or_refused(gateway: Gateway, host: str) -> None:
    for path, body in (
        ("/jobs", {"graph": "echo", "input": 1, "webhook": {"url": f"https://{host}/h"}}),
        ("/webhooks", {"url": f"https://{host}/h"}),
    ):
        answer = await gateway.post(path, body)
        assert answer.status_code in (201, 202, 422), answer.text
        if answer.status_code == 202:
            await gateway.worker.run()
    named = [name for name in await keys_of(gateway) if name.startswith((KEYS["host"], KEYS["host_line"]))]
    assert [name for name in named if not re.fullmatch(r"mas:host(-line)?:https://[a-z0-9_.-]+:443", name)] == []


@pytest.mark.parametrize("name", REFUSED)
async def test_names_that_are_none_are_refused_and_leave_nothing(gateway: Gateway, name: str) -> None:
    before = await keys_of(gateway)
    answer = await gateway.post("/jobs", {"graph": "echo", "input": 1, "thread_id": name})
    problem(answer, 422, "validation_error")
    problem(await gateway.get("/jobs", thread_id=name), 422, "validation_error")
    assert await keys_of(gateway) == before


@pytest.mark.parametrize("field", ["queue", "graph"])
@pytest.mark.parametrize("name", [*NASTY, *REFUSED, "a\n", "default\n", "-a", ".a", "a:b", "a*", "x" * 129])
async def test_queues_and_graphs_have_plain_names_only(gateway: Gateway, field: str, name: str) -> None:
    plain = re.fullmatch(NAME, name)
    before = await keys_of(gateway)
    answer = await gateway.post("/jobs", {"graph": "echo", "input": 1, field: name})
    if not plain:
        problem(answer, 422, "validation_error")
        assert await keys_of(gateway) == before
    assert await unsafe_keys(gateway) == []


HEADERS_OF_A_404 = {
    b"content-length", b"content-type", b"x-request-id", b"x-content-type-options", b"referrer-policy",
    b"content-security-policy", b"cache-control", b"cross-origin-resource-policy",
}  # fmt: skip


def _paths(name: str) -> list[str]:
    from urllib.parse import quote

    text = quote(name, safe="")
    return [
        f"/jobs/{text}", f"/jobs/{text}/deliveries", f"/graphs/{text}", f"/deliveries/{text}", f"/webhooks/{text}",
        f"/webhooks/{text}/deliveries",
    ]  # fmt: skip


@pytest.mark.parametrize("name", [*NASTY, *REFUSED[1:], "0" * 32 + "\n", "0" * 31, "A" * 32, "default:" + "0" * 32])
async def test_no_name_in_a_path_is_looked_for_unless_it_can_be_one(
    gateway: Gateway, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def looked_for(*_: Any, **__: Any) -> None:
        raise AssertionError("it cannot be an id")

    monkeypatch.setattr(type(gateway.jobs), "get", looked_for)
    for path in _paths(name):
        answer = await gateway.http.get(f"http://gateway.test/api/v1{path}")
        assert answer.status_code == 404, (path, answer.text)
        assert answer.headers["content-type"] == "application/problem+json"
        assert {header.lower() for header, _ in answer.headers.raw} == HEADERS_OF_A_404
        assert all(re.fullmatch(rb"[\x20-\x7e]*", value) for _, value in answer.headers.raw)
    assert await unsafe_keys(gateway) == []


def forged() -> st.SearchStrategy[str]:
    """Cursors that no list gave, but that look like it."""
    position = st.tuples(st.integers(-5, 2**54), st.text(max_size=40)).map(lambda at: f"{at[0]}:{at[1]}".encode())
    coded = (position | st.binary(max_size=80)).map(lambda raw: urlsafe_b64encode(raw).decode().rstrip("="))
    return coded | st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=120)


@pytest.fixture
async def two_tenants(make_gateway: MakeGateway) -> Any:
    """A gateway, and the keys of two tenants with three jobs each."""
    async with make_gateway(auth_required=True) as gateway:
        await gateway.registry.publish({"echo": {"id": "echo", "input_schema": None, "context_schema": None}}, {})
        keys = {tenant: await key_for(gateway, tenant) for tenant in ("acme", "globex")}
        for tenant, key in keys.items():
            for _ in range(3):
                body = {"graph": "echo", "input": 1, "metadata": {"of": tenant}}
                assert (await ask(gateway, key, "POST", json=body)).status_code == 202
        yield gateway, keys


async def own_page_or_refused(gateway: Gateway, key: str, tenant: str, cursor: str) -> None:
    for path in ("/jobs", "/deliveries"):
        answer = await ask(gateway, key, path=path, params={"cursor": cursor})
        if answer.status_code != 200:
            problem(answer, 422, answer.json()["code"])
            assert answer.json()["code"] in ("invalid_cursor", "validation_error")
        else:
            assert {item["metadata"]["of"] for item in answer.json()["items"]} <= {tenant}
    for path in ("/jobs/retry", "/deliveries/redeliver"):
        for sent in (cursor, f"1.{cursor}", f"99999999999999999999.{cursor}"):
            answer = await ask(gateway, key, "POST", path=path, json={"cursor": sent, "dry_run": True})
            assert answer.status_code in (200, 422), answer.text
            if answer.status_code == 200:
                assert answer.json()["items"] == [], "nothing has failed"


@several_times
@given(forged())
async def test_a_forged_cursor_is_refused_or_leads_to_a_page_of_one_s_own(two_tenants: Any, cursor: str) -> None:
    gateway, keys = two_tenants
    await own_page_or_refused(gateway, keys["acme"], "acme", cursor)


async def test_another_tenant_s_cursor_leads_to_a_page_of_one_s_own(two_tenants: Any) -> None:
    gateway, keys = two_tenants
    for path in ("/jobs?limit=1", "/jobs?limit=2", "/jobs?limit=1&status=queued"):
        given_to_globex = (await ask(gateway, keys["globex"], path=path)).json()["next_cursor"]
        assert given_to_globex
        await own_page_or_refused(gateway, keys["acme"], "acme", given_to_globex)
