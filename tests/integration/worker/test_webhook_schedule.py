"""When tries come: at the second they are due, whatever restarts meanwhile."""

from __future__ import annotations

import asyncio
from datetime import datetime
from pathlib import Path

from shared.settings import Settings
from shared.store import connect
from tests.deliveries import Outbox, sending, settings_for
from tests.receivers import Received, Receiver, Reply
from tests.servers import Valkey

JOBS = [f"j{number}" for number in range(8)]


async def due_times(outbox: Outbox) -> dict[str, float]:
    """When each job's delivery is tried a second time, once all had their first."""
    documents = [await outbox.after(job_id, 1) for job_id in JOBS]
    return {document["id"]: datetime.fromisoformat(document["next_attempt_at"]).timestamp() for document in documents}


def assert_on_time(tries: list[Received], due: dict[str, float]) -> None:
    assert sorted(request.headers["webhook-id"] for request in tries) == sorted(due)
    for request in tries:
        late = request.at - due[request.headers["webhook-id"]]
        assert 0 <= late < 1, f"{late:.3f} s after it was due"


async def test_the_second_try_comes_at_the_second_it_is_due_each_with_its_own_jitter(
    receiver: Receiver, outbox: Outbox, settings: Settings
) -> None:
    asked = Reply(503, {"Retry-After": "6"})
    receiver.reply(*[Reply(500)] * (len(JOBS) - 2), asked, asked)
    with sending(settings, "w1"), sending(settings, "w2"):
        await outbox.end_jobs(dict.fromkeys(JOBS, receiver.url))
        due = await due_times(outbox)
        first = {request.headers["webhook-id"]: request.at for request in receiver.requests}
        waits = sorted(due[name] - first[name] for name in due)
        assert 4.5 <= waits[0] <= waits[5] <= 6, waits
        assert 6 <= waits[6] <= waits[7] <= 7.1, "what the receiver asked for"
        assert waits[5] - waits[0] > 0.02, "they are spread"
        assert_on_time((await asyncio.to_thread(receiver.wait_for, 16))[8:], due)
        for job_id in JOBS:
            assert (await outbox.after(job_id, 2))["status"] == "delivered"


async def test_the_schedule_survives_a_restart_of_the_sender_and_of_redis(receiver: Receiver, tmp_path: Path) -> None:
    valkey = Valkey(tmp_path)
    redis = connect(valkey.url)
    outbox = Outbox(redis)
    receiver.reply(*[Reply(500)] * len(JOBS))
    try:
        with sending(settings_for(valkey.url), "w1"):
            await outbox.end_jobs(dict.fromkeys(JOBS, receiver.url))
            due = await due_times(outbox)
        valkey.kill()
        valkey.restart()
        await redis.connection_pool.disconnect()
        assert await due_times(outbox) == due
        with sending(settings_for(valkey.url), "w2"):
            assert_on_time((await asyncio.to_thread(receiver.wait_for, 16))[8:], due)
            for job_id in JOBS:
                document = await outbox.after(job_id, 2)
                assert [attempt["status_code"] for attempt in document["attempts"]] == [500, 204]
    finally:
        await redis.aclose()
        valkey.stop()


async def test_what_fell_due_while_no_sender_ran_is_sent_at_once(
    receiver: Receiver, outbox: Outbox, settings: Settings
) -> None:
    receiver.reply(*[Reply(500)] * len(JOBS))
    with sending(settings, "w1"):
        await outbox.end_jobs(dict.fromkeys(JOBS, receiver.url))
        await due_times(outbox)
    for job_id in JOBS:
        await outbox.make_due(job_id)
    with sending(settings, "w2"):
        await asyncio.to_thread(receiver.wait_for, 16, 2)
