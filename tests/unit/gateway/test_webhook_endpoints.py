"""The endpoints that a tenant registers: kept, changed, tried, switched off and on, and nobody else's."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from shared.store.endpoints import MAX_ENDPOINTS
from tests.unit.gateway.conftest import Gateway, MakeGateway, problem

OTHERS = "f" * 32
FIVE_DAYS = 5 * 24 * 3600
ALARMS = {"url": "https://example.com/alarms", "events": ["job.failed"], "description": "On call"}


async def others_endpoint(gateway: Gateway) -> None:
    """Another tenant has an endpoint `OTHERS`."""
    secret = "sealed"
    made = gateway.endpoints.create(
        "other", OTHERS, url="https://other.example/", events=None, description=None, secret=secret
    )
    assert await made == "saved"


async def endpoints(gateway: Gateway) -> list[dict[str, Any]]:
    answer = (await gateway.get("/webhooks")).json()
    assert answer["next_cursor"] is None
    return list(answer["items"])


async def statuses(gateway: Gateway, endpoint_id: str) -> list[tuple[str, str]]:
    """Type and status of an endpoint's deliveries, the last change first."""
    items = (await gateway.get(f"/webhooks/{endpoint_id}/deliveries")).json()["items"]
    return [(item["type"], item["status"]) for item in items]


async def test_an_endpoint_is_registered_listed_read_and_deleted(gateway: Gateway) -> None:
    answer = await gateway.post("/webhooks", ALARMS)
    assert answer.status_code == 201
    made = answer.json()
    assert answer.headers["location"] == f"/api/v1/webhooks/{made['id']}"
    assert answer.headers["cache-control"] == "no-store"
    secret = made.pop("secret")
    assert secret.startswith("whsec_")
    assert made == ALARMS | {
        "id": made["id"], "created_at": made["created_at"], "secret_changed_at": made["created_at"],
        "old_secret_until": None, "failing_since": None, "disabled": None,
    }  # fmt: skip
    gateway.pass_time(1)
    second = await gateway.register()
    assert (second["url"], second["events"], second["description"]) == ("https://example.com/h", None, None)
    assert (await gateway.http.get(answer.headers["location"])).json() == made
    assert [endpoint["id"] for endpoint in await endpoints(gateway)] == [made["id"], second["id"]]
    deleted = await gateway.http.delete(answer.headers["location"])
    assert (deleted.status_code, deleted.content) == (204, b"")
    assert [endpoint["id"] for endpoint in await endpoints(gateway)] == [second["id"]]
    problem(await gateway.http.delete(answer.headers["location"]), 404, "endpoint_not_found")


async def test_each_endpoint_gets_the_messages_that_its_events_name(gateway: Gateway) -> None:
    everything, alarms = await gateway.register(), await gateway.register(**ALARMS)
    ended = [await gateway.end_job(status) for status in ("succeeded", "failed", "cancelled", "interrupted")]
    types = ["job.interrupted", "job.cancelled", "job.failed", "job.succeeded"]
    assert [type for type, _ in await statuses(gateway, everything["id"])] == types
    assert await statuses(gateway, alarms["id"]) == [("job.failed", "pending")]
    items = (await gateway.get(f"/jobs/{ended[1]}/deliveries")).json()["items"]
    ids = {f"{ended[1]}_1_failed_{endpoint['id']}" for endpoint in (everything, alarms)}
    assert {item["id"] for item in items} == ids
    assert {item["endpoint"] for item in items} == {everything["id"], alarms["id"]}
    assert {item["job_id"] for item in items} == {ended[1]}


async def test_only_what_is_given_changes(gateway: Gateway) -> None:
    made = await gateway.register(**ALARMS)
    here = f"/api/v1/webhooks/{made['id']}"
    del made["secret"]
    changes: list[dict[str, Any]] = [
        {"url": "https://example.com/2"}, {"events": ["job.succeeded", "job.failed"]}, {"description": "Nobody"}, {},
        {"events": None}, {"description": None}, {"url": "https://example.com/3", "events": ["job.cancelled"]},
    ]  # fmt: skip
    for change in changes:
        answer = await gateway.http.patch(here, json=change)
        made |= change
        assert (answer.status_code, answer.json()) == (200, made), change
        assert (await gateway.http.get(here)).json() == made


