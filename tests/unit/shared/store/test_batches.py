"""Several jobs in one round trip."""

from __future__ import annotations

from typing import Any

import pytest
from redis import Redis as SyncRedis

from shared.store import connection
from tests.job_queue import JobQueue


async def test_a_batch_keeps_its_order_also_where_the_server_does_not_know_the_script(
    queue: JobQueue, sync_redis: SyncRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A first call that is refused and sent once more would come after the others, were the script loaded meanwhile."""
    sync_redis.script_flush()
    pipelined, rounds = connection._pipelined, []

    async def counted(*args: Any, **named: Any) -> list[Any]:
        rounds.append(args)
        return await pipelined(*args, **named)

    monkeypatch.setattr(connection, "_pipelined", counted)
    await queue.store.submit_many([queue.new(name, thread_id="t") for name in "abc"])
    assert len(rounds) == 1
    for name in "abc":
        job = await queue.take()
        assert job.id == name
        await queue.finish("w1", job)
