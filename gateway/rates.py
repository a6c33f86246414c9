"""How many requests a minute each API key may send, over all processes: the others are answered 429.

A window of a minute begins with a key's first request. Redis hands out its requests in parts of a hundredth of what is
left, and each process spends its part by itself: a small limit is kept request by request, and a large one costs few
questions. What a process has not spent when the window ends is forgotten.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import NamedTuple

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.auth import OPEN_PATHS, Caller
from gateway.errors import Problem, store_problem
from gateway.limits import answered_in_time
from gateway.tenants import Tenants
from shared.metrics import REQUESTS_LIMITED
from shared.records import API
from shared.store import RateStore, StoreError
from shared.store.rates import WINDOW_SECONDS

MAX_WINDOWS = 10_000  # kept by one process, before those that have ended are dropped


class Standing(NamedTuple):
    """How it stands with somebody's window after a request: `left` is what may still be sent, at most."""

    admitted: bool
    left: int
    seconds: int


class _Window:
    """One window as this process knows it."""

    __slots__ = ("asking", "ends_at", "left", "limit", "tokens", "waiting")

    def __init__(self) -> None:
        self.limit = 0
        self.tokens = 0  # this process may spend them
        self.left = 0  # in Redis, after that
        self.ends_at = -math.inf
        self.waiting = 0
        self.asking: asyncio.Task[None] | None = None


class Rates:
    """The windows of all who sent requests to this process. `clock` gives seconds; only tests set it."""

    def __init__(self, store: RateStore, clock: Callable[[], float] = time.monotonic) -> None:
        self.store = store
        self.clock = clock
        self._windows: dict[str, _Window] = {}

    def at_once(self, who: str, limit: int) -> Standing | None:
        """Count one request of `who`, where this process knows enough; else None."""
        window = self._windows.get(who)
        if window is None or window.limit != limit:
            return None
        remaining = window.ends_at - self.clock()
        if remaining <= 0:
            return None
        if window.tokens:
            window.tokens -= 1
            return Standing(True, window.tokens + window.left, math.ceil(remaining))
        return None if window.left else Standing(False, 0, math.ceil(remaining))

    async def take(self, who: str, limit: int) -> Standing:
        """Count one request of `who`. All that wait for Redis share one question. Raises `StoreError`s."""
        while (standing := self.at_once(who, limit)) is None:
            window = self._window(who)
            window.waiting += 1
            try:
                if window.asking is None:
                    window.asking = asyncio.create_task(self._ask(who, window, limit))
                    window.asking.add_done_callback(_heard)
                await asyncio.shield(window.asking)
            finally:
                window.waiting -= 1
        return standing

    async def _ask(self, who: str, window: _Window, limit: int) -> None:
        try:
            async with answered_in_time():
                sent_at = self.clock()  # not when it is answered: what ends too early is never spent too late
                share = await self.store.take(who, limit, window.waiting)
        finally:
            window.asking = None
        window.limit, window.tokens, window.left = limit, share.given, share.left
        window.ends_at = sent_at + share.seconds

    def _window(self, who: str) -> _Window:
        if who not in self._windows and len(self._windows) >= MAX_WINDOWS:
            now = self.clock()
            self._windows = {name: one for name, one in self._windows.items() if one.ends_at > now or one.waiting}
        return self._windows.setdefault(who, _Window())


class RateLimit:
    """Counts the requests of each key, and answers 429 to those beyond its limit, before their bodies are read.

    `limit` is a minute's, for tenants that have none of their own; 0 is none.
    """

    def __init__(self, app: ASGIApp, limit: int, rates: Rates, tenants: Tenants) -> None:
        self.app = app
        self.limit = limit
        self.rates = rates
        self.tenants = tenants

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS:
            return await self.app(scope, receive, send)
        caller: Caller = scope["state"]["caller"]
        own = self.tenants.limits(caller.tenant).requests_per_minute
        limit = self.limit if own is None else own
        if not limit:
            return await self.app(scope, receive, send)
        who = caller.key_id or caller.tenant
        try:
            standing = self.rates.at_once(who, limit) or await self.rates.take(who, limit)
        except StoreError as error:
            if scope["path"].startswith(f"{API}/"):
                return await store_problem(error).response()(scope, receive, send)
            return await self.app(scope, receive, send)  # the page and the metrics need no store
        headers = [
            (b"ratelimit-policy", b'"minute";q=%d;w=%d' % (limit, WINDOW_SECONDS)),
            (b"ratelimit", b'"minute";r=%d;t=%d' % (standing.left, standing.seconds)),
        ]

        async def send_with_standing(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *headers]
            await send(message)

        if standing.admitted:
            return await self.app(scope, receive, send_with_standing)
        REQUESTS_LIMITED.inc()
        return await _refusal(limit, standing.seconds).response()(scope, receive, send_with_standing)


def _refusal(limit: int, seconds: int) -> Problem:
    detail = f"This API key may send {limit} requests a minute. Try again in {seconds} s."
    return Problem("rate_limited", detail, headers={"Retry-After": str(seconds)})


def _heard(asking: asyncio.Task[None]) -> None:
    """Nobody may be left to hear why it failed."""
    if not asking.cancelled():
        asking.exception()
