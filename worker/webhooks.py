"""Sends webhook deliveries: claims those that are due, tries each once, records what came of it and what comes next.

At least once: a sender that dies in the middle leaves the delivery leased, and when the lease ends another sends it
again, under the same `webhook-id`. As long as a try is under way the keeper renews its lease.
"""

from __future__ import annotations

import asyncio
import random
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, Protocol

import structlog

from shared.metrics import WEBHOOK_ATTEMPTS, WEBHOOK_DELIVERY_SECONDS
from shared.records import render_webhook_body
from shared.settings import Network, Settings
from shared.signing import default_secret, sign_headers, unseal
from shared.store import ClaimedDelivery, DeliveryStore, Recorded, StoreError, connect, connect_blocking
from shared.store.deliveries import AddressState, HostState
from shared.webhooks import DeliveryAttempt
from worker.delivery_answer import Answer
from worker.delivery_schedule import Decision, decide

if TYPE_CHECKING:
    from worker.delivery_http import DeliveryClient

POLL_SECONDS = 1.0
MAX_BACKOFF_SECONDS = 5.0

_HEADERS = {"Content-Type": "application/json", "User-Agent": "multi-agent-service"}
_RANDOM = random.SystemRandom()


class Deliveries(Protocol):
    """The part of `shared.store.DeliveryStore` that a sender uses."""

    async def claim(
        self, worker_id: str, *, lease_seconds: float, limit: int, recover: bool = True
    ) -> tuple[list[ClaimedDelivery], float | None]: ...

    async def finish(
        self, worker_id: str, delivery: ClaimedDelivery, *, outcome: Literal["delivered", "retry", "failed"],
        attempt: DeliveryAttempt, body: bytes, delay_seconds: float = 0,
        host: HostState = "ok", address: AddressState = "none",
    ) -> Recorded | None: ...  # fmt: skip

    async def release(self, worker_id: str, delivery: ClaimedDelivery) -> bool: ...

    async def wait(self, timeout: float) -> None: ...  # noqa: ASYNC109


