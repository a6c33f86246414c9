"""Several jobs in one round trip."""

from __future__ import annotations

from typing import Any

import pytest
from redis import Redis as SyncRedis
from redis.exceptions import NoScriptError, ResponseError

from shared.store import StoreUnavailable, Submitted, connection
from shared.store.connection import run_many
from shared.store.keys import key, ref
from shared.store.scripts import APPEND
from tests.job_queue import TENANT, JobQueue


class CountedRounds:
    """How often `run_many` asks the server, and with how many arguments each time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.arguments = list[int]()
        run = connection.run

        async def counted(redis: Any, script: Any, *args: Any, **named: Any) -> Any:
            self.arguments.append(len(args))
            return await run(redis, script, *args, **named)

        monkeypatch.setattr(connection, "run", counted)


def outcomes(answers: list[Submitted | Exception]) -> list[str | type[Exception]]:
    return [answer.outcome if isinstance(answer, Submitted) else type(answer) for answer in answers]


async def test_a_batch_keeps_its_order_also_where_the_server_does_not_know_the_script(
    queue: JobQueue, sync_redis: SyncRedis
) -> None:
    sync_redis.script_flush()
    await queue.store.submit_many([queue.new(name, thread_id="t") for name in "cab"])
    for name in "cab":
        job = await queue.take()
        assert job.id == name
        await queue.finish("w1", job)


async def test_a_batch_is_one_round_trip_until_it_would_hold_the_server_up(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = CountedRounds(monkeypatch)
    few = [queue.new(f"a{n}") for n in range(connection.GROUP_CALLS)]
    assert outcomes(await queue.store.submit_many(few)) == ["created"] * len(few)
    assert len(rounds.arguments) == 1
    rounds.arguments.clear()
    many = [queue.new(f"b{n}") for n in range(2 * connection.GROUP_CALLS + 1)]
    assert outcomes(await queue.store.submit_many(many)) == ["created"] * len(many)
    assert len(rounds.arguments) == 3
    rounds.arguments.clear()
    large = [queue.new(f"c{n}", payload=b"x" * (connection.GROUP_BYTES * 2 // 5)) for n in range(5)]
    assert outcomes(await queue.store.submit_many(large)) == ["created"] * len(large)
    assert len(rounds.arguments) == 3
    assert len(await queue.claim_ids(limit=500, max_bytes=10**8)) == len(few) + len(many) + len(large)


async def test_a_batch_of_one_is_an_ordinary_call(queue: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = CountedRounds(monkeypatch)
    job = queue.new("a")
    assert outcomes(await queue.store.submit_many([job])) == ["created"]
    assert rounds.arguments == [len(queue.store._submit_args(job))]
    assert await queue.store.submit_many([]) == []
    assert len(rounds.arguments) == 1


async def test_a_script_that_is_forgotten_between_two_groups_is_sent_again(
    queue: JobQueue, sync_redis: SyncRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = connection.run

    async def flushed(*args: Any, **named: Any) -> Any:
        sync_redis.script_flush()
        return await run(*args, **named)

    monkeypatch.setattr(connection, "run", flushed)
    jobs = [queue.new(f"a{n}") for n in range(3 * connection.GROUP_CALLS)]
    answers = await queue.store.submit_many(jobs)
    assert not any(isinstance(answer, NoScriptError) for answer in answers)
    assert outcomes(answers) == ["created"] * len(jobs)


async def test_what_is_answered_stays_answered_where_the_server_goes_away_after_it(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, answered = connection.run, list[int]()

    async def broken(*args: Any, **named: Any) -> Any:
        if len(answered) >= 1:
            raise StoreUnavailable("gone")
        answered.append(1)
        return await run(*args, **named)

    monkeypatch.setattr(connection, "run", broken)
    size = connection.GROUP_CALLS
    answers = await queue.store.submit_many([queue.new(f"a{n}") for n in range(3 * size)])
    assert outcomes(answers) == ["created"] * size + [StoreUnavailable] * 2 * size
    with pytest.raises(StoreUnavailable):
        await queue.store.submit_many([queue.new(f"b{n}") for n in range(3 * size)])


async def test_a_key_that_stands_twice_in_a_batch_is_one_job(queue: JobQueue) -> None:
    """As where a client's proxy sends a request again while the first is under way."""
    same = {"idempotency_key": "k", "fingerprint": "f"}
    answers = await queue.store.submit_many(
        [queue.new("a", **same), queue.new("b"), queue.new("c", **same), queue.new("d", **{**same, "fingerprint": "g"})]
    )
    assert outcomes(answers) == ["created", "created", "duplicate", "conflict"]
    assert [answer.id for answer in answers[:3] if isinstance(answer, Submitted)] == ["a", "b", "a"]
    assert sorted(await queue.claim_ids()) == ["a", "b"]


async def test_two_jobs_of_a_thread_in_a_batch_run_one_after_the_other(queue: JobQueue) -> None:
    answers = await queue.store.submit_many(
        [queue.new("a", thread_id="t"), queue.new("b", thread_id="t"), queue.new("c", thread_id="t", on_busy="reject")]
    )
    assert outcomes(answers) == ["created", "created", "busy"]
    (first,) = (await queue.claim()).jobs
    assert first.id == "a"
    await queue.finish("w1", first)
    assert await queue.claim_ids() == ["b"]


async def test_an_error_leaves_the_calls_after_it_what_they_are(queue: JobQueue, sync_redis: SyncRedis) -> None:
    for name in "abc":
        await queue.submit(name)
    jobs = {job.id: job for job in (await queue.claim()).jobs}
    sync_redis.set(key("events", ref(TENANT, "b")), "not a list")
    calls = [[0, "w1", jobs[name].ref, jobs[name].attempt, f'"{name}"'] for name in "abc"]
    first, second, third = await run_many(queue.redis, APPEND, [*calls])
    assert isinstance(second, ResponseError)
    assert "WRONGTYPE" in str(second)
    assert (first, third) == (1, 1)
    for name in "ac":
        assert sync_redis.lrange(key("events", ref(TENANT, name)), -1, -1) == [f'"{name}"'.encode()]
    sync_redis.delete(key("events", ref(TENANT, "b")))


async def test_a_call_without_a_lease_is_told_so_among_others(queue: JobQueue) -> None:
    for name in "ab":
        await queue.submit(name)
    first, second = (await queue.claim()).jobs
    calls = [[0, "w1", first.ref, 1, "1"], [0, "w2", second.ref, 1, "2"], [0, "w1", second.ref, 1, "3"]]
    assert await run_many(queue.redis, APPEND, [*calls]) == [1, -1, 1]