async def test_new_events_hold_from_now_on_and_what_waits_goes_to_the_new_url(gateway: Gateway) -> None:
    made = await gateway.register(events=["job.succeeded"])
    await gateway.end_job("failed")
    await gateway.end_job("succeeded")
    change = {"url": "https://moved.example/", "events": ["job.failed"]}
    assert (await gateway.http.patch(f"/api/v1/webhooks/{made['id']}", json=change)).status_code == 200
    await gateway.end_job("succeeded")
    await gateway.end_job("failed")
    claimed = [delivery for _ in range(2) for delivery in await gateway.sender.claim()]
    assert {(delivery.type, delivery.url) for delivery in claimed} == {
        ("job.succeeded", "https://moved.example/"), ("job.failed", "https://moved.example/"),
    }  # fmt: skip


async def test_what_waits_for_a_deleted_endpoint_fails_and_stays_in_the_log(gateway: Gateway) -> None:
    made = await gateway.register()
    job_id = await gateway.end_job()
    await gateway.http.delete(f"/api/v1/webhooks/{made['id']}")
    assert await gateway.sender.claim() == []
    problem(await gateway.get(f"/webhooks/{made['id']}/deliveries"), 404, "endpoint_not_found")
    (kept,) = (await gateway.get("/deliveries", endpoint=made["id"])).json()["items"]
    assert (kept["status"], kept["detail"], kept["job_id"]) == ("failed", "its endpoint was deleted", job_id)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/", "https://127.0.0.1/", "https://[::ffff:127.0.0.1]/", "https://0x7f.1/", "https://10.0.0.1/",
        "https://2130706433/", "https://user@example.com/", "https://localhost/", "ftp://example.com/", "",
        "https://exämple.com/",
    ],
)  # fmt: skip
async def test_a_url_that_no_webhook_may_go_to_is_refused_at_create_and_at_change(gateway: Gateway, url: str) -> None:
    made = await gateway.register()
    for answer in (
        await gateway.post("/webhooks", {"url": url}),
        await gateway.http.patch(f"/api/v1/webhooks/{made['id']}", json={"url": url}),
    ):
        (found,) = problem(answer, 422, "webhook_refused")["errors"]
        assert found["pointer"] == "/url"
    assert [endpoint["url"] for endpoint in await endpoints(gateway)] == ["https://example.com/h"]


async def test_networks_of_the_operator_s_own_are_open_to_endpoints_too(make_gateway: MakeGateway) -> None:
    async with make_gateway(webhook_allow_networks="127.0.0.0/8") as gateway:
        made = await gateway.register(url="http://127.0.0.1:8080/h")
        answer = await gateway.http.patch(f"/api/v1/webhooks/{made['id']}", json={"url": "http://127.0.0.2/h"})
        assert (answer.status_code, answer.json()["url"]) == (200, "http://127.0.0.2/h")


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        (b"", ""), ([], ""), ({}, "/url"), ({"url": None}, "/url"), ({"url": 7}, "/url"), ({"url": "x" * 2049}, "/url"),
        ({"events": []}, "/events"), ({"events": ["job.started"]}, "/events/0"), ({"events": "job.failed"}, "/events"),
        ({"events": ["job.failed"] * 5}, "/events"), ({"events": ["webhook.ping"]}, "/events/0"),
        ({"description": "x" * 501}, "/description"), ({"active": True}, "/active"), ({"id": "x"}, "/id"),
    ],
)  # fmt: skip
async def test_a_wrong_body_is_refused_and_changes_nothing(gateway: Gateway, body: Any, pointer: str) -> None:
    made = await gateway.register()
    complete = {"url": "https://example.com/2"} | body if isinstance(body, dict) and body else body
    answer = await gateway.post("/webhooks", complete)
    assert [found["pointer"] for found in problem(answer, 422, "validation_error")["errors"]] == [pointer]
    if body != {}:
        content = body if isinstance(body, bytes) else orjson.dumps(body)
        answer = await gateway.http.patch(
            f"/api/v1/webhooks/{made['id']}", content=content, headers={"content-type": "application/json"}
        )
        assert [found["pointer"] for found in problem(answer, 422, "validation_error")["errors"]] == [pointer]
    del made["secret"]
    assert await endpoints(gateway) == [made]


