"""The sender: how it stops, and how little it does while there is nothing to do."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import structlog

from tests.fake_webhooks import FIRST, SECRET_KEY, InMemoryDeliveries, Network
from tests.servers import wait_until
from worker.webhooks import WebhookSender


def test_stop_lets_a_try_under_way_finish_and_claims_nothing_more(
    store: InMemoryDeliveries, network: Network, sender: WebhookSender
) -> None:
    network.hold.clear()
    store.waiting.append(FIRST)
    sender.start()
    wait_until(lambda: len(network.posts) == 1)
    stopped: list[bool] = []
    stopping = threading.Thread(target=lambda: stopped.append(sender.stop(10)))
    stopping.start()
    wait_until(lambda: store.calls["wait cancelled"] == 1)
    store.waiting.append(replace(FIRST, id="late_1_succeeded"))
    network.hold.set()
    stopping.join(10)
    assert stopped == [True]
    assert [finished.delivery.id for finished in store.finished] == [FIRST.id]
    assert [delivery.id for delivery in store.waiting] == ["late_1_succeeded"]
    assert store.closed
    assert not sender.alive


def test_stop_breaks_off_a_try_that_takes_too_long_and_hands_the_delivery_back(
    store: InMemoryDeliveries, network: Network, sender: WebhookSender
) -> None:
    network.hold.clear()
    store.waiting.append(FIRST)
    sender.start()
    wait_until(lambda: len(network.posts) == 1)
    began = time.monotonic()
    assert sender.stop(1.5)
    assert time.monotonic() - began < 2.5
    assert (store.finished, store.released) == ([], [FIRST])
    assert network.now == 0


def test_stop_does_not_wait_for_a_store_that_cannot_take_it_back(
    store: InMemoryDeliveries, network: Network, sender: WebhookSender
) -> None:
    network.hold.clear()
    store.broken.update(release=1)
    store.waiting.append(FIRST)
    with structlog.testing.capture_logs() as lines:
        sender.start()
        wait_until(lambda: len(network.posts) == 1)
        assert sender.stop(1)
    assert [line["event"] for line in lines] == ["webhook_not_handed_back"]


def test_an_idle_sender_stops_at_once(store: InMemoryDeliveries, sender: WebhookSender) -> None:
    sender.start()
    wait_until(lambda: store.calls["wait"] > 0)
    began = time.monotonic()
    assert sender.stop(5)
    assert time.monotonic() - began < 0.5
    assert sender.stop(5), "stopping twice is no error"


def test_a_sender_that_was_never_started_stops(store: InMemoryDeliveries, network: Network) -> None:
    sender = WebhookSender(store.open, worker_id="w1", secret_key=SECRET_KEY)
    assert not sender.alive
    assert sender.stop(1)


def test_an_idle_sender_asks_the_store_about_once_a_second(store: InMemoryDeliveries, sender: WebhookSender) -> None:
    sender.start()
    wait_until(lambda: store.calls["wait"] == 3)
    assert store.calls["claim"] == 3
