"""The script cache of the server may be flushed at any time, and what goes wrong has the store's own names."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from redis import exceptions

import shared.store.scripts
from shared.store import StoreFull, StoreUnavailable, Submitted
from shared.store.errors import store_errors, translated
from shared.store.keys import KEYS, digest, key
from shared.store.scripts.assembly import SHARED
from tests.job_queue import TENANT, WEBHOOK, JobQueue


async def test_a_flushed_script_cache_has_no_effect(queue: JobQueue) -> None:
    async def flush() -> None:
        await queue.redis.script_flush()

    await flush()
    await queue.submit("a", fields=WEBHOOK)
    await flush()
    job = await queue.take()
    await flush()
    assert queue.renew("w1", job) == ["held"]
    await flush()
    assert await queue.store.append("w1", job, [b"{}"])
    await flush()
    assert await queue.store.release("w1", job, "hand_back") == "queued"
    job = await queue.take()
    await flush()
    assert (await queue.store.cancel(TENANT, "a"))[0] == "cancelling"
    await flush()
    assert await queue.finish("w1", job, "failed") == "done"
    await flush()
    assert await queue.store.retry(TENANT, "a") == ("queued", "queued")
    await flush()
    (delivery,), _ = await queue.deliveries.claim("w1", lease_seconds=10, limit=10)
    await flush()
    assert await queue.log.redeliver(TENANT, delivery.id) == "sending"
    await queue.store.cancel(TENANT, "a")
    await flush()
    assert await queue.store.erase(TENANT, "a") == ("erased", "cancelled")
    await flush()
    assert await queue.store.expire() == (0, 0, 0)


async def test_nor_on_a_batch(queue: JobQueue) -> None:
    await queue.redis.script_flush()
    answers = await queue.store.submit_many([queue.new(f"a{n}") for n in range(20)])
    assert [answer.outcome for answer in answers if isinstance(answer, Submitted)] == ["created"] * 20
    assert len(await queue.claim_ids(limit=50)) == 20


async def test_one_error_of_a_batch_stands_in_its_own_place(queue: JobQueue) -> None:
    thread = key("thread", TENANT, digest("t"))
    await queue.redis.set(thread, "not a hash")
    answers = await queue.store.submit_many(
        [queue.new("a"), queue.new("b", thread_id="t", on_busy="reject"), queue.new("c")]
    )
    assert [type(answer) for answer in answers] == [Submitted, exceptions.ResponseError, Submitted]
    await queue.redis.delete(thread)


async def test_jobs_raced_for_by_many_claims_go_to_one_worker_each(queue: JobQueue) -> None:
    await queue.store.submit_many([queue.new(f"a{n:02}") for n in range(40)])
    claims = await asyncio.gather(*(queue.claim(f"w{n}", limit=3) for n in range(20)))
    claimed = [job.id for claim in claims for job in claim.jobs]
    assert sorted(claimed) == [f"a{n:02}" for n in range(40)]


@pytest.mark.parametrize(
    ("error", "known"),
    [
        (exceptions.ConnectionError("gone"), StoreUnavailable),
        (exceptions.TimeoutError("slow"), StoreUnavailable),
        (exceptions.BusyLoadingError("loading"), StoreUnavailable),
        (exceptions.ReadOnlyError("replica"), StoreUnavailable),
        (exceptions.ResponseError("MASTERDOWN Link with MASTER is down"), StoreUnavailable),
        (exceptions.ResponseError("NOREPLICAS Not enough good replicas to write."), StoreUnavailable),
        (exceptions.ResponseError("WAIT cannot be used with replica instances. Please also note"), StoreUnavailable),
        (exceptions.InvalidResponse("Protocol Error"), StoreUnavailable),
        (ConnectionResetError(), StoreUnavailable),
        (TimeoutError(), StoreUnavailable),
        (exceptions.OutOfMemoryError("command not allowed when used memory > 'maxmemory'."), StoreFull),
        (exceptions.ResponseError("MISCONF Errors writing to the AOF file: No space left on device"), StoreFull),
    ],
)
def test_what_redis_is_not_able_to_do_has_a_name(error: Exception, known: type[Exception]) -> None:
    assert type(translated(error)) is known
    with pytest.raises(known) as raised, store_errors():
        raise error
    assert raised.value.__cause__ is error
    assert str(raised.value)


@pytest.mark.parametrize("bug", [exceptions.ResponseError("WRONGTYPE …"), exceptions.DataError("…"), KeyError("…")])
def test_bugs_stay_what_they_are(bug: Exception) -> None:
    with pytest.raises(type(bug)) as raised, store_errors():
        raise bug
    assert raised.value is bug


def test_each_transition_says_its_arguments_keys_and_result() -> None:
    folder = Path(shared.store.scripts.__file__).parent
    for file in folder.glob("*.lua"):
        if file.stem not in (*SHARED, "calls"):
            header = file.read_text("utf-8")
            assert header.startswith(f"-- {file.stem}: "), file.name
            assert all(word in header for word in ("-- ARGV ", "-- Keys ", "-- Gives ")), file.name


def test_no_key_is_named_twice() -> None:
    assert len(set(KEYS.values())) == len(KEYS)
