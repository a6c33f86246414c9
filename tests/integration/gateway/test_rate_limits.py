"""One rate limit over several real gateways of several processes: never a request more, and next to none lost."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

import aiohttp
import pytest

from tests.servers import Gateway, Processes, fetch

SENDING_SECONDS = 45  # within one window, however slow the machine is
CONNECTIONS = 24  # spread over the processes of a gateway by the system


def start(processes: Processes, redis_url: str, limit: int) -> list[Gateway]:
    started = [
        processes.gateway(redis_url, GATEWAY_WORKERS="2", RATE_LIMIT_PER_MINUTE=str(limit), LOG_LEVEL="WARNING")
        for _ in range(2)
    ]
    return [gateway.ready() for gateway in started]


async def send(gateways: list[Gateway], count: int) -> tuple[Counter[int], list[tuple[str, str, str]]]:
    """So many requests, as fast as they are answered. Gives the statuses, and the fields of those refused."""
    left, until = iter(range(count)), time.monotonic() + SENDING_SECONDS
    statuses: Counter[int] = Counter()
    refused: list[tuple[str, str, str]] = []

    async def client(place: int) -> None:
        connector = aiohttp.TCPConnector(limit=1)
        async with aiohttp.ClientSession(connector=connector, trust_env=False) as session:
            for _ in left:
                if time.monotonic() > until:
                    break
                async with session.get(f"{gateways[place % 2].api}/graphs/none") as answer:
                    statuses[answer.status] += 1
                    fields = answer.headers
                    if answer.status == 429:
                        refused.append((fields["Retry-After"], fields["RateLimit"], fields["RateLimit-Policy"]))

    await asyncio.gather(*(client(place) for place in range(CONNECTIONS)))
    return statuses, refused


def test_of_three_times_a_small_limit_exactly_the_limit_is_admitted(processes: Processes, redis_url: str) -> None:
    gateways = start(processes, redis_url, 60)
    statuses, refused = asyncio.run(send(gateways, 180))
    assert statuses == {404: 60, 429: 120}
    for retry_after, limit, policy in refused:
        assert limit == f'"minute";r=0;t={retry_after}'
        assert 1 <= int(retry_after) <= 60
        assert policy == '"minute";q=60;w=60'
    counted = fetch(f"{gateways[0].url}/docs")
    assert counted[0] == 429, "all clients are one where no keys are needed"


@pytest.mark.parametrize("limit", [3000])
def test_of_a_large_limit_never_more_is_admitted_and_nearly_all(
    processes: Processes, redis_url: str, limit: int
) -> None:
    gateways = start(processes, redis_url, limit)
    statuses, _ = asyncio.run(send(gateways, 3 * limit))
    assert set(statuses) == {404, 429}
    assert statuses.total() > 1.2 * limit, "too slow to tell"
    assert 0.95 * limit <= statuses[404] <= limit
