"""Receivers that are broken or mean harm, over HTTP and TLS: each is handled, and each try is on record."""

from __future__ import annotations

import re
import resource
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any, Literal

import pytest

from shared.settings import Settings
from shared.store import EndpointStore
from tests.deliveries import TENANT, Outbox, seconds_until, sending
from tests.receivers import Receiver, Reply
from tests.servers import free_port

MEGABYTE = 1 << 20
TIMEOUT_SECONDS = 0.5
HOUR = 3600.0
SOON = (3.0, 5.6)  # the first wait of the schedule, less what a busy machine takes until we look


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"webhook_timeout_seconds": TIMEOUT_SECONDS})


@pytest.fixture(params=["http", "https"])
def receiver(request: pytest.FixtureRequest, serving: Callable[..., Any], trusted: None) -> Iterator[Receiver]:
    with Receiver(tls=serving("127.0.0.1") if request.param == "https" else None) as receiver:
        yield receiver


@dataclass(frozen=True)
class Hostile:
    """What a receiver does, and what is on record after it: the first attempt, and what follows."""

    reply: Reply
    status_code: int | None = None
    error: str | None = None  # a regular expression
    body: str | None = None
    follows: Literal["delivered", "pending", "failed"] = "pending"
    wait: tuple[float, float] = field(default=SOON)


def http_date_in(seconds: float) -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


NO_ANSWER = f"^no answer within {TIMEOUT_SECONDS} s$"
NO_END = f"^no end of the answer within {TIMEOUT_SECONDS} s$"
RECEIVERS = {
    "accepts and says nothing": Hostile(Reply(delay=30), error=NO_ANSWER),
    "sends its head byte by byte": Hostile(Reply(drip="head"), error=NO_ANSWER),
    "sends headers of a failure, then nothing": Hostile(Reply(500, stall=True), 500, NO_END, ""),
    "sends headers of a success, then nothing": Hostile(Reply(200, stall=True), 200, NO_END, "", "delivered"),
    "sends its body byte by byte": Hostile(Reply(500, drip="body"), 500, NO_END, "xx*"),
    "drops the connection": Hostile(Reply(drop=True), error="disconnected"),
    "answers 500": Hostile(Reply(500, body=b"oh no"), 500, body="oh no"),
    "answers 404": Hostile(Reply(404), 404, body=""),
    "answers 302": Hostile(Reply(302, {"Location": "/elsewhere"}), 302, "302: redirects are not followed$", ""),
    "answers 410": Hostile(Reply(410, body=b"bye"), 410, "410 Gone: it wants no more deliveries$", "bye", "failed"),
    "answers 429": Hostile(Reply(429), 429, body=""),
    "answers 503": Hostile(Reply(503), 503, body=""),
    "answers a failure of 1 GB": Hostile(Reply(500, size=1 << 30), 500, body="x{1024}"),
    "answers a success of 1 GB": Hostile(Reply(200, size=1 << 30), 200, body="x{1024}", follows="delivered"),
    "aborts the message": Hostile(
        Reply(400, {"webhook-delivery": "abort-message"}, b"no"), 400, "400 with abort-message", "no", "failed"
    ),
}  # fmt: skip


def assert_on_record(delivery: dict[str, Any], expected: Hostile) -> None:
    (attempt,) = delivery["attempts"]
    assert attempt["status_code"] == expected.status_code
    for found, pattern in ((attempt["error"], expected.error), (attempt["body"], expected.body)):
        assert (found is None) == (pattern is None), attempt
        assert pattern is None or re.search(pattern, found), attempt
    assert attempt["duration_ms"] < (TIMEOUT_SECONDS + 2) * 1000
    assert delivery["status"] == expected.follows
    if expected.follows == "pending":
        assert expected.wait[0] < seconds_until(delivery["next_attempt_at"]) < expected.wait[1]
    else:
        assert delivery["next_attempt_at"] is None


