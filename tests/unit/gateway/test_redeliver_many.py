"""POST /deliveries/redeliver, and of one: what failed is sent again, in as many calls as it takes."""

from __future__ import annotations

from typing import Any

import fakeredis
import orjson
import pytest

from shared.store import DeliveryLog, StoreFull, paging
from tests.fakes import values_in_memory
from tests.unit.gateway.conftest import Gateway, problem
from tests.unit.gateway.test_delivery_log import others_delivery

HOOK = {"url": "https://example.com/jobs"}


async def settled(gateway: Gateway, outcome: str = "failed", status: str = "failed", **fields: Any) -> str:
    """The id of a delivery to a job's URL that ended so, a second after the one before."""
    await gateway.end_job(status, **{"webhook": HOOK, **fields})
    (name,) = await gateway.sender.send(outcome)
    return name


async def redeliver(gateway: Gateway, **body: Any) -> dict[str, Any]:
    """The answer to a call that has to be taken. Where it is the first, what came before is a second old."""
    if "cursor" not in body:
        gateway.pass_time(1)
    answer = await gateway.post("/deliveries/redeliver", body)
    assert answer.status_code == (200 if body.get("dry_run") else 202), answer.text
    return dict(answer.json())


async def all_pages(gateway: Gateway, **body: Any) -> list[dict[str, Any]]:
    """The answers to all calls of a loop."""
    pages = [await redeliver(gateway, **body)]
    while pages[-1]["next_cursor"] is not None:
        assert len(pages) < 50, "no end"
        pages.append(await redeliver(gateway, **body, cursor=pages[-1]["next_cursor"]))
    return pages


def ids(*pages: dict[str, Any]) -> list[str]:
    return [item["id"] for page in pages for item in page["items"]]


def errors(page: dict[str, Any]) -> list[str | None]:
    return [item.get("error", {}).get("code") for item in page["items"]]


async def statuses(gateway: Gateway, *names: str) -> list[str]:
    return [(await gateway.get(f"/deliveries/{name}")).json()["status"] for name in names]


async def test_all_that_failed_or_was_held_is_sent_again_and_nothing_else(gateway: Gateway) -> None:
    endpoint = (await gateway.register(events=["job.succeeded"]))["id"]
    failed = await settled(gateway)
    delivered, waiting = await settled(gateway, "delivered"), await settled(gateway, "retry")
    await gateway.post(f"/webhooks/{endpoint}/disable")
    held = f"{await gateway.end_job()}_1_succeeded_{endpoint}"
    assert await gateway.sender.send() == []
    await gateway.post(f"/webhooks/{endpoint}/enable")
    before = (await gateway.get(f"/deliveries/{failed}")).json()
    answer = await redeliver(gateway)
    assert answer["items"][0] == {
        "id": failed, "type": "job.failed", "status": "pending", "changed_at": before["changed_at"], "endpoint": None,
        "url": HOOK["url"],
    }  # fmt: skip
    assert answer["items"][1]["endpoint"] == endpoint
    assert (answer["matched"], answer["redelivered"], ids(answer)) == (2, 2, [failed, held])
    assert answer["next_cursor"] is None
    assert await statuses(gateway, failed, held, delivered, waiting) == ["pending", "pending", "delivered", "pending"]
    assert sorted(await gateway.sender.send()) == sorted([failed, held])
    assert await redeliver(gateway) == {"matched": 0, "redelivered": 0, "items": [], "next_cursor": None}


async def test_all_that_is_given_has_to_match(gateway: Gateway) -> None:
    endpoint = (await gateway.register(events=["job.cancelled"]))["id"]
    a, b = await settled(gateway), await settled(gateway, "delivered")
    c = await settled(gateway, status="cancelled", webhook=None)
    d = await settled(gateway, "retry", status="interrupted")
    at = {name: (await gateway.get(f"/deliveries/{name}")).json()["changed_at"] for name in (a, b, c, d)}
    found: list[tuple[dict[str, Any], list[str]]] = [
        ({}, [a, c]),
        ({"status": ["delivered"]}, [b]),
        ({"status": ["pending", "delivered", "failed", "held"]}, [a, b, c, d]),
        ({"status": ["held"]}, []),
        ({"endpoint": endpoint}, [c]),
        ({"endpoint": "0" * 32}, []),
        ({"type": ["job.cancelled", "webhook.ping"]}, [c]),
        ({"type": ["job.failed"]}, [a]),
        ({"since": at[c]}, [c]),
        ({"until": at[c]}, [a]),
        ({"since": at[a], "until": at[c], "status": ["failed", "delivered"]}, [a, b]),
        ({"endpoint": endpoint, "since": at[c], "status": ["failed"]}, [c]),
        ({"endpoint": endpoint, "until": at[c]}, []),
    ]
    for body, expected in found:
        assert ids(await redeliver(gateway, **body, dry_run=True)) == expected, body
    for body, expected in found[10:]:
        assert ids(await redeliver(gateway, **body)) == expected, body
    assert await statuses(gateway, a, b, c, d) == ["pending"] * 4


