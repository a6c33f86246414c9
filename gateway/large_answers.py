"""Outputs that are large: of all that are read at once, a process holds no more than of bodies that come in.

What has been handed to the connection no longer counts here: answers that nobody reads are bounded together, in
`gateway/connections.py`.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

import orjson
from fastapi import Request, Response
from starlette.types import Receive, Scope, Send

from gateway.limits import ANSWERING, UNTIL_ANSWERED
from gateway.overload import ByteBudget

SMALL_OUTPUT_BYTES = 65_536


async def room_to_read(request: Request, size: int) -> AsyncExitStack:
    """Wait until so many bytes may be read; closing what is given, or the end of the request, gives them back.

    Raises `Problem` where there is no room for long.
    """
    state = request.scope.get("state", {})
    budget: ByteBudget | None = state.get(ANSWERING)
    held = AsyncExitStack()
    if budget is not None:
        await state[UNTIL_ANSWERED].enter_async_context(held)
        await held.enter_async_context(budget.share(size))
    return held


class LargeAnswer(Response):
    """A JSON answer that gives its room back once it is handed to the connection."""

    media_type = "application/json"

    def __init__(self, document: Any, held: AsyncExitStack) -> None:
        super().__init__(orjson.dumps(document))
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        body, self.body = self.body, b""
        await self._held.aclose()
        await send({"type": "http.response.body", "body": body})
