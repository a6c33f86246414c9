"""What a gateway process does when it is asked for more than it can hold: make it wait a little, then say so."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.auth import OPEN_PATHS
from gateway.errors import Problem

PATIENCE_SECONDS = 10.0
RETRY_AFTER_SECONDS = 2
SURPLUS = "surplus"  # in the state of a request: its connection is one too many


class ByteBudget:
    """So many bytes for all who need some at once; first come, first served. Lives on one event loop."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.free = size
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def share(self, size: int) -> AsyncIterator[None]:
        """Have `size` of the bytes, or all where it is more. Raises `Problem` where none come free for long."""
        size = min(size, self.size)
        await self._take(size)
        try:
            yield
        finally:
            self._give(size)

    async def _take(self, size: int) -> None:
        if not self._waiting and size <= self.free:
            self.free -= size
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((size, turn))
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                self._give(size)  # it came too late
            else:
                with suppress(ValueError):
                    self._waiting.remove((size, turn))
                self._give(0)
            if isinstance(error, TimeoutError):
                raise overloaded("Too many large requests and answers are under way just now.") from None
            raise

    def _give(self, size: int) -> None:
        self.free += size
        while self._waiting and self._waiting[0][0] <= self.free:
            taken, turn = self._waiting.popleft()
            if not turn.done():
                self.free -= taken
                turn.set_result(None)


class TurnAway:
    """Answers 503 to the requests of connections beyond the limit, but for those about health."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope.get("state", {}).get(SURPLUS):
            return await self.app(scope, receive, send)
        if scope["path"] not in OPEN_PATHS:
            problem = overloaded("This process has as many connections as it may have (MAX_CONNECTIONS).")
            return await problem.response()(scope, receive, send)

        async def send_last(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"connection", b"close")]
            await send(message)

        return await self.app(scope, receive, send_last)


def overloaded(detail: str) -> Problem:
    """503 for a request that there is no room for. The connection is not used again."""
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS), "Connection": "close"}
    return Problem("overloaded", f"{detail} Try again soon.", headers=headers)
