"""Lists: all pages of any filter, in order, without a gap or a repetition."""

from __future__ import annotations

import contextlib
from base64 import urlsafe_b64encode
from dataclasses import dataclass, replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from shared.store import BadCursor, Filter, list_jobs, paging
from shared.store.keys import digest, key, ref
from shared.store.listing import STATUSES
from tests.job_queue import GRAPH, TENANT, JobQueue

START_MS = 1_800_000_000_000
GRAPHS = ["x", "y", "z"]
THREADS = ["t", "u"]
CODES = ["timeout", "graph_error"]


@dataclass(frozen=True)
class Listed:
    """A job as the store and the model have it."""

    id: str
    created_at: int
    status: str
    graph: str
    thread: str | None
    error: str | None = None


@st.composite
def job_sets(draw: st.DrawFn) -> list[Listed]:
    """Up to 40 jobs, many of them in the same few milliseconds; their ids follow no order."""
    ids = draw(st.lists(st.text("abc019-", min_size=1, max_size=6), max_size=40, unique=True))
    created = st.integers(0, draw(st.sampled_from([0, 2, 1000]))).map(lambda tick: START_MS + tick)
    jobs = st.builds(
        Listed,
        id=st.just(""),
        created_at=created,
        status=st.sampled_from(STATUSES),
        graph=st.sampled_from(GRAPHS),
        thread=st.sampled_from([None, *THREADS]),
        error=st.sampled_from([None, *CODES]),
    )
    return [replace(draw(jobs), id=job_id) for job_id in ids]


FILTERS = st.builds(
    Filter,
    statuses=st.just([]) | st.lists(st.sampled_from(STATUSES), max_size=4),
    graphs=st.just([]) | st.lists(st.sampled_from([*GRAPHS, "never seen"]), max_size=3),
    thread_id=st.none() | st.sampled_from([*THREADS, "never seen"]),
    error_codes=st.just([]) | st.lists(st.sampled_from([*CODES, "never seen"]), max_size=2),
    created_after_ms=st.none() | st.integers(-1, 3).map(START_MS.__add__) | st.integers(START_MS - 1, START_MS + 1000),
    created_before_ms=st.none() | st.integers(0, 3).map(START_MS.__add__) | st.integers(START_MS - 1, START_MS + 1001),
)


async def store(redis: Redis, jobs: list[Listed]) -> None:
    """Put jobs into an empty store as the transitions leave them; the audit of the other tests holds them to it."""
    pipeline = redis.pipeline(transaction=False)
    pipeline.flushall()
    for job in jobs:
        record = {"status": job.status, "graph": job.graph, "created_at": str(job.created_at)}
        if job.error:
            record["error"] = f'{{"type":"E","code":"{job.error}"}}'
        pipeline.hset(key("job", ref(TENANT, job.id)), mapping=record)
        pipeline.zadd(key("index", TENANT, job.graph, job.status), {job.id: job.created_at})
        pipeline.sadd(key("graphs", TENANT), job.graph)
        if job.thread:
            pipeline.zadd(key("index_thread", TENANT, digest(job.thread)), {job.id: job.created_at})
    await pipeline.execute()


def matches(job: Listed, wanted: Filter) -> bool:
    return (
        (not wanted.statuses or job.status in wanted.statuses)
        and (not wanted.graphs or job.graph in wanted.graphs)
        and (wanted.thread_id is None or job.thread == wanted.thread_id)
        and (not wanted.error_codes or job.error in wanted.error_codes)
        and (wanted.created_after_ms is None or job.created_at > wanted.created_after_ms)
        and (wanted.created_before_ms is None or job.created_at < wanted.created_before_ms)
    )


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    jobs=job_sets(),
    wanted=FILTERS,
    limit=st.sampled_from([1, 2, 3, 7, 50]),
    oldest_first=st.booleans(),
    fields=st.sampled_from([(), (b"graph", b"status", b"error")]),
)
async def test_the_pages_are_the_filtered_jobs_in_order(
    redis: Redis, jobs: list[Listed], wanted: Filter, limit: int, oldest_first: bool, fields: tuple[bytes, ...]
) -> None:
    await store(redis, jobs)
    expected = sorted((job for job in jobs if matches(job, wanted)), key=lambda job: (job.created_at, job.id))
    expected = expected if oldest_first else expected[::-1]
    pages, cursor = [], None
    while True:
        page, cursor = await list_jobs(
            redis, TENANT, wanted, limit=limit, cursor=cursor, oldest_first=oldest_first, fields=fields
        )
        assert all(job.record.keys() <= set(fields) for job in page if fields)
        pages.append([job.id for job in page])
        if cursor is None:
            break
    assert [job_id for page in pages for job_id in page] == [job.id for job in expected]
    assert all(len(page) == limit for page in pages[:-1])
    assert pages[-1] or not expected, "no empty last page"


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(jobs=job_sets(), wanted=FILTERS, limit=st.sampled_from([1, 2, 7]), oldest_first=st.booleans())
async def test_no_call_examines_many_jobs_and_the_pages_are_the_same(
    redis: Redis, jobs: list[Listed], wanted: Filter, limit: int, oldest_first: bool
) -> None:
    await store(redis, jobs)
    expected = sorted((job for job in jobs if matches(job, wanted)), key=lambda job: (job.created_at, job.id))
    found, cursor, calls = [], None, 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paging, "MAX_EXAMINED", 3)
        patch.setattr(paging, "STRIDE", 2)
        while True:
            page, cursor = await list_jobs(redis, TENANT, wanted, limit=limit, cursor=cursor, oldest_first=oldest_first)
            found += [job.id for job in page]
            calls += 1
            assert calls <= len(jobs) + 1
            if cursor is None:
                break
    assert found == [job.id for job in (expected if oldest_first else expected[::-1])]


