"""A Redis where a worker has published a graph that takes anything."""

from __future__ import annotations

import orjson
import pytest
import redis

from shared.store.keys import key

GRAPH = orjson.dumps({"id": "echo", "input_schema": None, "context_schema": None})


def publish_echo(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.hset(key("catalogue"), "echo", GRAPH)


@pytest.fixture
def redis_url(valkey_url: str) -> str:
    """Its address."""
    publish_echo(valkey_url)
    return valkey_url
