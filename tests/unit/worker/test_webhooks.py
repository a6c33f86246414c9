"""The sender: what it claims, sends and records, and what it survives."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import orjson
import pytest
import structlog
from standardwebhooks import Webhook

from shared.metrics import REGISTRY
from shared.signing import default_secret, seal
from shared.store import Recorded
from tests.fake_webhooks import FIRST, OWN_SECRET, SECRET_KEY, InMemoryDeliveries, Network
from tests.servers import wait_until
from worker import webhooks
from worker.delivery_answer import Answer
from worker.webhooks import WebhookSender


def attempts_counted(outcome: str) -> float:
    return REGISTRY.get_sample_value("mas_webhook_attempts_total", {"outcome": outcome}) or 0.0


def test_a_delivery_is_sent_signed_and_recorded(
    store: InMemoryDeliveries, network: Network, sender: WebhookSender
) -> None:
    before = attempts_counted("delivered")
    store.waiting.append(FIRST)
    sender.start()
    (finished,) = store.wait_finished(1)
    ((url, headers, body),) = network.posts
    assert url == FIRST.url
    assert headers["Content-Type"] == "application/json"
    assert headers["webhook-id"] == "j1_1_succeeded"
    message = Webhook(default_secret(SECRET_KEY, "acme")).verify(body, dict(headers))
    assert message["type"] == "job.succeeded"
    assert message["timestamp"] == "2026-01-31T12:00:00.000Z"
    assert message["data"]["id"] == "j1"
    assert message["data"]["output"] == {"answer": 42}
    assert "input" not in message["data"]
    assert (finished.outcome, finished.delay_seconds, finished.body) == ("delivered", 0, body)
    assert (finished.attempt.status_code, finished.attempt.error, finished.attempt.body) == (204, None, "")
    assert sender.stop(5)
    assert attempts_counted("delivered") == before + 1


def test_a_job_s_own_secret_signs_in_place_of_the_tenant_s(
    store: InMemoryDeliveries, network: Network, sender: WebhookSender
) -> None:
    store.waiting.append(replace(FIRST, secrets=(seal(SECRET_KEY, OWN_SECRET),)))
    sender.start()
    store.wait_finished(1)
    _, headers, body = network.posts[0]
    Webhook(OWN_SECRET).verify(body, dict(headers))


def test_a_later_try_sends_the_body_of_the_first(
    store: InMemoryDeliveries, network: Network, sender: WebhookSender
) -> None:
    store.waiting.append(replace(FIRST, attempt=2, step=1, body=b'{"as":"first sent"}', record={}, output=None))
    sender.start()
    store.wait_finished(1)
    assert network.posts[0][2] == b'{"as":"first sent"}'


def test_a_large_output_is_linked(store: InMemoryDeliveries, network: Network, sender: WebhookSender) -> None:
    store.waiting.append(replace(FIRST, output=None, output_too_large=True))
    sender.start()
    store.wait_finished(1)
    data = orjson.loads(network.posts[0][2])["data"]
    assert data["output"] is None
    assert data["links"]["output"] == "/api/v1/jobs/j1"


def test_a_failed_try_is_recorded_with_its_reason_and_comes_again(
    store: InMemoryDeliveries, network: Network, sender: WebhookSender
) -> None:
    before = attempts_counted("retry")
    network.answer = Answer(error="the connection failed: Connection refused")
    store.waiting.append(FIRST)
    sender.start()
    (finished,) = store.wait_finished(1)
    assert finished.outcome == "retry"
    assert 4.5 <= finished.delay_seconds <= 5.5
    assert finished.attempt.error == "the connection failed: Connection refused"
    assert (finished.attempt.status_code, finished.attempt.body) == (None, None)
    assert sender.stop(5)
    assert attempts_counted("retry") == before + 1


def test_a_secret_that_cannot_be_read_is_an_attempt_on_record_and_stops_nobody_else(
    store: InMemoryDeliveries, network: Network, sender: WebhookSender
) -> None:
    store.waiting += [replace(FIRST, id="bad_1_succeeded", secrets=(seal("l" * 32, OWN_SECRET),)), FIRST]
    sender.start()
    by_id = {finished.delivery.id: finished for finished in store.wait_finished(2)}
    assert by_id["bad_1_succeeded"].outcome == "retry"
    assert "another SECRET_KEY" in (by_id["bad_1_succeeded"].attempt.error or "")
    assert by_id[FIRST.id].outcome == "delivered"
    assert len(network.posts) == 1


def test_an_endpoint_with_a_new_secret_is_sent_to_though_its_old_one_cannot_be_read(
    store: InMemoryDeliveries, network: Network, sender: WebhookSender
) -> None:
    sealed = (seal(SECRET_KEY, OWN_SECRET), seal("l" * 32, OWN_SECRET))
    store.waiting.append(replace(FIRST, secrets=sealed))
    sender.start()
    (finished,) = store.wait_finished(1)
    assert finished.outcome == "delivered"
    (post,) = network.posts
    assert len(post[1]["webhook-signature"].split()) == 1
    Webhook(OWN_SECRET).verify(post[2], dict(post[1]))


def test_a_bug_while_sending_is_an_attempt_on_record(
    store: InMemoryDeliveries, network: Network, sender: WebhookSender
) -> None:
    network.answer = KeyError("a bug")
    store.waiting.append(FIRST)
    sender.start()
    (finished,) = store.wait_finished(1)
    assert finished.outcome == "retry"
    assert "KeyError" in (finished.attempt.error or "")


def test_a_bug_while_deciding_is_logged_and_stops_nobody_else(
    store: InMemoryDeliveries, network: Network, sender: WebhookSender, monkeypatch: pytest.MonkeyPatch
) -> None:
    decide = webhooks.decide

    def decide_with_a_bug(answer: Answer, step: int, **rest: Any) -> Any:
        if step == 7:
            raise KeyError("a bug")
        return decide(answer, step, **rest)

    monkeypatch.setattr(webhooks, "decide", decide_with_a_bug)
    store.waiting += [replace(FIRST, id="bad_1_succeeded", step=7), FIRST]
    with structlog.testing.capture_logs() as lines:
        sender.start()
        store.wait_finished(1)
        wait_until(lambda: "webhook_try_broke_off" in [line["event"] for line in lines])
    assert [finished.delivery.id for finished in store.finished] == [FIRST.id]


def test_no_more_are_claimed_than_can_be_sent_at_once(
    store: InMemoryDeliveries, network: Network, sender: WebhookSender
) -> None:
    network.hold.clear()
    store.waiting += [replace(FIRST, id=f"j{n}_1_succeeded") for n in range(20)]
    sender.start()
    wait_until(lambda: len(network.posts) == 4)
    assert len(store.waiting) == 16
    network.uneven = True
    network.hold.set()
    store.wait_finished(20)
    assert network.most == 4
    assert max(store.limits) == 4
    assert set(store.leases) == {10}


def test_an_outage_of_the_store_is_waited_out(
    store: InMemoryDeliveries, network: Network, sender: WebhookSender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "MAX_BACKOFF_SECONDS", 0.02)
    store.broken.update(claim=5, wait=2)
    store.waiting.append(FIRST)
    sender.start()
    (finished,) = store.wait_finished(1)
    assert finished.outcome == "delivered"
    assert sender.alive


def test_an_attempt_is_recorded_after_an_outage_and_not_sent_twice(
    store: InMemoryDeliveries, network: Network, sender: WebhookSender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "MAX_BACKOFF_SECONDS", 0.02)
    store.broken.update(finish=3)
    store.waiting.append(FIRST)
    sender.start()
    store.wait_finished(1)
    assert store.calls["finish"] == 4
    assert len(network.posts) == 1


def test_recording_goes_on_until_the_sender_stops(
    store: InMemoryDeliveries, network: Network, sender: WebhookSender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "MAX_BACKOFF_SECONDS", 0.02)
    store.broken.update(finish=10_000)
    store.waiting.append(FIRST)
    with structlog.testing.capture_logs() as lines:
        sender.start()
        wait_until(lambda: store.calls["finish"] > 5)
        assert sender.sending() == [(FIRST.ref, FIRST.attempt)]
        assert sender.stop(1)
    assert {line["event"] for line in lines} == {"webhook_attempt_not_recorded"}
    assert (store.finished, store.released) == ([], [FIRST])


def test_what_is_being_sent_can_be_told_for_as_long_as_it_is(
    store: InMemoryDeliveries, network: Network, sender: WebhookSender
) -> None:
    network.hold.clear()
    store.waiting += [FIRST, replace(FIRST, ref="acme:j2_1_succeeded", attempt=3)]
    assert sender.sending() == []
    sender.start()
    wait_until(lambda: len(network.posts) == 2)
    assert sender.sending() == [(FIRST.ref, 1), ("acme:j2_1_succeeded", 3)]
    network.hold.set()
    store.wait_finished(2)
    wait_until(lambda: sender.sending() == [])


def test_leases_of_others_are_put_back_only_when_that_is_allowed(
    store: InMemoryDeliveries, network: Network, sender: WebhookSender
) -> None:
    allowed = [False]
    sender.start(lambda: allowed[0])
    wait_until(lambda: store.recovers == [False])
    allowed[0] = True
    wait_until(lambda: True in store.recovers)


@pytest.mark.parametrize(
    ("answer", "host", "address"),
    [
        (Answer(204, body=""), "ok", "well"),
        (Answer(500, body=""), "ok", "ill"),
        (Answer(410, body=""), "ok", "gone"),
        (Answer(429, body=""), "busy", "ill"),
        (Answer(error="no answer within 15 s"), "silent", "ill"),
        (Answer(400, body="", abort=True), "ok", "none"),
    ],
)
def test_how_the_host_and_the_address_were_is_recorded(
    store: InMemoryDeliveries, network: Network, sender: WebhookSender, answer: Answer, host: str, address: str
) -> None:
    network.answer = answer
    store.waiting.append(FIRST)
    sender.start()
    (finished,) = store.wait_finished(1)
    assert (finished.host, finished.address) == (host, address)


def test_both_secrets_sign_while_one_takes_over_from_the_other(
    store: InMemoryDeliveries, network: Network, sender: WebhookSender
) -> None:
    new = "whsec_" + "B" * 32
    store.waiting.append(replace(FIRST, secrets=(seal(SECRET_KEY, new), seal(SECRET_KEY, OWN_SECRET))))
    sender.start()
    store.wait_finished(1)
    _, headers, body = network.posts[0]
    for secret in (new, OWN_SECRET):
        Webhook(secret).verify(body, dict(headers))
    assert headers["webhook-signature"].count("v1,") == 2


def test_an_address_that_is_disabled_is_a_warning_with_its_host_and_not_its_url(
    store: InMemoryDeliveries, network: Network, sender: WebhookSender
) -> None:
    store.recorded = Recorded(None, "failing")
    store.waiting.append(FIRST)
    with structlog.testing.capture_logs() as lines:
        sender.start()
        store.wait_finished(1)
        assert sender.stop(5)
    (line,) = [line for line in lines if line["event"] == "webhook_address_disabled"]
    assert (line["log_level"], line["why"], line["host"], line["tenant"]) == ("warning", "failing", FIRST.host, "acme")
    assert "hush" not in str(lines)


def test_the_delay_to_the_first_success_is_measured(
    store: InMemoryDeliveries, network: Network, sender: WebhookSender
) -> None:
    def measured() -> tuple[float, float]:
        name = "mas_webhook_delivery_seconds"
        count, total = (REGISTRY.get_sample_value(f"{name}_{part}") for part in ("count", "sum"))
        return count or 0.0, total or 0.0

    before = measured()
    store.waiting.append(FIRST)
    sender.start()
    store.wait_finished(1)
    assert sender.stop(5)
    assert measured() == (before[0] + 1, before[1] + 1.5)


def test_a_lost_lease_is_logged_and_not_counted(
    store: InMemoryDeliveries, network: Network, sender: WebhookSender
) -> None:
    before = attempts_counted("delivered")
    store.lost = True
    store.waiting.append(FIRST)
    with structlog.testing.capture_logs() as lines:
        sender.start()
        store.wait_finished(1)
        assert sender.stop(5)
    assert "webhook_lease_lost" in [line["event"] for line in lines]
    assert attempts_counted("delivered") == before


def test_the_log_names_delivery_job_and_worker_and_never_the_content(
    store: InMemoryDeliveries, network: Network
) -> None:
    network.answer = Answer(200, body="the receiver's words")
    store.waiting.append(replace(FIRST, secrets=(seal(SECRET_KEY, OWN_SECRET),)))
    with structlog.testing.capture_logs() as lines:
        sender = WebhookSender(store.open, worker_id="w1", secret_key=SECRET_KEY)
        sender.start()
        store.wait_finished(1)
        assert sender.stop(5)
    (line,) = lines
    assert line["event"] == "webhook_tried"
    assert (line["delivery"], line["job"], line["worker"], line["outcome"]) == (
        "j1_1_succeeded",
        "j1",
        "w1",
        "delivered",
    )
    for secret in (OWN_SECRET, default_secret(SECRET_KEY, "acme"), "hush", "42", "the receiver's words"):
        assert secret not in str(line)


def test_a_blocked_main_thread_delays_no_delivery(
    store: InMemoryDeliveries, network: Network, sender: WebhookSender
) -> None:
    async def block_the_loop() -> None:
        sender.start()
        store.waiting.append(FIRST)
        store.wait_finished(1)  # blocks this loop until the sender, on its own, is through

    asyncio.run(block_the_loop())
    assert len(network.posts) == 1
