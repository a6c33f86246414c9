"""A Valkey in memory: fakeredis, with what it gets wrong put right, and its scripts run faster."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import fakeredis
from fakeredis.commands_mixins import scripting_mixin
from fakeredis.commands_mixins.generic_mixin import GenericCommandsMixin
from fakeredis.commands_mixins.scripting_mixin import ScriptingCommandsMixin
from fakeredis.model import Hash, ZSet
from redis import Redis

_alias: Callable[..., int] = GenericCommandsMixin.copy
_runtime_of: Callable[..., Any] = ScriptingCommandsMixin._get_server_runtime
# As in Valkey, and without a look at all globals at each command: a script may make no new ones.
_NO_NEW_GLOBALS = """
setmetatable(_G, {__newindex = function(_, name)
  error('Script attempted to set a global variable: ' .. tostring(name), 2)
end})
"""


def _copy(self: GenericCommandsMixin, source: Any, target: Any, *options: bytes) -> int:
    """Fakeredis leaves two keys with one value, so that both change as one."""
    copied = _alias(self, source, target, *options)
    if copied:
        target.value = deepcopy(source.value)
    return copied


class _Lua:
    """A server's Lua, which compiles each script once and collects its garbage when it likes."""

    def __init__(self, runtime: Any) -> None:
        self._runtime = runtime
        self._compiled: dict[bytes, Callable[[], Any]] = {}
        runtime.execute(_NO_NEW_GLOBALS)

    def execute(self, script: Any) -> Any:
        if script == "collectgarbage()":  # all of it, after each script
            return None
        if script not in self._compiled:
            self._compiled[script] = self._runtime.compile(script)
        return self._compiled[script]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runtime, name)


def _lua_of(self: ScriptingCommandsMixin, server: Any) -> _Lua:
    if not hasattr(server, "_compiling_lua"):
        server._compiling_lua = _Lua(_runtime_of(self, server))
    lua: _Lua = server._compiling_lua
    return lua


def fake_server() -> fakeredis.FakeServer:
    """An empty server."""
    GenericCommandsMixin.copy = _copy  # type: ignore[method-assign]
    ScriptingCommandsMixin._get_server_runtime = _lua_of  # type: ignore[method-assign]
    scripting_mixin._check_for_lua_globals = lambda *_: None  # type: ignore[assignment]
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
