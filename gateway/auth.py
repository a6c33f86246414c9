"""Who calls, and under which host name: decided once, before anything else looks at a request.

Until API keys exist there is nobody to let in: with AUTH_REQUIRED all but the health routes answer 401. Without it
everyone is the tenant `default`, and a credential that is presented anyway is ignored.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.errors import Problem
from shared.records import API

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^:]*)(?::[0-9]*)?")
# Probes come without a credential, and by address instead of name.
OPEN_PATHS = frozenset({f"{API}/health", f"{API}/health/live", f"{API}/health/ready"})


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request. All that a request reads or changes belongs to this tenant."""

    tenant: str


class Gate:
    """Lets a request in, with its `Caller` in the request's state, or answers 400 or 401."""

    def __init__(self, app: ASGIApp, auth_required: bool, allowed_hosts: Sequence[str]) -> None:
        self.app = app
        self.auth_required = auth_required
        self.allowed_hosts = tuple(host.lower() for host in allowed_hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            problem = self._refusal(scope)
            if problem is not None:
                return await problem.response()(scope, receive, send)
            scope.setdefault("state", {})["caller"] = Caller("default")
        return await self.app(scope, receive, send)

    def _refusal(self, scope: Scope) -> Problem | None:
        if scope["path"] in OPEN_PATHS:
            return None
        if self.allowed_hosts and not any(_matches(_host(scope), allowed) for allowed in self.allowed_hosts):
            return Problem(
                "host_not_allowed", "This service does not go by this host name: use one from ALLOWED_HOSTS."
            )
        if self.auth_required:
            detail = "Authentication is required, and this service has no API keys yet."
            return Problem("unauthorized", detail, headers={"WWW-Authenticate": "Bearer"})
        return None


async def _caller(request: Request) -> Caller:
    found: Caller = request.scope["state"]["caller"]
    return found


CurrentCaller = Annotated[Caller, Depends(_caller)]
"""A route's parameter: who sent the request."""


def _host(scope: Scope) -> str:
    """The host name that the request gives, without its port; empty where it gives none."""
    value = next((value for name, value in scope["headers"] if name == b"host"), b"").decode("latin-1").lower()
    match = _HOST.fullmatch(value)
    return match[1] if match else ""


def _matches(host: str, allowed: str) -> bool:
    if allowed.startswith("*."):
        return host.endswith(allowed[1:])
    return allowed in ("*", host)
