"""Certificates that do not fit, and names and addresses that mean another place: refused, and on record."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest
import trustme
from redis.asyncio import Redis

from shared.addresses import AddressRefused
from shared.settings import Settings
from shared.store.keys import key
from tests.deliveries import TENANT, Outbox, delivery_id, sending
from tests.receivers import Receiver, Reply
from worker.webhooks import WebhookSender

Serving = Callable[..., ssl.SSLContext]


@pytest.fixture
def trusting_sender(trusted: None, settings: Settings) -> Iterator[WebhookSender]:
    with sending(settings) as sender:
        yield sender


@pytest.fixture
def wary_sender(settings: Settings) -> Iterator[WebhookSender]:
    """One that may go to no private address at all."""
    with sending(settings.model_copy(update={"webhook_allow_networks": []})) as sender:
        yield sender


def unknown_authority(serving: Serving) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("hooks.test").configure_cert(context)
    return context


def wrong_name(serving: Serving) -> ssl.SSLContext:
    return serving("other.test", "127.0.0.1")


def expired(serving: Serving) -> ssl.SSLContext:
    yesterday = datetime.now(UTC) - timedelta(days=1)
    return serving("hooks.test", not_before=yesterday - timedelta(days=1), not_after=yesterday)


@pytest.mark.parametrize(
    ("certificate", "error"),
    [
        (unknown_authority, "the certificate was refused: unable to get local issuer certificate"),
        (wrong_name, "the certificate was refused: Hostname mismatch, certificate is not valid for 'hooks.test'."),
        (expired, "the certificate was refused: certificate has expired"),
    ],
)
async def test_a_wrong_certificate_is_refused_and_nothing_is_sent(
    certificate: Callable[[Serving], ssl.SSLContext], error: str, serving: Serving,
    trusting_sender: WebhookSender, outbox: Outbox, names: Callable[..., list[str]],
) -> None:  # fmt: skip
    names(["127.0.0.1"])
    with Receiver(tls=certificate(serving)) as receiver:
        await outbox.end_job("j1", f"https://hooks.test:{receiver.port}/hook")
        delivery = await outbox.after("j1", 1)
        assert receiver.connections == 1
        assert receiver.requests == []
    (attempt,) = delivery["attempts"]
    assert (attempt["status_code"], attempt["error"], attempt["body"]) == (None, error, None)
    assert delivery["status"] == "pending"


async def test_a_good_certificate_for_the_name_is_taken(
    serving: Serving, trusting_sender: WebhookSender, outbox: Outbox, names: Callable[..., list[str]]
) -> None:
    names(["127.0.0.1"])
    with Receiver(tls=serving("hooks.test")) as receiver:
        await outbox.end_job("j1", f"https://hooks.test:{receiver.port}/hook")
        assert (await outbox.after("j1", 1))["status"] == "delivered"


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_name_that_turns_private_at_the_second_look_up_is_refused_there(
    scheme: str, serving: Serving, trusting_sender: WebhookSender, outbox: Outbox, names: Callable[..., list[str]]
) -> None:
    """Here 127.0.0.0/8 stands for the internet, and ::1, where the same port answers, for the private network."""
    asked = names(["127.0.0.1"], ["::1"])
    tls = serving("rebinding.test") if scheme == "https" else None
    with (
        Receiver(tls=tls, default=Reply(500, {"Connection": "close"})) as public,
        Receiver(tls=tls, address="::1", port=public.port) as private,
    ):
        await outbox.end_job("j1", f"{scheme}://rebinding.test:{public.port}/hook")
        first = await outbox.after("j1", 1)
        assert asked == ["rebinding.test"], "a try looks a name up once, and connects to what was checked"
        await outbox.make_due("j1")
        second = await outbox.after("j1", 2)
        assert (public.connections, private.connections) == (1, 0)
    assert [attempt["status_code"] for attempt in second["attempts"]] == [500, None]
    assert second["attempts"][1]["error"].startswith("refused: rebinding.test is not a public address")
    assert first["status"] == second["status"] == "pending"


LOOPBACK_FORMS = ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]"]
ODD_FORMS = ["2130706433", "017700000001", "0x7f000001", "0177.0.0.1", "0x7f.0.0.1", "127.1", "me:word@127.0.0.1"]


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("host", LOOPBACK_FORMS)
async def test_loopback_is_refused_in_every_form_and_the_refusal_is_on_record(
    scheme: str, host: str, outbox: Outbox, wary_sender: WebhookSender
) -> None:
    with Receiver() as receiver, Receiver(address="::1", port=receiver.port) as receiver6:
        await outbox.end_job("j1", f"{scheme}://{host}:{receiver.port}/hook")
        delivery = await outbox.after("j1", 1)
        assert (receiver.connections, receiver6.connections) == (0, 0)
    assert delivery["attempts"][0]["status_code"] is None
    assert "is not a public address" in delivery["attempts"][0]["error"]
    assert delivery["status"] == "pending"


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("host", ODD_FORMS)
async def test_a_url_that_clients_read_differently_gets_into_no_job_and_is_not_sent_if_it_is_in_a_record(
    scheme: str, host: str, outbox: Outbox, redis: Redis, settings: Settings
) -> None:
    with Receiver() as receiver:
        url = f"{scheme}://{host}:{receiver.port}/hook"
        with pytest.raises(AddressRefused):
            await outbox.end_job("j1", url)
        await outbox.end_job("j1", receiver.url)
        await redis.hset(key("delivery", f"{TENANT}:{delivery_id('j1')}"), "url", url)  # type: ignore[misc]
        with sending(settings):  # to which loopback is allowed
            delivery = await outbox.after("j1", 1)
        assert receiver.connections == 0
    assert delivery["attempts"][0]["error"].startswith("refused: ")
    assert delivery["status"] == "pending"