async def test_a_tenant_has_fifty_endpoints_at_most(gateway: Gateway) -> None:
    await others_endpoint(gateway)
    made = [await gateway.register() for _ in range(MAX_ENDPOINTS)]
    refused = problem(await gateway.post("/webhooks", {"url": "https://example.com/"}), 409, "too_many_endpoints")
    assert "50" in refused["detail"]
    assert len(await endpoints(gateway)) == MAX_ENDPOINTS == 50
    await gateway.http.delete(f"/api/v1/webhooks/{made[7]['id']}")
    await gateway.register()


async def test_a_ping_is_a_delivery_whatever_the_events_and_also_while_disabled(gateway: Gateway) -> None:
    made = await gateway.register(**ALARMS)
    await gateway.post(f"/webhooks/{made['id']}/disable")
    answer = await gateway.post(f"/webhooks/{made['id']}/ping")
    assert (answer.status_code, answer.json()["status"]) == (202, "pending")
    (claimed,) = await gateway.sender.claim()
    assert (claimed.id, claimed.type, claimed.url) == (answer.json()["id"], "webhook.ping", ALARMS["url"])
    body = orjson.loads(claimed.body or b"")
    assert (body["type"], body["sequence"], body["data"]) == ("webhook.ping", 0, {"endpoint": made["id"]})
    await gateway.sender.settle(claimed)
    found = (await gateway.http.get(answer.json()["links"]["self"])).json()
    assert (found["type"], found["status"], found["job_id"]) == ("webhook.ping", "delivered", None)
    assert await statuses(gateway, made["id"]) == [("webhook.ping", "delivered")]


async def test_what_comes_while_an_endpoint_is_disabled_is_held_and_can_be_sent(gateway: Gateway) -> None:
    made = await gateway.register()
    here = f"/webhooks/{made['id']}"
    off = await gateway.post(f"{here}/disable")
    assert (off.status_code, off.json()["disabled"]["why"]) == (200, "by_request")
    assert "mas_webhook_disabled_addresses 1.0" in (await gateway.http.get("/metrics")).text
    await gateway.end_job()
    assert await gateway.sender.send() == []
    assert await statuses(gateway, made["id"]) == [("job.succeeded", "held")]
    (held,) = (await gateway.get("/deliveries", status="held")).json()["items"]
    refused = problem(await gateway.post(f"/deliveries/{held['id']}/redeliver"), 409, "webhook_disabled")
    assert f"POST /api/v1{here}/enable" in refused["detail"]
    on = await gateway.post(f"{here}/enable")
    assert (on.status_code, on.json()["disabled"]) == (200, None)
    assert "mas_webhook_disabled_addresses 0.0" in (await gateway.http.get("/metrics")).text
    assert await gateway.sender.send() == [], "it waits to be asked for"
    assert (await gateway.post(f"/deliveries/{held['id']}/redeliver")).status_code == 202
    assert await gateway.sender.send() == [held["id"]]
    assert await statuses(gateway, made["id"]) == [("job.succeeded", "delivered")]


async def _fail_for_five_days(gateway: Gateway) -> None:
    for _ in range(6):
        await gateway.sender.send("retry")
        gateway.pass_time(FIVE_DAYS / 5 + 1)
    await gateway.sender.send("retry")


