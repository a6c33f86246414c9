"""A Valkey in memory: fakeredis, but for its COPY, which leaves two keys with one value, so that both change as one."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import fakeredis
from fakeredis.commands_mixins.generic_mixin import GenericCommandsMixin
from fakeredis.model import Hash, ZSet
from redis import Redis

_alias: Callable[..., int] = GenericCommandsMixin.copy


def _copy(self: GenericCommandsMixin, source: Any, target: Any, *options: bytes) -> int:
    copied = _alias(self, source, target, *options)
    if copied:
        target.value = deepcopy(source.value)
    return copied


def fake_server() -> fakeredis.FakeServer:
    """An empty server."""
    GenericCommandsMixin.copy = _copy  # type: ignore[method-assign]
    return fakeredis.FakeServer(server_type="valkey")


def values_in_memory(redis: Redis) -> dict[str, Any] | None:
    """All values, as commands would give them, where the server is such a one: a hundred times faster than commands."""
    server = redis.connection_pool.connection_kwargs.get("server")
    if not isinstance(server, fakeredis.FakeServer):
        return None
    return {name.decode(): _plain(item.value) for name, item in sorted(server.dbs[0].items())}


def _plain(value: Any) -> Any:
    if isinstance(value, Hash):
        return value.getall()
    if isinstance(value, ZSet):
        return list(value.items())
    return value
