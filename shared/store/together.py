"""Script calls that coincide go out in one round trip: those of one turn of the event loop, and those that came since.

A worker's jobs, and a gateway's requests, each wait for a call of their own. Sent one by one they cost the client, the
network and the server's disk as often; together they share it, and wait for no more than what is under way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextvars import Context
from typing import Any

from redis.asyncio import Redis

from shared.store.connection import Argument, run_many
from shared.store.scripts import Script

LINES = 2  # round trips under way for each script: a connection that hangs holds up only those that it was asked for
Call = tuple[list[Argument], asyncio.Future[Any]]


class CallsTogether:
    """Runs scripts as `run` does, for many callers at once."""

    def __init__(self, redis: Redis, *, replicas: int) -> None:
        self.redis = redis
        self.replicas = replicas
        self._waiting: dict[Script, list[Call]] = {}
        self._sending: dict[Script, set[asyncio.Task[None]]] = {}

    async def run(self, script: Script, *args: Argument) -> Any:
        """Run a script. Raises what `run` raises. Where the caller is cancelled, the script may run all the same."""
        loop = asyncio.get_running_loop()
        answer = loop.create_future()
        waiting = self._waiting.setdefault(script, [])
        waiting.append((list(args), answer))
        sending = self._sending.setdefault(script, set())
        if len(waiting) == 1 and len(sending) < LINES:
            # Its calls are those of many: it belongs to none of them.
            sending.add(loop.create_task(self._send(script, sending), context=Context()))
        return await answer

    async def _send(self, script: Script, sending: set[asyncio.Task[None]]) -> None:
        try:
            while waiting := self._waiting.pop(script, None):
                calls = [call for call in waiting if not call[1].done()]
                for (_, answer), outcome in zip(calls, await self._outcomes(script, calls), strict=True):
                    if answer.done():  # its caller has gone
                        continue
                    if isinstance(outcome, Exception):
                        answer.set_exception(_another(outcome))
                    else:
                        answer.set_result(outcome)
        finally:
            sending.remove(asyncio.current_task())  # type: ignore[arg-type]  # at once: the next call starts another

    async def _outcomes(self, script: Script, calls: Sequence[Call]) -> Sequence[Any]:
        try:
            return await run_many(self.redis, script, [args for args, _ in calls], replicas=self.replicas)
        except Exception as error:
            return [_another(error) for _ in calls]


def _another(error: Exception) -> Exception:
    """The same for each caller: one exception that is raised in several places gathers all their tracebacks."""
    another = type(error)(*error.args)
    another.__cause__ = error.__cause__
    return another
