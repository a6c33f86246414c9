"""Outputs that are large: of all that are read at once, a process holds no more than of bodies that come in.

An answer counts until its client has read it, but for no more than two seconds: those who read slowly must not keep
others waiting, and what nobody reads is bounded in `gateway/connections.py`.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import orjson
from fastapi import Request, Response
from starlette.types import Receive, Scope, Send

from gateway.limits import ANSWERING, UNTIL_ANSWERED
from gateway.overload import ByteBudget

SMALL_OUTPUT_BYTES = 65_536
READ_SECONDS = 2.0


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
    """A JSON answer that gives its room back once it is read, or could have been."""

    media_type = "application/json"

    def __init__(self, document: Any, held: AsyncExitStack) -> None:
        super().__init__(orjson.dumps(document))
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        sending = asyncio.ensure_future(send({"type": "http.response.body", "body": self.body}))
        self.body = b""
        try:
            await asyncio.wait([sending], timeout=READ_SECONDS)
            await self._held.aclose()
            await sending
        finally:
            sending.cancel()