async def test_a_dry_run_says_what_matches_and_changes_nothing(
    gateway: Gateway, fake_server: fakeredis.FakeServer
) -> None:
    failed = [await settled(gateway) for _ in range(3)]
    with fakeredis.FakeRedis(server=fake_server) as client:
        before = str(values_in_memory(client))
        gateway.pass_time(1)
        answer = await gateway.post("/deliveries/redeliver", {"dry_run": True, "limit": 2})
        assert answer.status_code == 200
        assert str(values_in_memory(client)) == before
    page = answer.json()
    assert (page["matched"], page["redelivered"], ids(page)) == (2, 0, failed[:2])
    assert page["next_cursor"]
    assert {item["status"] for item in page["items"]} == {"failed"}


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 1000])
async def test_a_loop_takes_each_delivery_once_and_the_oldest_change_first(gateway: Gateway, limit: int) -> None:
    endpoints = [(await gateway.register())["id"] for _ in range(2)]
    failed: list[str] = []
    for _ in range(3):
        job_id = await gateway.end_job()
        assert len(await gateway.sender.send("failed")) == 2
        failed += sorted(f"{job_id}_1_succeeded_{endpoint}" for endpoint in endpoints)
    dry = await all_pages(gateway, limit=limit, dry_run=True)
    pages = await all_pages(gateway, limit=limit)
    assert sorted(ids(*pages)) == sorted(failed)
    assert ids(*dry) == ids(*pages)
    changed = [item["changed_at"] for page in pages for item in page["items"]]
    assert changed == sorted(changed)
    assert max(page["matched"] for page in pages) <= limit
    assert sum(page["redelivered"] for page in pages) == 6


async def test_what_fails_again_at_once_does_not_come_twice(gateway: Gateway) -> None:
    failed = [await settled(gateway) for _ in range(5)]
    pages = [await redeliver(gateway, limit=2)]
    while pages[-1]["next_cursor"]:
        assert len(pages) < 50, "no end"
        gateway.pass_time(1)
        assert len(await gateway.sender.send("failed")) == len(pages[-1]["items"])
        gateway.pass_time(1)
        pages.append(await redeliver(gateway, limit=2, cursor=pages[-1]["next_cursor"]))
    assert ids(*pages) == failed
    await gateway.sender.send("failed")
    assert sorted(ids(await redeliver(gateway))) == sorted(failed), "a new loop takes them again"


@pytest.mark.parametrize("limit", [1, 3])
async def test_a_loop_over_what_waits_comes_to_an_end(gateway: Gateway, limit: int) -> None:
    waiting = [await settled(gateway, "retry") for _ in range(4)]
    assert await gateway.sender.claim() == []
    pages = await all_pages(gateway, status=["pending"], limit=limit)
    assert ids(*pages) == waiting
    assert sorted(await gateway.sender.send()) == sorted(waiting), "they are sent now"


async def test_a_call_whose_answer_was_lost_can_be_repeated(gateway: Gateway) -> None:
    failed = [await settled(gateway) for _ in range(5)]
    first = await redeliver(gateway, limit=2)
    second = await redeliver(gateway, limit=2, cursor=first["next_cursor"])
    again = await redeliver(gateway, limit=2, cursor=first["next_cursor"])
    assert (ids(first), ids(second), ids(again)) == (failed[:2], failed[2:4], failed[4:])
    assert sorted(await gateway.sender.send()) == sorted(failed)


async def test_a_loop_ends_with_all_that_match_however_rare_they_are(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paging, "MAX_EXAMINED", 4)
    monkeypatch.setattr(paging, "STRIDE", 2)
    names = [await settled(gateway, status="failed" if n in (0, 9, 10) else "succeeded") for n in range(12)]
    pages = await all_pages(gateway, type=["job.failed"], limit=2)
    assert ids(*pages) == [names[0], names[9], names[10]]
    assert [] in [page["items"] for page in pages]


async def test_what_cannot_be_sent_says_so_for_itself(gateway: Gateway) -> None:
    endpoint = (await gateway.register(events=["job.cancelled"]))["id"]
    held = await settled(gateway, status="cancelled", webhook=None)
    await gateway.post(f"/webhooks/{endpoint}/disable")
    free = await settled(gateway)
    await gateway.end_job(webhook=HOOK)
    (sending,) = await gateway.sender.claim()
    answer = await redeliver(gateway, status=["failed", "pending"])
    assert (answer["matched"], answer["redelivered"], ids(answer)) == (3, 1, [held, free, sending.id])
    assert errors(answer) == ["webhook_disabled", None, "delivery_in_progress"]
    assert [item["status"] for item in answer["items"]] == ["failed", "pending", "pending"]
    assert f"/webhooks/{endpoint}/enable" in answer["items"][0]["error"]["detail"]
    assert await statuses(gateway, held, free) == ["failed", "pending"]


