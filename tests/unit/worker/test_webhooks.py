"""The sender: what it claims, sends and records, what it survives, and how it stops."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import orjson
import pytest
import structlog
from standardwebhooks import Webhook

from shared.jobs import DeliveryAttempt
from shared.metrics import REGISTRY
from shared.signing import default_secret, seal
from shared.store import ClaimedDelivery, StoreUnavailable
from tests.servers import wait_until
from worker import webhooks
from worker.delivery_http import Answer
from worker.webhooks import WebhookSender

SECRET_KEY = "k" * 32
OWN_SECRET = "whsec_" + "A" * 32
RECORD = {b"status": b"succeeded", b"graph": b"echo", b"queue": b"default", b"round": b"1", b"created_at": b"1000"}
FIRST = ClaimedDelivery(
    ref="acme:j1.1.succeeded",
    id="j1.1.succeeded",
    tenant="acme",
    attempt=1,
    step=0,
    type="job.succeeded",
    url="https://hooks.example.com/in?token=hush",
    secret=None,
    created_at=1_769_860_800_000,
    job_id="j1",
    record=RECORD,
    output=b'{"answer":42}',
    output_too_large=False,
    body=None,
)


@dataclass
class Finished:
    delivery: ClaimedDelivery
    outcome: str
    attempt: DeliveryAttempt
    delay_seconds: float
    body: bytes


@dataclass
class InMemoryDeliveries:
    """Gives each waiting delivery out once. `broken` fails that many of the next calls, as when Redis is away."""

    waiting: list[ClaimedDelivery] = field(default_factory=list)
    finished: list[Finished] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)
    limits: list[int] = field(default_factory=list)
    leases: list[float] = field(default_factory=list)
    broken: Counter[str] = field(default_factory=Counter)
    lost: bool = False
    closed: bool = False

    async def claim(
        self, worker_id: str, *, lease_seconds: float, limit: int
    ) -> tuple[list[ClaimedDelivery], float | None]:
        self._call("claim")
        self.limits.append(limit)
        self.leases.append(lease_seconds)
        taken, self.waiting = self.waiting[:limit], self.waiting[limit:]
        return taken, None

    async def finish(
        self, worker_id: str, delivery: ClaimedDelivery, *, outcome: Literal["delivered", "retry", "failed"],
        attempt: DeliveryAttempt, delay_seconds: float = 0, body: bytes,
    ) -> bool:  # fmt: skip
        self._call("finish")
        self.finished.append(Finished(delivery, outcome, attempt, delay_seconds, body))
        return not self.lost

    async def wait(self, timeout: float) -> None:  # noqa: ASYNC109
        self._call("wait")
        ends = time.monotonic() + timeout
        try:
            while not self.waiting and time.monotonic() < ends:  # noqa: ASYNC110 - filled from the test's thread
                await asyncio.sleep(0.005)
        except asyncio.CancelledError:
            self.calls["wait cancelled"] += 1
            raise

    def _call(self, name: str) -> None:
        assert not self.closed
        self.calls[name] += 1
        if self.broken[name] > 0:
            self.broken[name] -= 1
            raise StoreUnavailable("away")

    def wait_finished(self, count: int) -> list[Finished]:
        wait_until(lambda: len(self.finished) >= count)
        return self.finished

    @asynccontextmanager
    async def open(self) -> AsyncIterator[InMemoryDeliveries]:
        yield self
        self.closed = True


class Network:
    """Stands in for `DeliveryClient`: answers each post with `answer` once `hold` is let go, `uneven` in their time."""

    def __init__(self) -> None:
        self.answer: Answer | Exception = Answer(204, body="")
        self.posts: list[tuple[str, Mapping[str, str], bytes]] = []
        self.now = 0
        self.most = 0
        self.uneven = False
        self.hold = threading.Event()
        self.hold.set()

    def __call__(self, *_: Any, **__: Any) -> Network:
        return self

    async def __aenter__(self) -> Network:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        self.posts.append((url, headers, body))
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            while not self.hold.is_set():  # noqa: ASYNC110 - set from the test's thread
                await asyncio.sleep(0.005)
            if self.uneven:
                await asyncio.sleep(0.01 * (len(self.posts) % 5))
        finally:
            self.now -= 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def store() -> InMemoryDeliveries:
    return InMemoryDeliveries()


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Network:
    network = Network()
    monkeypatch.setattr(webhooks, "DeliveryClient", network)
    return network


@pytest.fixture
def sender(store: InMemoryDeliveries, network: Network) -> Iterator[WebhookSender]:
    sender = WebhookSender(store.open, worker_id="w1", secret_key=SECRET_KEY, concurrency=4)
    yield sender
    network.hold.set()
    assert sender.stop(5)


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
    assert headers["webhook-id"] == "j1.1.succeeded"
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
    store.waiting.append(replace(FIRST, secret=seal(SECRET_KEY, OWN_SECRET)))
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
    store.waiting += [replace(FIRST, id="bad.1.succeeded", secret=seal("l" * 32, OWN_SECRET)), FIRST]
    sender.start()
    by_id = {finished.delivery.id: finished for finished in store.wait_finished(2)}
    assert by_id["bad.1.succeeded"].outcome == "retry"
    assert "another SECRET_KEY" in (by_id["bad.1.succeeded"].attempt.error or "")
    assert by_id[FIRST.id].outcome == "delivered"
    assert len(network.posts) == 1


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
    store.waiting += [replace(FIRST, id="bad.1.succeeded", step=7), FIRST]
    with structlog.testing.capture_logs() as lines:
        sender.start()
        store.wait_finished(1)
        wait_until(lambda: "webhook_try_broke_off" in [line["event"] for line in lines])
    assert [finished.delivery.id for finished in store.finished] == [FIRST.id]


def test_no_more_are_claimed_than_can_be_sent_at_once(
    store: InMemoryDeliveries, network: Network, sender: WebhookSender
) -> None:
    network.hold.clear()
    store.waiting += [replace(FIRST, id=f"j{n}.1.succeeded") for n in range(20)]
    sender.start()
    wait_until(lambda: len(network.posts) == 4)
    assert len(store.waiting) == 16
    network.uneven = True
    network.hold.set()
    store.wait_finished(20)
    assert network.most == 4
    assert max(store.limits) == 4
    assert set(store.leases) == {25.0}


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


def test_recording_is_given_up_when_the_lease_has_ended(
    store: InMemoryDeliveries, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "MAX_BACKOFF_SECONDS", 0.02)
    monkeypatch.setattr(webhooks, "LEASE_MARGIN_SECONDS", 0.2)
    store.broken.update(finish=10_000)
    store.waiting.append(FIRST)
    sender = WebhookSender(store.open, worker_id="w1", secret_key=SECRET_KEY, timeout_seconds=0.1)
    with structlog.testing.capture_logs() as lines:
        sender.start()
        wait_until(lambda: any(line["event"] == "webhook_attempt_not_recorded" for line in lines))
        assert sender.stop(5)
    assert store.finished == []


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
    store.waiting.append(replace(FIRST, secret=seal(SECRET_KEY, OWN_SECRET)))
    with structlog.testing.capture_logs() as lines:
        sender = WebhookSender(store.open, worker_id="w1", secret_key=SECRET_KEY)
        sender.start()
        store.wait_finished(1)
        assert sender.stop(5)
    (line,) = lines
    assert line["event"] == "webhook_tried"
    assert (line["delivery"], line["job"], line["worker"], line["outcome"]) == (
        "j1.1.succeeded",
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
    store.waiting.append(replace(FIRST, id="late.1.succeeded"))
    network.hold.set()
    stopping.join(10)
    assert stopped == [True]
    assert [finished.delivery.id for finished in store.finished] == [FIRST.id]
    assert [delivery.id for delivery in store.waiting] == ["late.1.succeeded"]
    assert store.closed
    assert not sender.alive


def test_stop_gives_up_on_a_try_that_takes_too_long_and_leaves_it_leased(
    store: InMemoryDeliveries, network: Network, sender: WebhookSender
) -> None:
    network.hold.clear()
    store.waiting.append(FIRST)
    sender.start()
    wait_until(lambda: len(network.posts) == 1)
    began = time.monotonic()
    assert sender.stop(1.5)
    assert time.monotonic() - began < 2.5
    assert store.finished == []


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
