"""Which web pages may call this service from a browser: none, but for those of CORS_ORIGINS.

Starlette's layer for this answers every preflight, also those of origins that are not listed, and refuses in plain
text. Credentials are headers that a page has to know and set, never cookies, so that no answer allows `credentials`,
and `*` gives a page no more than any other client has.
"""

from __future__ import annotations

from collections.abc import Sequence

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.answer_headers import CORS, Headers

ANY = "*"
_PREFLIGHT: Headers = [
    (b"access-control-allow-methods", b"DELETE, GET, PATCH, POST"),
    (
        b"access-control-allow-headers",
        b"Authorization, Content-Type, Idempotency-Key, Last-Event-ID, Prefer, Traceparent, X-Api-Key",
    ),
    (b"access-control-max-age", b"600"),
]
# Of an answer without `credentials` that is all headers: Location, Retry-After, and those of limits.
_EXPOSED = (b"access-control-expose-headers", b"*")
_VARY = (b"vary", b"Origin")


class Cors:
    """Answers preflights of the listed origins, and says on all other answers who may read them."""

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        self.app = app
        self.any_origin = ANY in origins
        self.origins = frozenset(origin.encode() for origin in origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        origins = [value for name, value in scope["headers"] if name == b"origin"]
        allowed = self._allowed(origins[0]) if len(origins) == 1 else None
        about: Headers = [] if self.any_origin else [_VARY]
        if allowed is not None:
            about.append((b"access-control-allow-origin", allowed))
            if _is_preflight(scope):
                await send({"type": "http.response.start", "status": 204, "headers": [*about, *_PREFLIGHT]})
                return await send({"type": "http.response.body", "body": b""})
            about.append(_EXPOSED)
        if about:
            scope.setdefault("state", {})[CORS] = about
        return await self.app(scope, receive, send)

    def _allowed(self, origin: bytes) -> bytes | None:
        if self.any_origin:
            return ANY.encode()
        return origin if origin in self.origins else None


def _is_preflight(scope: Scope) -> bool:
    return scope["method"] == "OPTIONS" and any(
        name == b"access-control-request-method" for name, _ in scope["headers"]
    )