async def test_what_is_gone_meanwhile_or_finds_no_room_is_told_of_alone(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(4):
        await settled(gateway)

    async def answers(*_: Any) -> Any:
        return ["queued", "missing", StoreFull("OOM"), ValueError("a bug")]

    monkeypatch.setattr(DeliveryLog, "redeliver_many", answers)
    answer = await redeliver(gateway)
    assert answer["redelivered"] == 1
    assert errors(answer) == [None, "delivery_not_found", "store_full", "internal_error"]
    assert [item["status"] for item in answer["items"]] == ["pending", None, "failed", "failed"]
    assert "a bug" not in str(answer)


async def test_the_deliveries_of_a_call_are_sent_again_in_one_round_trip(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = [await settled(gateway) for _ in range(5)]
    calls: list[int] = []
    redeliver_many = DeliveryLog.redeliver_many

    async def counted(self: DeliveryLog, tenant: str, names: Any) -> Any:
        calls.append(len(names))
        return await redeliver_many(self, tenant, names)

    monkeypatch.setattr(DeliveryLog, "redeliver_many", counted)
    assert ids(await redeliver(gateway, limit=1000)) == failed
    assert calls == [5]


async def test_the_deliveries_of_other_tenants_are_left_alone(gateway: Gateway) -> None:
    name = await others_delivery(gateway)
    assert await gateway.sender.send("failed") == [name]
    before = orjson.dumps(await gateway.deliveries.get("other", name))
    assert ids(await redeliver(gateway, status=["pending", "failed", "held", "delivered"])) == []
    assert orjson.dumps(await gateway.deliveries.get("other", name)) == before


async def test_one_delivery_is_sent_again_whatever_its_status(gateway: Gateway) -> None:
    for outcome in ("failed", "delivered", "retry"):
        name = await settled(gateway, outcome)
        answer = await gateway.post(f"/deliveries/{name}/redeliver")
        assert (answer.status_code, answer.json()["id"], answer.json()["status"]) == (202, name, "pending")
        (claimed,) = await gateway.sender.claim()
        assert claimed.id == name
        problem(await gateway.post(f"/deliveries/{name}/redeliver"), 409, "delivery_in_progress")
        await gateway.sender.settle(claimed)
        found = (await gateway.http.get(answer.json()["links"]["self"])).json()
        assert (found["status"], len(found["attempts"])) == ("delivered", 2)


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        (b"", ""), (None, ""), ([], ""), ({"statuses": ["failed"]}, "/statuses"), ({"url": "https://a.nl"}, "/url"),
        ({"status": []}, "/status"), ({"status": ["sent"]}, "/status/0"), ({"status": "failed"}, "/status"),
        ({"status": None}, "/status"), ({"type": []}, "/type"), ({"type": ["job.started"]}, "/type/0"),
        ({"endpoint": "x"}, "/endpoint"), ({"endpoint": "F" * 32}, "/endpoint"), ({"since": "now"}, "/since"),
        ({"since": "2026-01-01T00:00:00"}, "/since"), ({"until": "2026-01-01T00:00:00"}, "/until"),
        ({"limit": 0}, "/limit"), ({"limit": 1001}, "/limit"), ({"limit": None}, "/limit"),
        ({"cursor": "x" * 301}, "/cursor"), ({"dry_run": "perhaps"}, "/dry_run"), ({"dry_run": None}, "/dry_run"),
    ],
)  # fmt: skip
async def test_a_wrong_filter_is_refused_and_sends_nothing(gateway: Gateway, body: Any, pointer: str) -> None:
    name = await settled(gateway)
    gateway.pass_time(1)
    answer = await gateway.post("/deliveries/redeliver", body)
    assert [found["pointer"] for found in problem(answer, 422, "validation_error")["errors"]] == [pointer]
    assert await statuses(gateway, name) == ["failed"]


@pytest.mark.parametrize("cursor", ["x", ".", "1.", "1.x", ".MTph", "1.MTph.", "9" * 16 + ".MTph", "é.MTph"])
async def test_a_cursor_that_no_call_gave_is_refused(gateway: Gateway, cursor: str) -> None:
    name = await settled(gateway)
    problem(await gateway.post("/deliveries/redeliver", {"cursor": cursor}), 422, "invalid_cursor")
    assert await statuses(gateway, name) == ["failed"]
