"""Endpoints on real processes, over HTTP and TLS: registered, told, tried, rotated, switched off and deleted."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from standardwebhooks import Webhook, WebhookVerificationError

from tests.acceptance.conftest import Service
from tests.receivers import Receiver, Reply
from tests.servers import wait_until

SCHEMES = ["http", "https"]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[trustme.CA, Path]:
    authority, file = trustme.CA(), tmp_path_factory.mktemp("authority") / "ca.pem"
    authority.cert_pem.write_to_path(str(file))
    return authority, file


@pytest.fixture(scope="module")
def service(shared_service: Service, authority: tuple[trustme.CA, Path]) -> Service:
    """A service whose worker trusts the tests' authority."""
    shared_service.start_workers(1, SSL_CERT_FILE=str(authority[1]))
    return shared_service


@pytest.fixture(params=SCHEMES)
def receiver(request: pytest.FixtureRequest, authority: tuple[trustme.CA, Path]) -> Iterator[Receiver]:
    context = None
    if request.param == "https":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority[0].issue_cert("127.0.0.1").configure_cert(context)
    with Receiver(tls=context) as receiver:
        yield receiver


@pytest.fixture
def register(service: Service) -> Iterator[Callable[..., dict[str, Any]]]:
    """Register endpoints that are deleted at the end."""
    ids: list[str] = []

    def create(url: str, **fields: Any) -> dict[str, Any]:
        answer = service.client.http.post("/webhooks", json={"url": url, **fields})
        assert answer.status_code == 201, answer.text
        ids.append(answer.json()["id"])
        return dict(answer.json())

    yield create
    for endpoint_id in ids:
        service.client.http.delete(f"/webhooks/{endpoint_id}")


def call(service: Service, method: str, path: str, **options: Any) -> dict[str, Any]:
    answer = service.client.http.request(method, path, **options)
    assert answer.status_code in (200, 202), answer.text
    return dict(answer.json())


def log(service: Service, endpoint: dict[str, Any], **filters: Any) -> list[dict[str, Any]]:
    return list(call(service, "GET", f"/webhooks/{endpoint['id']}/deliveries", params=filters)["items"])


def verifies(secret: str, request: Any) -> bool:
    try:
        Webhook(secret).verify(request.body, request.headers)
    except WebhookVerificationError:
        return False
    return True


def test_a_registered_endpoint_is_told_of_the_ends_it_asked_for(
    service: Service, receiver: Receiver, register: Callable[..., dict[str, Any]]
) -> None:
    endpoint = register(receiver.url, events=["job.failed"])
    service.client.run("echo", {"value": 1})
    failed = service.client.run("faulty", {"message": "no"})
    (request,) = receiver.wait_for(1)
    message = Webhook(endpoint["secret"]).verify(request.body, request.headers)
    assert (message["type"], message["data"]["id"], message["sequence"]) == ("job.failed", failed["id"], 1)
    assert request.headers["webhook-id"] == f"{failed['id']}_1_failed_{endpoint['id']}"
    wait_until(lambda: log(service, endpoint, status="delivered"))
    assert [one["job_id"] for one in log(service, endpoint)] == [failed["id"]]


def test_a_rotated_secret_and_the_one_before_it_both_verify(
    service: Service, receiver: Receiver, register: Callable[..., dict[str, Any]]
) -> None:
    endpoint = register(receiver.url)
    new = call(service, "POST", f"/webhooks/{endpoint['id']}/rotate")["secret"]
    service.client.run("echo", {"value": 1})
    (request,) = receiver.wait_for(1)
    assert [verifies(secret, request) for secret in (endpoint["secret"], new)] == [True, True]
    assert "secret" not in call(service, "GET", f"/webhooks/{endpoint['id']}")


def test_a_ping_tries_an_endpoint(
    service: Service, receiver: Receiver, register: Callable[..., dict[str, Any]]
) -> None:
    endpoint = register(receiver.url, events=["job.cancelled"])
    sent = call(service, "POST", f"/webhooks/{endpoint['id']}/ping")
    (request,) = receiver.wait_for(1)
    message = Webhook(endpoint["secret"]).verify(request.body, request.headers)
    assert (message["type"], message["data"]) == ("webhook.ping", {"endpoint": endpoint["id"]})
    wait_until(lambda: call(service, "GET", f"/deliveries/{sent['id']}")["status"] == "delivered")


def test_an_endpoint_that_is_gone_is_switched_off_and_what_came_meanwhile_is_sent_on_demand(
    service: Service, receiver: Receiver, register: Callable[..., dict[str, Any]]
) -> None:
    endpoint = register(receiver.url)
    receiver.reply(Reply(410))
    service.client.run("echo", {"value": 1})
    path = f"/webhooks/{endpoint['id']}"
    wait_until(lambda: call(service, "GET", path)["disabled"])
    assert call(service, "GET", path)["disabled"]["why"] == "gone"
    service.client.run("echo", {"value": 2})
    wait_until(lambda: log(service, endpoint, status="held"))
    assert len(receiver.requests) == 1
    again = {"endpoint": endpoint["id"]}
    assert call(service, "POST", "/deliveries/redeliver", json={**again, "dry_run": True})["matched"] == 2
    refused = call(service, "POST", "/deliveries/redeliver", json=again)
    assert (refused["redelivered"], {item["error"]["code"] for item in refused["items"]}) == (0, {"webhook_disabled"})
    assert call(service, "POST", f"{path}/enable")["disabled"] is None
    assert call(service, "POST", "/deliveries/redeliver", json=again)["redelivered"] == 2
    first, *both = receiver.wait_for(3)
    assert first.headers["webhook-id"] in {request.headers["webhook-id"] for request in both}
    wait_until(lambda: len(log(service, endpoint, status="delivered")) == 2)


def test_an_endpoint_that_is_switched_off_by_hand_or_deleted_is_told_nothing_more(
    service: Service, receiver: Receiver, register: Callable[..., dict[str, Any]]
) -> None:
    off, deleted = register(receiver.url), register(receiver.url)
    assert call(service, "POST", f"/webhooks/{off['id']}/disable")["disabled"]["why"] == "by_request"
    assert service.client.http.delete(f"/webhooks/{deleted['id']}").status_code == 204
    service.client.run("echo", {"value": 1})
    wait_until(lambda: log(service, off, status="held"))
    assert receiver.requests == []
    assert call(service, "GET", "/deliveries", params={"endpoint": deleted["id"]})["items"] == []
