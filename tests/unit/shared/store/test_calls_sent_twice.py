"""Calls of clients that are sent again after a broken connection: the second changes nothing."""

from __future__ import annotations

from typing import Any

import pytest

from shared.store import jobs as jobs_module
from tests.job_queue import TENANT, JobQueue


@pytest.fixture
def sent_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each script runs twice, and the reply to the first is lost; a worker may be quick in between."""
    run = jobs_module.run

    async def run_twice(*args: Any) -> Any:
        await run(*args)
        return await run(*args)

    monkeypatch.setattr(jobs_module, "run", run_twice)


async def test_a_retry_sent_twice_starts_one_round(queue: JobQueue, request: pytest.FixtureRequest) -> None:
    await queue.submit("a")
    await queue.finish("w1", await queue.take(), "failed")
    request.getfixturevalue("sent_twice")
    assert await queue.store.retry(TENANT, "a") == ("queued", "queued")
    assert (await queue.record("a"))["round"] == "2"
    assert await queue.store.retry(TENANT, "a") == ("refused", "queued")


async def test_a_resume_sent_twice_answers_one_question(queue: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the two a worker takes the job, and it is interrupted again."""
    await queue.submit("a")
    await queue.finish("w1", await queue.take(), "interrupted")
    run = jobs_module.run

    async def run_twice(*args: Any) -> Any:
        await run(*args)
        with monkeypatch.context() as patch:
            patch.setattr(jobs_module, "run", run)
            await queue.finish("w1", await queue.take(), "interrupted")
        return await run(*args)

    with monkeypatch.context() as patch:
        patch.setattr(jobs_module, "run", run_twice)
        assert await queue.store.resume(TENANT, "a", b'"first"') == ("queued", "interrupted")
    record = await queue.record("a")
    assert (record["round"], record["status"]) == ("2", "interrupted")
    assert await queue.store.resume(TENANT, "a", b'"second"') == ("queued", "queued")
    assert (await queue.take()).answer == b'"second"'


async def test_an_answer_to_a_round_that_is_over_is_refused(queue: JobQueue) -> None:
    await queue.submit("a")
    await queue.finish("w1", await queue.take(), "interrupted")
    assert await queue.store.resume(TENANT, "a", b"1", round_=1) == ("queued", "queued")
    await queue.finish("w1", await queue.take(), "interrupted")
    assert await queue.store.resume(TENANT, "a", b"1", round_=1) == ("refused", "interrupted")
    assert await queue.store.resume(TENANT, "a", b"1", round_=2) == ("queued", "queued")