@pytest.mark.parametrize("what", RECEIVERS)
async def test_each_broken_receiver_is_on_record_and_delays_nobody(
    what: str, receiver: Receiver, outbox: Outbox, settings: Settings
) -> None:
    expected = RECEIVERS[what]
    receiver.reply(expected.reply)
    memory_before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with sending(settings), Receiver() as other:
        await outbox.end_jobs({"bad": receiver.url, "good": other.url})
        assert_on_record(await outbox.after("bad", 1), expected)
        assert (await outbox.after("good", 1))["status"] == "delivered"
    assert [request.path for request in receiver.requests] == ["/hook"]
    assert receiver.bytes_sent < 64 * MEGABYTE, "what the buffers of the sockets took, no more"
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory_before) * 1024 < 100 * MEGABYTE


@pytest.mark.parametrize("status", [302, 429, 503])
@pytest.mark.parametrize("as_date", [False, True])
async def test_retry_after_is_honoured(
    status: int, as_date: bool, receiver: Receiver, outbox: Outbox, settings: Settings
) -> None:
    receiver.reply(Reply(status, {"Retry-After": http_date_in(HOUR) if as_date else "3600"}))
    with sending(settings):
        await outbox.end_job("j1", receiver.url)
        delivery = await outbox.after("j1", 1)
    assert delivery["attempts"][0]["status_code"] == status
    assert delivery["status"] == "pending"
    assert HOUR - 60 < seconds_until(delivery["next_attempt_at"]) < 1.1 * HOUR + 1


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_receiver_that_is_down_is_on_record_and_tried_again(
    scheme: str, outbox: Outbox, settings: Settings, trusted: None
) -> None:
    with sending(settings):
        await outbox.end_job("j1", f"{scheme}://127.0.0.1:{free_port()}/hook")
        delivery = await outbox.after("j1", 1)
    assert_on_record(delivery, Hostile(Reply(), error="^the connection failed: Connection refused$"))


async def test_an_endpoint_that_is_gone_gets_nothing_more_and_its_deliveries_are_kept(
    receiver: Receiver, outbox: Outbox, settings: Settings
) -> None:
    receiver.reply(Reply(410))
    await outbox.add_endpoint("e1", receiver.url)
    with sending(settings):
        await outbox.end_jobs({"last": None})
        assert (await outbox.after("last", 1))["status"] == "failed"
        await outbox.end_jobs({"later": None})
        held = await outbox.resting("later")
    assert (held["status"], held["detail"], held["attempts"]) == ("held", "its address is disabled", [])
    assert len(receiver.requests) == 1


async def test_a_url_of_jobs_that_is_gone_for_one_job_is_there_for_the_next(
    receiver: Receiver, outbox: Outbox, settings: Settings
) -> None:
    receiver.reply(Reply(410))
    with sending(settings):
        await outbox.end_job("j1", receiver.url)
        assert (await outbox.after("j1", 1))["status"] == "failed"
        await outbox.end_job("j2", receiver.url)
        assert (await outbox.after("j2", 1))["status"] == "delivered"


async def test_a_message_that_was_aborted_leaves_its_endpoint_as_it_was(
    receiver: Receiver, outbox: Outbox, settings: Settings
) -> None:
    receiver.reply(Reply(500, {"webhook-delivery": "abort-message"}))
    await outbox.add_endpoint("e1", receiver.url)
    with sending(settings):
        await outbox.end_jobs({"aborted": None})
        assert (await outbox.after("aborted", 1))["status"] == "failed"
        endpoint = await EndpointStore(outbox.redis).get(TENANT, "e1")
        await outbox.end_jobs({"later": None})
        assert (await outbox.after("later", 1))["status"] == "delivered"
    assert endpoint is not None
    assert (endpoint["failing_since"], endpoint["disabled"]) == (None, None)


async def test_proxies_in_the_environment_see_no_connection(
    receiver: Receiver, outbox: Outbox, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Receiver() as proxy:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
            monkeypatch.setenv(name.lower(), f"http://127.0.0.1:{proxy.port}")
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        with sending(settings):
            await outbox.end_job("j1", receiver.url)
            assert (await outbox.after("j1", 1))["status"] == "delivered"
        assert proxy.connections == 0
    assert len(receiver.requests) == 1