async def test_an_endpoint_that_fails_for_five_days_says_so(gateway: Gateway) -> None:
    made = await gateway.register()
    await gateway.end_job()
    await _fail_for_five_days(gateway)
    found = (await gateway.get(f"/webhooks/{made['id']}")).json()
    assert found["disabled"]["why"] == "failing"
    assert found["failing_since"] < found["disabled"]["at"]
    enabled = (await gateway.post(f"/webhooks/{made['id']}/enable")).json()
    assert (enabled["failing_since"], enabled["disabled"]) == (None, None)


async def test_a_url_of_jobs_that_fails_for_five_days_is_listed_and_can_be_enabled(gateway: Gateway) -> None:
    url = "https://example.com/hooks?of=jobs"
    assert (await gateway.get("/webhooks/addresses")).json() == {"items": [], "next_cursor": None}
    await gateway.end_job(webhook={"url": url})
    problem(await gateway.post("/webhooks/addresses/enable", {"url": url}), 404, "address_not_found")
    await _fail_for_five_days(gateway)
    (found,) = (await gateway.get("/webhooks/addresses")).json()["items"]
    assert (found["url"], found["disabled"]["why"]) == (url, "failing")
    assert found["failing_since"] < found["disabled"]["at"]
    assert await endpoints(gateway) == []
    job_id = await gateway.end_job(webhook={"url": url})
    assert await gateway.sender.send() == []
    refused = await gateway.post(f"/deliveries/{job_id}_1_succeeded/redeliver")
    assert "/webhooks/addresses/enable" in problem(refused, 409, "webhook_disabled")["detail"]
    problem(await gateway.post("/webhooks/addresses/enable", {"url": url + "x"}), 404, "address_not_found")
    assert (await gateway.post("/webhooks/addresses/enable", {"url": url})).status_code == 204
    assert (await gateway.get("/webhooks/addresses")).json()["items"] == []
    assert (await gateway.post(f"/deliveries/{job_id}_1_succeeded/redeliver")).status_code == 202
    problem(await gateway.post("/webhooks/addresses/enable", {"url": url}), 404, "address_not_found")


CALLS: list[tuple[str, str, Any]] = [
    ("GET", "", None), ("PATCH", "", {"url": "https://example.com/"}), ("PATCH", "", {}), ("DELETE", "", None),
    ("POST", "/rotate", {}), ("POST", "/ping", None), ("POST", "/enable", None), ("POST", "/disable", None),
    ("GET", "/deliveries", None),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "body"), CALLS)
async def test_another_tenant_s_endpoint_is_not_there(gateway: Gateway, method: str, path: str, body: Any) -> None:
    await others_endpoint(gateway)
    before = await gateway.endpoints.get("other", OTHERS)
    answer = await gateway.http.request(method, f"/api/v1/webhooks/{OTHERS}{path}", json=body)
    problem(answer, 404, "endpoint_not_found")
    assert await gateway.endpoints.get("other", OTHERS) == before
    assert await endpoints(gateway) == []
    assert (await gateway.deliveries.backlog()).waiting == 0


async def test_a_job_tells_only_its_own_tenant_s_endpoints(gateway: Gateway) -> None:
    await others_endpoint(gateway)
    mine = await gateway.register()
    job_id = await gateway.end_job()
    assert await gateway.sender.send() == [f"{job_id}_1_succeeded_{mine['id']}"]


@pytest.mark.parametrize("name", ["x", "0" * 31, "0" * 33, "F" * 32, f"{'0' * 31}%0A", "%00"])
async def test_what_cannot_be_an_endpoint_s_id_is_a_404_without_a_question_to_redis(
    make_gateway: MakeGateway, name: str
) -> None:
    class Silent:
        async def aclose(self) -> None: ...

    async with make_gateway(redis=Silent()) as gateway:
        for method, path, body in CALLS:
            answer = await gateway.http.request(method, f"/api/v1/webhooks/{name}{path}", json=body)
            problem(answer, 404, "endpoint_not_found")
