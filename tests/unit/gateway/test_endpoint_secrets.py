"""The secrets of endpoints: shown once, sealed at rest, and two of them valid for a day after a rotation."""

from __future__ import annotations

import base64
from typing import Any

import fakeredis
import httpx
import pytest
import structlog

from shared.signing import unseal
from tests.fakes import values_in_memory
from tests.unit.gateway.conftest import SECRET_KEY, Gateway, problem

OWN = "whsec_YW4gZXhhbXBsZSBvbmx5LCBuZXZlciBhIHNlY3JldCE="
OWN_2 = "whsec_" + base64.b64encode(b"2" * 64).decode()
DAY = 24 * 3600
WRONG = ["", "whsec_", "secret", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS", "whsec_c2hvcnQ=", OWN_2[:-8] + "AAAAAAAA"]


async def rotate(gateway: Gateway, endpoint_id: str, body: Any = None) -> dict[str, Any]:
    answer = await gateway.post(f"/webhooks/{endpoint_id}/rotate", body)
    assert answer.status_code == 200, answer.text
    assert answer.headers["cache-control"] == "no-store"
    return dict(answer.json())


async def signing(gateway: Gateway) -> list[str]:
    """The secrets that sign the next message, which is then delivered."""
    await gateway.end_job()
    (claimed,) = await gateway.sender.claim()
    await gateway.sender.settle(claimed)
    return [unseal(SECRET_KEY, token) for token in claimed.secrets]


async def test_a_secret_is_made_for_who_brings_none_and_each_is_another(gateway: Gateway) -> None:
    secrets = [(await gateway.register())["secret"], (await gateway.register(secret=None))["secret"]]
    endpoint_id = (await gateway.register(secret=OWN))["id"]
    secrets += [(await rotate(gateway, endpoint_id, body))["secret"] for body in (b"", None, {}, {"secret": None})]
    for secret in secrets:
        assert len(base64.b64decode(secret.removeprefix("whsec_"), validate=True)) == 32
    assert len(set(secrets)) == len(secrets)


async def test_a_secret_of_the_client_s_own_is_taken_as_it_is(gateway: Gateway) -> None:
    made = await gateway.register(secret=OWN)
    assert made["secret"] == OWN
    assert await signing(gateway) == [OWN]
    assert (await rotate(gateway, made["id"], {"secret": OWN_2}))["secret"] == OWN_2


@pytest.mark.parametrize("secret", WRONG)
async def test_a_secret_that_receivers_could_not_use_is_refused_and_not_repeated(gateway: Gateway, secret: str) -> None:
    made = await gateway.register(secret=OWN)
    for answer in (
        await gateway.post("/webhooks", {"url": "https://example.com/", "secret": secret}),
        await gateway.post(f"/webhooks/{made['id']}/rotate", {"secret": secret}),
    ):
        (found,) = problem(answer, 422, "validation_error")["errors"]
        assert found["pointer"] == "/secret"
        assert secret in ("", "secret", "whsec_") or secret not in answer.text
    assert await signing(gateway) == [OWN]


async def test_no_answer_but_that_of_create_and_rotate_shows_a_secret_nor_does_the_log(gateway: Gateway) -> None:
    with structlog.testing.capture_logs() as logs:
        made = await gateway.register(secret=OWN)
        generated = (await rotate(gateway, made["id"]))["secret"]
        here = f"/api/v1/webhooks/{made['id']}"
        job_id = await gateway.end_job(webhook={"url": "https://example.com/", "secret": OWN_2})
        sent = await gateway.sender.send("failed")
        calls: list[tuple[str, str, Any]] = [
            ("GET", here, None), ("GET", "/api/v1/webhooks", None), ("PATCH", here, {"description": "x"}),
            ("PATCH", here, {"secret": OWN}), ("PATCH", here, {}), ("POST", f"{here}/ping", None),
            ("POST", f"{here}/disable", None), ("POST", f"{here}/enable", None), ("GET", f"{here}/deliveries", None),
            ("GET", "/api/v1/deliveries", None), ("GET", f"/api/v1/deliveries/{sent[0]}", None),
            ("GET", f"/api/v1/jobs/{job_id}", None), ("GET", f"/api/v1/jobs/{job_id}/deliveries", None),
            ("POST", "/api/v1/deliveries/redeliver", {}), ("GET", "/api/v1/webhooks/addresses", None),
            ("GET", "/api/v1/jobs", None), ("GET", "/metrics", None), ("DELETE", here, None),
        ]  # fmt: skip
        answers: list[httpx.Response] = [
            await gateway.http.request(method, path, json=body) for method, path, body in calls
        ]
    for text in [answer.text for answer in answers] + [str(logs)]:
        for secret in (OWN, OWN_2, generated):
            assert secret.removeprefix("whsec_") not in text
        assert '"secret"' not in text
    assert {answer.status_code for answer in answers} == {200, 202, 204, 422}


async def test_secrets_are_sealed_at_rest(gateway: Gateway, fake_server: fakeredis.FakeServer) -> None:
    made = await gateway.register(secret=OWN)
    generated = (await rotate(gateway, made["id"]))["secret"]
    other = (await gateway.register())["secret"]
    await gateway.end_job()
    with fakeredis.FakeRedis(server=fake_server) as client:
        stored = str(values_in_memory(client))
    assert made["id"] in stored
    assert "whsec_" not in stored
    for secret in (OWN, generated, other):
        assert secret.removeprefix("whsec_") not in stored


async def test_after_a_rotation_both_secrets_sign_for_a_day(gateway: Gateway) -> None:
    made = await gateway.register()
    assert (made["old_secret_until"], await signing(gateway)) == (None, [made["secret"]])
    rotated = await rotate(gateway, made["id"])
    assert rotated["old_secret_until"] > rotated["secret_changed_at"] > made["secret_changed_at"]
    assert await signing(gateway) == [rotated["secret"], made["secret"]]
    gateway.pass_time(DAY - 60)
    assert await signing(gateway) == [rotated["secret"], made["secret"]]
    gateway.pass_time(60)
    assert await signing(gateway) == [rotated["secret"]]
    found = (await gateway.get(f"/webhooks/{made['id']}")).json()
    assert {**found, "secret": rotated["secret"]} == {**rotated, "old_secret_until": None}


async def test_of_more_rotations_within_a_day_the_last_two_secrets_are_valid(gateway: Gateway) -> None:
    made = await gateway.register()
    secrets = [made["secret"]] + [(await rotate(gateway, made["id"]))["secret"] for _ in range(3)]
    assert await signing(gateway) == secrets[:1:-1]


async def test_a_change_of_anything_else_leaves_the_secrets_as_they_are(gateway: Gateway) -> None:
    made = await gateway.register()
    rotated = await rotate(gateway, made["id"])
    changed = await gateway.http.patch(f"/api/v1/webhooks/{made['id']}", json={"url": "https://example.com/2"})
    assert changed.json()["old_secret_until"] == rotated["old_secret_until"]
    assert await signing(gateway) == [rotated["secret"], made["secret"]]
