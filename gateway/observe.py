"""What every request gets, whatever becomes of it: an id, a count, a time, the headers that keep browsers safe, and an
answer even where our code fails.
"""

from __future__ import annotations

import random
import signal
import time

import structlog
import uuid_utils
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.answer_headers import with_security
from gateway.errors import internal_problem
from gateway.proxies import REQUEST_ID
from shared.metrics import HTTP_REQUEST_SECONDS, HTTP_REQUESTS

logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
UNMATCHED = "unmatched"


class Observe:
    """The outermost layer, but for what trusted proxies say (`gateway/proxies.py`).

    With `recycle_after` > 0 the process stops itself gracefully after so many requests, for its parent or supervisor to
    start another; up to a tenth later, so that processes that were started together do not stop together.
    """

    def __init__(self, app: ASGIApp, recycle_after: int = 0) -> None:
        self.app = app
        self.answered = 0
        self.recycle_at = recycle_after + random.randint(0, recycle_after // 10)  # noqa: S311 - spreads load

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        scope.setdefault("state", {})  # one for all layers
        request_id = scope["state"].get(REQUEST_ID) or uuid_utils.uuid7().hex
        structlog.contextvars.bind_contextvars(request_id=request_id)
        # What takes GET takes HEAD (RFC 9110, 9.3.2); the server leaves the body out, for it keeps the first scope.
        inner = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope
        id_header = (b"x-request-id", request_id.encode())
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*with_security(inner, message["headers"]), id_header]
            await send(message)

        started = time.perf_counter()
        try:
            await self.app(inner, receive, send_with_id)
        except Exception:
            logger.exception("a request failed", path=scope["path"])
            if status:  # half an answer is out: the server has to break the connection
                raise
            await internal_problem().response()(inner, receive, send_with_id)
        finally:
            self._count(scope["method"], inner, status, time.perf_counter() - started)

    def _count(self, method: str, scope: Scope, status: int, seconds: float) -> None:
        # The route's template, never the path: clients choose paths, and each label value is kept for good.
        route = getattr(scope.get("route"), "path", UNMATCHED)
        HTTP_REQUESTS.labels(method if method in METHODS else "OTHER", route, status or "none").inc()
        HTTP_REQUEST_SECONDS.labels(route).observe(seconds)
        self.answered += 1
        if self.answered == self.recycle_at:
            logger.info("stopping to be started anew", requests=self.answered)
            signal.raise_signal(signal.SIGTERM)
