"""Hosts that are dead, slow or busy, with many deliveries: nobody else's are delayed, and they are let recover."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from shared.settings import Settings
from shared.store import DeliveryFilter
from tests.conditions import until
from tests.deliveries import TENANT, Outbox, sending
from tests.receivers import Receiver, Reply
from tests.servers import free_port

DEAD, LIVE = 1000, 100
HOST_LIMIT = 16
PROMPTLY = 15.0


@contextmanager
def two_senders(settings: Settings) -> Iterator[None]:
    with sending(settings, "w1"), sending(settings, "w2"):
        yield


def interleaved(dead_url: str, live_url: str) -> dict[str, str]:
    """Job ids and where their webhooks go: ten to the dead host, one to the live one, and so on."""
    urls = {}
    for number in range(LIVE):
        urls |= {f"dead{number}-{part}": dead_url for part in range(DEAD // LIVE)}
        urls[f"live{number}"] = live_url
    return urls


async def waiting(outbox: Outbox, url: str) -> list[dict[str, object]]:
    """The deliveries to this URL that are pending."""
    wanted, found, cursor = DeliveryFilter(statuses=["pending"]), [], None
    while True:
        page, cursor = await outbox.log.page(TENANT, wanted, limit=1000, cursor=cursor)
        found += [document for document in page if document["url"] == url]
        if cursor is None:
            return found


async def none_waits(outbox: Outbox, url: str) -> bool:
    return not await waiting(outbox, url)


async def test_a_thousand_deliveries_to_a_dead_host_delay_nobody_and_all_arrive_once_it_answers(
    receiver: Receiver, outbox: Outbox, settings: Settings
) -> None:
    port = free_port()
    dead_url = f"http://127.0.0.1:{port}/hook"
    await outbox.end_jobs(interleaved(dead_url, receiver.url))
    with two_senders(settings):
        live = await asyncio.to_thread(receiver.wait_for, LIVE, PROMPTLY)
        assert len({request.headers["webhook-id"] for request in live}) == LIVE
        assert len(await waiting(outbox, dead_url)) == DEAD
        await asyncio.sleep(2)
        tries = [attempt for document in await waiting(outbox, dead_url) for attempt in document["attempts"]]
        assert 5 <= len(tries) <= HOST_LIMIT + 10, "the breaker lets a few through"
        with Receiver(port=port, default=Reply(delay=0.02)) as recovered:
            await until(lambda: len(recovered.requests) >= DEAD, within=30)
            assert await until(lambda: none_waits(outbox, dead_url), within=10)
            assert len({request.headers["webhook-id"] for request in recovered.requests}) == DEAD
            assert HOST_LIMIT // 2 < max(request.at_once for request in recovered.requests) <= HOST_LIMIT


async def test_a_thousand_deliveries_to_a_host_that_never_answers_delay_nobody(
    receiver: Receiver, outbox: Outbox, settings: Settings
) -> None:
    settings = settings.model_copy(update={"webhook_timeout_seconds": 0.5})
    with Receiver(default=Reply(delay=60)) as mute:
        await outbox.end_jobs(interleaved(mute.url, receiver.url))
        with two_senders(settings):
            await asyncio.to_thread(receiver.wait_for, LIVE, PROMPTLY)
            probes, ends = HOST_LIMIT + 2, time.monotonic() + PROMPTLY
            while len(mute.requests) < probes and time.monotonic() < ends:
                arrived = len(receiver.requests)  # asked for before: it may be there at once
                await outbox.end_job(f"more{arrived}", receiver.url)
                await asyncio.to_thread(receiver.wait_for, arrived + 1, 5)
                await asyncio.sleep(0.1)
            assert len(await waiting(outbox, mute.url)) == DEAD
    assert max(request.at_once for request in mute.requests) == HOST_LIMIT
    last, first_probe, second_probe = mute.requests[HOST_LIMIT - 1 : probes]
    assert first_probe.at - last.at > 1
    assert second_probe.at - first_probe.at > 2, "each pause is longer than the one before"
    assert {first_probe.at_once, second_probe.at_once} == {1}, "probes come one at a time"


async def test_tries_to_one_host_at_once_are_limited_over_all_senders(outbox: Outbox, settings: Settings) -> None:
    with Receiver(default=Reply(delay=0.05)) as slow:
        await outbox.end_jobs({f"j{number}": f"{slow.url}?{number % 3}" for number in range(120)})
        with two_senders(settings.model_copy(update={"webhook_host_concurrency": 5})):
            await asyncio.to_thread(slow.wait_for, 120, 20)
    assert max(request.at_once for request in slow.requests) == 5


async def test_a_busy_host_gets_fewer_at_once_until_it_answers_well(outbox: Outbox, settings: Settings) -> None:
    with Receiver(default=Reply(429, delay=0.05)) as busy:
        await outbox.end_jobs({f"j{number}": busy.url for number in range(200)})
        with two_senders(settings):
            await asyncio.to_thread(busy.wait_for, 40, 20)
            busy.default = Reply(delay=0.05)
            turned = len(busy.requests)
            await asyncio.to_thread(busy.wait_for, 200, 20)
    at_once = [request.at_once for request in busy.requests]
    assert max(at_once[:HOST_LIMIT]) > HOST_LIMIT // 2, "it began as any other host"
    assert max(at_once[2 * HOST_LIMIT : turned]) <= 2
    assert max(at_once[turned:]) > HOST_LIMIT // 2


async def test_many_slow_hosts_hold_up_no_fast_one(receiver: Receiver, outbox: Outbox, settings: Settings) -> None:
    with ExitStack() as stack:
        slow = [stack.enter_context(Receiver(default=Reply(delay=1))) for _ in range(20)]
        await outbox.end_jobs({f"slow{number}": slow[number % 20].url for number in range(400)})
        with sending(settings.model_copy(update={"webhook_concurrency": 32})):
            await until(lambda: sum(len(each.requests) for each in slow) >= 32)
            await outbox.end_jobs({f"fast{number}": receiver.url for number in range(20)})
            await asyncio.to_thread(receiver.wait_for, 20, 5)
            sent = sum(len(each.requests) for each in slow)
    assert sent < 200, "of the slow hosts' 400, which were there first, most still wait"