async def test_a_list_of_which_nothing_matches_ends_its_call_early(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store(redis, [Listed(f"{number:03}", START_MS + number, "failed", "x", None) for number in range(100)])
    monkeypatch.setattr(paging, "MAX_EXAMINED", 30)
    monkeypatch.setattr(paging, "STRIDE", 10)
    page, cursor = await list_jobs(redis, TENANT, Filter(error_codes=["timeout"]), limit=5)
    assert page == []
    assert cursor == encoded(f"{START_MS + 64}:064")  # 6, then 10 three times


async def test_a_cursor_of_another_filter_shows_nothing_that_the_filter_excludes(redis: Redis) -> None:
    await store(redis, [Listed(job_id, START_MS, "queued", "x", None) for job_id in "abc"])
    for oldest_first in (False, True):
        _, cursor = await list_jobs(redis, TENANT, Filter(), limit=1, oldest_first=oldest_first)
        for wanted in (Filter(created_after_ms=START_MS), Filter(created_before_ms=START_MS)):
            page = await list_jobs(redis, TENANT, wanted, limit=9, cursor=cursor, oldest_first=oldest_first)
            assert page == ([], None)


async def test_jobs_that_come_while_a_list_is_read_do_not_shift_its_pages(queue: JobQueue) -> None:
    for job_id in "abcd":
        await queue.submit(job_id)
    first, cursor = await list_jobs(queue.redis, TENANT, Filter(), limit=2)
    await queue.submit("e")
    await queue.finish("w1", (await queue.claim(limit=1)).jobs[0])
    second, end = await list_jobs(queue.redis, TENANT, Filter(), limit=2, cursor=cursor)
    assert [[job.id for job in page] for page in (first, second)] == [["d", "c"], ["b", "a"]]
    assert end is None


async def test_a_list_shows_where_each_job_stands_now(queue: JobQueue) -> None:
    for job_id in "abc":
        await queue.submit(job_id)
    first, *_ = (await queue.claim(limit=2)).jobs
    await queue.finish("w1", first)
    jobs, _ = await list_jobs(queue.redis, TENANT, Filter(graphs=[GRAPH]), limit=10)
    assert [(job.id, job.status) for job in jobs] == [("c", "queued"), ("b", "running"), ("a", "succeeded")]
    assert all(job.output is None for job in jobs)


async def test_a_record_that_cannot_be_read_spoils_no_list(redis: Redis) -> None:
    await store(redis, [Listed(job_id, START_MS, "queued", "x", None) for job_id in "abc"])
    await redis.set(key("job", ref(TENANT, "a")), "garbage")
    await redis.hdel(key("job", ref(TENANT, "b")), "status")
    jobs, _ = await list_jobs(redis, TENANT, Filter(), limit=10)
    assert [job.id for job in jobs] == ["c"]


def encoded(text: str) -> str:
    return urlsafe_b64encode(text.encode()).decode().rstrip("=")


GOOD_CURSOR = encoded(f"{START_MS}:a")
NO_BASE64 = [
    "x",
    "!",
    "*" * 8,
    "é",
    "a" * 5,
    "\x00",
    "_" * 9,
    GOOD_CURSOR + "=",
    GOOD_CURSOR[:-1] + "\n",
    " " + GOOD_CURSOR,
]
NO_POSITION = [
    "no number:a",
    "1",
    "-1:a",
    ":a",
    "1:",
    " 1:a",
    "1_0:a",
    "01:a",
    "1e3:a",
    f"{2**53}:a",
    "9" * 5000 + ":a",
]
BAD_CURSORS = [*NO_BASE64, *map(encoded, NO_POSITION)]


@pytest.mark.parametrize("cursor", BAD_CURSORS)
async def test_a_cursor_that_no_list_gave_is_refused(redis: Redis, cursor: str) -> None:
    with pytest.raises(BadCursor):
        await list_jobs(redis, TENANT, Filter(), limit=10, cursor=cursor)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cursor=st.text(min_size=1, max_size=40) | st.text(max_size=40).map(encoded))
async def test_whatever_a_client_sends_as_a_cursor_is_read_or_refused(redis: Redis, cursor: str) -> None:
    with contextlib.suppress(BadCursor):
        assert await list_jobs(redis, TENANT, Filter(), limit=1, cursor=cursor) == ([], None)


async def test_a_cursor_that_a_list_gives_is_accepted(redis: Redis) -> None:
    assert await list_jobs(redis, TENANT, Filter(), limit=10, cursor=GOOD_CURSOR) == ([], None)