class WebhookSender:
    """A thread with an event loop of its own, so that a graph's blocking node delays no delivery.

    `open_store` is entered in that thread, and must not wait for Redis. An outage of Redis is waited out.
    """

    def __init__(
        self,
        open_store: Callable[[], AbstractAsyncContextManager[Deliveries]],
        *,
        worker_id: str,
        secret_key: str,
        allow: Sequence[Network] = (),
        timeout_seconds: float = 15,
        lease_seconds: float = 10,
        concurrency: int = 64,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._open_store = open_store
        self._worker_id = worker_id
        self._secret_key = secret_key
        self._allow = allow
        self._timeout_seconds = timeout_seconds
        self._lease_seconds = lease_seconds
        self._concurrency = concurrency
        self._ssl_context = ssl_context
        self._log = structlog.get_logger(__name__).bind(worker=worker_id)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stopping = asyncio.Event()
        self._drained_by = 0.0
        self._may_recover: Callable[[], bool] = lambda: True
        self._sending: dict[asyncio.Task[None], ClaimedDelivery] = {}

    def start(self, may_recover: Callable[[], bool] = lambda: True) -> None:
        """Begin to send. Returns at once. `may_recover`: whether expired leases may be put back, see the keeper."""
        self._may_recover = may_recover
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, args=(self._loop,), name="webhooks", daemon=True)
        self._thread.start()

    def stop(self, timeout: float) -> bool:
        """Claim nothing more, and give the tries under way up to `timeout` seconds. The rest is handed back.

        Blocks; false where the thread still runs.
        """
        self._drained_by = time.monotonic() + timeout - 0.5
        if self._loop is not None and self._thread is not None:
            with suppress(RuntimeError):  # the loop is closed: the thread has ended
                self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join(timeout)
        return not self.alive

    def sending(self) -> list[tuple[str, int]]:
        """The (ref, attempt) of the deliveries under way, for whoever renews their leases. From any thread."""
        return [(delivery.ref, delivery.attempt) for delivery in list(self._sending.values())]

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        # Look-ups of names run in threads that cannot be cancelled: enough of them that dead names hold up no live one.
        loop.set_default_executor(ThreadPoolExecutor(2 * self._concurrency, thread_name_prefix="webhook-dns"))
        try:
            loop.run_until_complete(self._serve())
            loop.run_until_complete(loop.shutdown_asyncgens())
        except Exception:
            self._log.exception("webhook_sender_died")
        finally:
            loop.close()

    async def _serve(self) -> None:
        from worker.delivery_http import DeliveryClient  # here, in the thread: aiohttp would hold up the first job

        client = DeliveryClient(self._allow, timeout_seconds=self._timeout_seconds, ssl_context=self._ssl_context)
        failures = 0
        async with self._open_store() as store, client:
            while not self._stopping.is_set():
                try:
                    await self._send_due(store, client)
                    failures = 0
                except Exception as error:
                    failures += 1
                    self._log.warning("webhook_claim_failed", error=_summary(error), failures=failures)
                    await self._unless_stopped(asyncio.sleep(_backoff(failures)))
            await self._drain(store)

    async def _send_due(self, store: Deliveries, client: DeliveryClient) -> None:
        """Claim as many as there are free places, start to send them, and wait until there may be more to claim."""
        free = self._concurrency - len(self._sending)
        if free == 0:
            await self._unless_stopped(asyncio.wait(self._sending, return_when=asyncio.FIRST_COMPLETED))
            return
        deliveries, next_due = await store.claim(
            self._worker_id, lease_seconds=self._lease_seconds, limit=free, recover=self._may_recover()
        )
        for delivery in deliveries:
            task = asyncio.create_task(self._deliver(store, client, delivery))
            self._sending[task] = delivery
            task.add_done_callback(self._tried)
        if len(deliveries) < free:
            wait = POLL_SECONDS if next_due is None else min(max(next_due, 0.01), POLL_SECONDS)
            await self._unless_stopped(store.wait(wait))

    def _tried(self, task: asyncio.Task[None]) -> None:
        self._sending.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log.error("webhook_try_broke_off", exc_info=error)  # a bug; the delivery comes back with its lease

    async def _deliver(self, store: Deliveries, client: DeliveryClient, delivery: ClaimedDelivery) -> None:
        at, started = datetime.now(UTC), time.monotonic()
        body = delivery.body or b""
        try:
            body = body or _render(delivery)
            headers = sign_headers(self._secrets(delivery), delivery.id, at, body)
            answer = await client.post(delivery.url, {**_HEADERS, **headers}, body)
        except Exception as error:  # what cannot even be made ready is on record too, and tried again
            answer = Answer(error=f"could not be sent: {_summary(error)}", reason="unready")
        decision = decide(answer, delivery.step, now=datetime.now(UTC), chance=_RANDOM.random())
        attempt = DeliveryAttempt(
            at=at,
            status_code=answer.status_code,
            duration_ms=round((time.monotonic() - started) * 1000),
            error=decision.error,
            body=answer.body,
        )
        await self._record(store, delivery, decision, attempt, body)

    async def _record(
        self, store: Deliveries, delivery: ClaimedDelivery, decision: Decision, attempt: DeliveryAttempt, body: bytes
    ) -> None:
        """Write the attempt down. An outage of Redis is waited out: it says then whether the lease is still held."""
        tried = self._log.bind(delivery=delivery.id, job=delivery.job_id, attempt=delivery.attempt)
        failures = 0
        while True:
            try:
                recorded = await store.finish(
                    self._worker_id, delivery, outcome=decision.outcome, attempt=attempt,
                    body=body, delay_seconds=decision.delay_seconds, host=decision.host, address=decision.address,
                )  # fmt: skip
                break
            except StoreError as error:
                failures += 1
                tried.warning("webhook_attempt_not_recorded", error=_summary(error), failures=failures)
                await asyncio.sleep(_backoff(failures))
        if recorded is None:
            tried.warning("webhook_lease_lost")
            return
        WEBHOOK_ATTEMPTS.labels(decision.outcome).inc()
        if recorded.delay_seconds is not None:
            WEBHOOK_DELIVERY_SECONDS.observe(recorded.delay_seconds)
        if recorded.disabled is not None:
            tried.warning("webhook_address_disabled", why=recorded.disabled, tenant=delivery.tenant, host=delivery.host)
        tried.info(
            "webhook_tried",
            outcome=decision.outcome,
            status_code=attempt.status_code,
            error=attempt.error,
            duration_ms=attempt.duration_ms,
            retry_in_seconds=round(decision.delay_seconds, 1),
        )

    def _secrets(self, delivery: ClaimedDelivery) -> list[str]:
        """The newest one first. An old one, of before a change of SECRET_KEY, is no reason not to send."""
        if not delivery.secrets:
            return [default_secret(self._secret_key, delivery.tenant)]
        newest, *older = delivery.secrets
        readable = [unseal(self._secret_key, newest)]
        for secret in older:
            with suppress(ValueError):
                readable.append(unseal(self._secret_key, secret))
        return readable

    async def _unless_stopped(self, waiting: Coroutine[Any, Any, object]) -> None:
        """Wait for this, or for the order to stop. Raises what `waiting` raises."""
        stopped = asyncio.create_task(self._stopping.wait())
        task = asyncio.create_task(waiting)
        await asyncio.wait((task, stopped), return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if task.done():
            await task
            return
        task.cancel()
        await asyncio.wait((task,))

    async def _drain(self, store: Deliveries) -> None:
        """Wait for the tries under way, then break off those that are left and hand their deliveries back."""
        if self._sending:
            await asyncio.wait(self._sending, timeout=max(0.0, self._drained_by - time.monotonic()))
        left = dict(self._sending)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        releases = (store.release(self._worker_id, delivery) for delivery in left.values())
        for error in await asyncio.gather(*releases, return_exceptions=True):
            if isinstance(error, Exception):
                self._log.warning("webhook_not_handed_back", error=_summary(error))  # it comes back with its lease


def sender_from_settings(settings: Settings, worker_id: str) -> WebhookSender:
    """The sender of a worker process. Raises `SettingsError` where REDIS_URL or SECRET_KEY is missing."""
    redis_url = settings.require_redis_url()

    @asynccontextmanager
    async def open_store() -> AsyncIterator[DeliveryStore]:
        redis = connect(redis_url)
        # Longer than any wait, so that a Redis that went silent is noticed.
        blocking = connect_blocking(redis_url, answer_within=POLL_SECONDS + 2)
        try:
            yield DeliveryStore(
                redis,
                blocking=blocking,
                ttl_seconds=settings.result_ttl_seconds,
                host_concurrency=settings.webhook_host_concurrency,
            )
        finally:
            await redis.aclose()
            await blocking.aclose()

    return WebhookSender(
        open_store,
        worker_id=worker_id,
        secret_key=settings.require_secret_key(),
        allow=settings.webhook_allow_networks,
        timeout_seconds=settings.webhook_timeout_seconds,
        lease_seconds=settings.lease_seconds,
        concurrency=settings.webhook_concurrency,
    )


def _render(delivery: ClaimedDelivery) -> bytes:
    return render_webhook_body(
        delivery.type,
        delivery.created_at,
        delivery.record,
        delivery.job_id,
        delivery.output,
        output_too_large=delivery.output_too_large,
    )


def _backoff(failures: int) -> float:
    return min(0.25 * 2.0 ** min(failures, 10), MAX_BACKOFF_SECONDS) * (0.5 + _RANDOM.random() / 2)


def _summary(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
