"""The life of deliveries, driven at random: none is lost, sent by two at once, or waits for ever."""

from __future__ import annotations

from collections.abc import Callable

from redis import Redis as SyncRedis
from redis.asyncio import Redis

from tests.delivery_life import STEPS, DeliveryLife
from tests.job_life.trials import try_out


def test_whatever_happens_each_delivery_is_in_one_place_and_comes_through_in_the_end(
    empty_server: Callable[[], tuple[Redis, SyncRedis]],
) -> None:
    try_out(lambda: DeliveryLife(empty_server), steps=STEPS)
