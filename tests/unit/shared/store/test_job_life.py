"""The life of jobs, driven at random: no step leaves one in limbo, ends it twice, or lets a stale attempt write."""

from __future__ import annotations

from collections.abc import Callable

from redis import Redis as SyncRedis
from redis.asyncio import Redis

from tests.job_life import JobLife
from tests.job_life.trials import try_out


def test_whatever_happens_each_round_ends_once_and_nothing_is_in_limbo(
    empty_server: Callable[[], tuple[Redis, SyncRedis]],
) -> None:
    try_out(lambda: JobLife(empty_server))
