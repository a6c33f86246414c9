"""GET /deliveries: what became of all webhook messages, filtered and page by page."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from shared.jobs import rfc3339
from shared.store import NewJob, paging
from tests.unit.gateway.conftest import Gateway, MakeGateway, problem

HOOK = {"url": "https://example.com/jobs"}
NO_DELIVERY = f"{'0' * 32}_1_failed"


async def listed(gateway: Gateway, path: str = "/deliveries", **filters: Any) -> list[str]:
    """The ids of all pages."""
    found: list[str] = []
    cursor: dict[str, str] = {}
    for _ in range(500):
        page = (await gateway.get(path, **filters, **cursor)).json()
        found += [item["id"] for item in page["items"]]
        if page["next_cursor"] is None:
            return found
        cursor = {"cursor": page["next_cursor"]}
    raise AssertionError("no end")


async def others_delivery(gateway: Gateway) -> str:
    """The id of a delivery of another tenant."""
    fields: dict[str, str | bytes] = {"webhook_url": "https://other.example/"}
    await gateway.jobs.submit(
        NewJob(tenant="other", id="f" * 32, graph="echo", payload=b"{}", max_attempts=3, fields=fields)
    )
    await gateway.worker.run("failed", b"")
    return f"{'f' * 32}_1_failed"


async def test_a_delivery_is_shown_with_its_attempts_and_when_the_next_is_due(gateway: Gateway) -> None:
    job_id = await gateway.end_job("failed", webhook=HOOK)
    assert await gateway.sender.send("retry") == [f"{job_id}_1_failed"]
    found = (await gateway.get(f"/deliveries/{job_id}_1_failed")).json()
    (attempt,) = found.pop("attempts")
    assert (attempt["status_code"], attempt["duration_ms"]) == (204, 12)
    created, changed, due = (
        datetime.fromisoformat(found.pop(f"{name}_at")) for name in ("created", "changed", "next_attempt")
    )
    assert created < changed < due
    assert 290 < (due - changed).total_seconds() < 310
    assert found == {
        "id": f"{job_id}_1_failed", "type": "job.failed", "job_id": job_id, "endpoint": None, "url": HOOK["url"],
        "status": "pending", "detail": None,
    }  # fmt: skip


async def test_all_that_is_given_has_to_match(gateway: Gateway) -> None:
    endpoint = (await gateway.register(events=["job.failed", "job.cancelled"]))["id"]
    a = f"{await gateway.end_job(webhook=HOOK)}_1_succeeded"
    await gateway.sender.send()
    b = f"{await gateway.end_job('failed')}_1_failed_{endpoint}"
    await gateway.sender.send("failed")
    c = f"{await gateway.end_job('cancelled')}_1_cancelled_{endpoint}"
    d = f"{await gateway.end_job('interrupted', webhook=HOOK)}_1_interrupted"
    gateway.pass_time(1)
    e = (await gateway.post(f"/webhooks/{endpoint}/ping")).json()["id"]
    at = {name: (await gateway.get(f"/deliveries/{name}")).json()["changed_at"] for name in (a, b, c, d, e)}
    found: list[tuple[dict[str, Any], list[str]]] = [
        ({}, [e, d, c, b, a]),
        ({"status": "delivered"}, [a]),
        ({"status": "failed,delivered"}, [b, a]),
        ({"status": ["failed", "held"]}, [b]),
        ({"status": "held"}, []),
        ({"endpoint": endpoint}, [e, c, b]),
        ({"endpoint": "0" * 32}, []),
        ({"type": "job.cancelled,webhook.ping"}, [e, c]),
        ({"type": "job.succeeded", "status": "pending"}, []),
        ({"endpoint": endpoint, "status": "pending", "type": "job.cancelled"}, [c]),
        ({"since": at[c]}, [e, d, c]),
        ({"until": at[c]}, [b, a]),
        ({"since": at[b], "until": at[d]}, [c, b]),
        ({"since": at[b], "until": at[d], "status": "failed"}, [b]),
    ]
    for filters, expected in found:
        assert await listed(gateway, **filters) == expected, filters
        if not {"endpoint"} & set(filters):
            of_endpoint = [name for name in expected if name.endswith(endpoint)]
            assert await listed(gateway, f"/webhooks/{endpoint}/deliveries", **filters) == of_endpoint, filters


async def test_since_is_inclusive_and_until_exclusive_to_less_than_a_millisecond(gateway: Gateway) -> None:
    name = f"{await gateway.end_job(webhook=HOOK)}_1_succeeded"
    at = datetime.fromisoformat((await gateway.get(f"/deliveries/{name}")).json()["changed_at"]).astimezone(UTC)
    just_later = f"{at:%Y-%m-%dT%H:%M:%S.}{at.microsecond + 1:06d}Z"
    assert await listed(gateway, since=at.isoformat()) == [name]
    assert await listed(gateway, since=just_later) == []
    assert await listed(gateway, until=at.isoformat()) == []
    assert await listed(gateway, until=just_later) == [name]


async def test_times_are_about_the_last_change_not_the_creation(gateway: Gateway) -> None:
    early, late = [f"{await gateway.end_job(webhook=HOOK)}_1_succeeded" for _ in range(2)]
    first, second = await gateway.sender.claim()
    assert [first.id, second.id] == [early, late]
    gateway.pass_time(1)
    between = rfc3339(await gateway.deliveries.now_ms())
    await gateway.sender.settle(first, "failed")
    assert await listed(gateway) == [early, late]
    assert await listed(gateway, since=between) == [early]


@pytest.mark.parametrize("limit", [1, 7, 100])
async def test_the_pages_together_have_each_delivery_once(gateway: Gateway, limit: int) -> None:
    endpoints = [(await gateway.register())["id"] for _ in range(5)]
    every: set[str] = set()
    for number in range(8):
        job_id = await gateway.end_job(webhook=HOOK)  # six deliveries of one millisecond
        every |= {f"{job_id}_1_succeeded", *(f"{job_id}_1_succeeded_{endpoint}" for endpoint in endpoints)}
        await gateway.sender.send(("delivered", "failed", "retry")[number % 3])
    found = await listed(gateway, limit=limit)
    assert len(found) == len(every) == 48
    assert set(found) == every
    changed = [(await gateway.get(f"/deliveries/{name}")).json()["changed_at"] for name in found]
    assert changed == sorted(changed, reverse=True)
    for status in ("delivered", "failed", "pending"):
        of_status = await listed(gateway, limit=limit, status=status)
        assert of_status == [name for name in found if name in set(of_status)]
        assert len(of_status) in (12, 18)
    assert await listed(gateway, f"/webhooks/{endpoints[0]}/deliveries", limit=limit) == [
        name for name in found if name.endswith(endpoints[0])
    ]


async def test_what_changes_between_two_pages_does_not_come_twice(gateway: Gateway) -> None:
    made = [f"{await gateway.end_job(webhook=HOOK)}_1_succeeded" for _ in range(6)]
    first = (await gateway.get("/deliveries", limit=3)).json()
    seen = [item["id"] for item in first["items"]]
    gateway.pass_time(1)
    await gateway.sender.send("retry")  # all of them move to the front
    again = await listed(gateway, limit=3)
    assert sorted(again) == sorted(made)
    after = (await gateway.get("/deliveries", limit=3, cursor=first["next_cursor"])).json()
    assert not {item["id"] for item in after["items"]} & set(seen)


async def test_pages_end_with_all_that_match_however_rare_they_are(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paging, "MAX_EXAMINED", 4)
    monkeypatch.setattr(paging, "STRIDE", 2)
    jobs = [
        await gateway.end_job("failed" if number in (0, 9, 10) else "succeeded", webhook=HOOK) for number in range(12)
    ]
    expected = [f"{jobs[number]}_1_failed" for number in (10, 9, 0)]
    assert await listed(gateway, type="job.failed", limit=2) == expected


async def test_another_tenant_s_deliveries_are_not_there(gateway: Gateway) -> None:
    name = await others_delivery(gateway)
    before = await gateway.deliveries.get("other", name)
    assert before is not None
    assert await listed(gateway) == []
    problem(await gateway.get(f"/deliveries/{name}"), 404, "delivery_not_found")
    problem(await gateway.post(f"/deliveries/{name}/redeliver"), 404, "delivery_not_found")
    problem(await gateway.post(f"/jobs/{'f' * 32}/deliveries/{name}/redeliver"), 404, "delivery_not_found")
    problem(await gateway.get(f"/jobs/{'f' * 32}/deliveries"), 404, "job_not_found")
    assert await gateway.deliveries.get("other", name) == before


@pytest.mark.parametrize("path", ["/deliveries", "/webhooks/{}/deliveries"])
async def test_a_cursor_that_no_list_gave_and_wrong_filters_are_refused(gateway: Gateway, path: str) -> None:
    path = path.format((await gateway.register())["id"])
    for cursor in ("x", "=", "MTox.", "é", "1.MTph"):
        problem(await gateway.get(path, cursor=cursor), 422, "invalid_cursor")
    wrong = [
        ("status", "sent"), ("type", "job.started"), ("since", "now"), ("since", "2026-01-01T00:00:00"), ("until", "x"),
        ("limit", "0"), ("limit", "101"), ("cursor", "x" * 301),
    ]  # fmt: skip
    for name, value in wrong + ([("endpoint", "x")] if path == "/deliveries" else []):
        (found,) = problem(await gateway.get(path, **{name: value}), 422, "validation_error")["errors"]
        assert found["parameter"] == name


@pytest.mark.parametrize("at", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00", rfc3339(0)])
async def test_any_time_with_a_zone_is_taken(gateway: Gateway, at: str) -> None:
    name = f"{await gateway.end_job(webhook=HOOK)}_1_succeeded"
    gateway.pass_time(1)
    for parameter in ("since", "until"):
        assert await listed(gateway, **{parameter: at}) in ([], [name])
        answer = await gateway.post("/deliveries/redeliver", {parameter: at, "status": ["pending"], "dry_run": True})
        assert answer.status_code == 200


@pytest.mark.parametrize(
    "name",
    [
        "x", "redeliver", NO_DELIVERY[1:], NO_DELIVERY.upper(), f"{NO_DELIVERY}_", f"{NO_DELIVERY}_{'0' * 31}",
        f"{'0' * 32}.1.failed", f"{'0' * 32}_0_failed", f"{'0' * 32}_1_running", f"ping_{'0' * 32}",
        f"{NO_DELIVERY}%0A", f"ping_{'0' * 32}_{'0' * 32}_x", "%00",
    ],
)  # fmt: skip
async def test_what_cannot_be_a_delivery_s_id_is_a_404_without_a_question_to_redis(
    make_gateway: MakeGateway, name: str
) -> None:
    class Silent:
        async def aclose(self) -> None: ...

    async with make_gateway(redis=Silent()) as gateway:
        problem(await gateway.get(f"/deliveries/{name}"), 404, "delivery_not_found")
        problem(await gateway.post(f"/deliveries/{name}/redeliver"), 404, "delivery_not_found")
        problem(await gateway.post(f"/jobs/{'0' * 32}/deliveries/{name}/redeliver"), 404, "delivery_not_found")


async def test_metrics_tell_how_far_the_senders_are_behind(gateway: Gateway) -> None:
    def value(text: str, name: str) -> float:
        return next(float(line.split()[1]) for line in text.splitlines() if line.startswith(f"{name} "))

    async def backlog() -> tuple[float, float]:
        text = (await gateway.http.get("/metrics")).text
        return value(text, "mas_webhook_backlog"), value(text, "mas_webhook_backlog_oldest_seconds")

    assert await backlog() == (0, 0)
    await gateway.end_job(webhook=HOOK)
    gateway.pass_time(60)
    await gateway.end_job(webhook={"url": "https://elsewhere.example/"})
    waiting, oldest = await backlog()
    assert waiting == 2
    assert 60 < oldest < 70
    await gateway.sender.send("retry")
    assert await backlog() == (0, 0), "the next tries are not due yet"
