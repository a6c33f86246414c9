"""The life of jobs, driven at random: no step leaves one in limbo, ends it twice, or lets a stale attempt write."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test
from redis import Redis as SyncRedis
from redis.asyncio import Redis

from tests.job_life import JobLife

FEW = settings(max_examples=100, stateful_step_count=40, deadline=None)


def test_whatever_happens_each_round_ends_once_and_nothing_is_in_limbo(
    empty_server: Callable[[], tuple[Redis, SyncRedis]],
) -> None:
    run_state_machine_as_test(lambda: JobLife(empty_server), settings=FEW)
