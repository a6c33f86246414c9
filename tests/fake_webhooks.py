"""A store and a network in memory, for senders that are tried on their own."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from shared.store import ClaimedDelivery, Recorded, StoreUnavailable
from shared.store.deliveries import AddressState, HostState
from shared.webhooks import DeliveryAttempt
from tests.servers import wait_until
from worker.delivery_answer import Answer

SECRET_KEY = "k" * 32
OWN_SECRET = "whsec_" + "A" * 32
RECORD = {b"status": b"succeeded", b"graph": b"echo", b"queue": b"default", b"round": b"1", b"created_at": b"1000"}
FIRST = ClaimedDelivery(
    ref="acme:j1_1_succeeded",
    id="j1_1_succeeded",
    tenant="acme",
    attempt=1,
    step=0,
    type="job.succeeded",
    url="https://hooks.example.com/in?token=hush",
    host="https://hooks.example.com:443",
    secrets=(),
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
    host: HostState
    address: AddressState


@dataclass
class InMemoryDeliveries:
    """Gives each waiting delivery out once. `broken` fails that many of the next calls, as when Redis is away."""

    waiting: list[ClaimedDelivery] = field(default_factory=list)
    finished: list[Finished] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)
    limits: list[int] = field(default_factory=list)
    leases: list[float] = field(default_factory=list)
    broken: Counter[str] = field(default_factory=Counter)
    recovers: list[bool] = field(default_factory=list)
    released: list[ClaimedDelivery] = field(default_factory=list)
    recorded: Recorded = field(default_factory=lambda: Recorded(1.5, None))
    lost: bool = False
    closed: bool = False

    async def claim(
        self, worker_id: str, *, lease_seconds: float, limit: int, recover: bool = True
    ) -> tuple[list[ClaimedDelivery], float | None]:
        self._call("claim")
        self.recovers.append(recover)
        self.limits.append(limit)
        self.leases.append(lease_seconds)
        taken, self.waiting = self.waiting[:limit], self.waiting[limit:]
        return taken, None

    async def finish(
        self, worker_id: str, delivery: ClaimedDelivery, *, outcome: Literal["delivered", "retry", "failed"],
        attempt: DeliveryAttempt, body: bytes, delay_seconds: float = 0,
        host: HostState = "ok", address: AddressState = "none",
    ) -> Recorded | None:  # fmt: skip
        self._call("finish")
        self.finished.append(Finished(delivery, outcome, attempt, delay_seconds, body, host, address))
        return None if self.lost else self.recorded

    async def release(self, worker_id: str, delivery: ClaimedDelivery) -> bool:
        self._call("release")
        self.released.append(delivery)
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
