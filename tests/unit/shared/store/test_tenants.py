"""Tenants: another one sees and touches nothing."""

from __future__ import annotations

from shared.store import Filter, list_jobs
from shared.store.keys import ref
from tests.job_queue import GRAPH, TENANT, WEBHOOK, JobQueue

OTHER = "other"


async def test_another_tenant_sees_and_touches_no_job(queue: JobQueue) -> None:
    await queue.submit("a", thread_id="t")
    before = await queue.record("a")
    assert await queue.store.get(OTHER, "a") is None
    assert await queue.store.statuses([ref(OTHER, "a")]) == {"other:a": None}
    assert await queue.store.cancel(OTHER, "a") == ("missing", "", "")
    assert await queue.store.retry(OTHER, "a") == ("missing", "")
    assert await queue.store.erase(OTHER, "a") == ("missing", "")
    for wanted in (Filter(), Filter(graphs=[GRAPH]), Filter(statuses=["queued"]), Filter(thread_id="t")):
        assert await list_jobs(queue.redis, OTHER, wanted, limit=10) == ([], None)
        assert len((await list_jobs(queue.redis, TENANT, wanted, limit=10))[0]) == 1
    assert await queue.record("a") == before


async def test_nor_an_ended_job_and_its_deliveries(queue: JobQueue) -> None:
    await queue.submit("a", fields=WEBHOOK)
    await queue.finish("w1", await queue.take(), "failed")
    assert await queue.store.erase(OTHER, "a") == ("missing", "")
    assert await queue.store.retry(OTHER, "a") == ("missing", "")
    assert await queue.log.of_job(OTHER, "a") == []
    assert await queue.log.redeliver(OTHER, "a_1_failed") == "missing"
    assert await queue.log.redeliver(TENANT, "a_1_failed") == "queued"


async def test_two_tenants_may_use_the_same_ids_and_threads(queue: JobQueue) -> None:
    await queue.submit("a", thread_id="t")
    await queue.submit("a", tenant=OTHER, thread_id="t")
    first, second = (await queue.claim()).jobs
    assert {first.tenant, second.tenant} == {TENANT, OTHER}
    await queue.finish("w1", first, output=b"1")
    assert await queue.status("a", second.tenant) == "running"
    assert await queue.store.erase(first.tenant, "a") == ("erased", "succeeded")
    assert await queue.finish("w1", second) == "done"
