"""Who calls, under which host name, and what he may do: decided before anything else looks at a request.

A key comes as `Authorization: Bearer …` (RFC 6750) or `X-Api-Key`. Without AUTH_REQUIRED everyone is the tenant
`default` and may do all, and a credential that is presented anyway is ignored.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import structlog
from fastapi import Depends, Request
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.errors import Problem, store_problem
from gateway.failures import Failures
from gateway.keyring import KeyRing
from shared.api_keys import SCOPES, ApiKey
from shared.api_keys import Scope as KeyScope
from shared.records import API
from shared.store import StoreUnavailable

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9_-]+(?:\.[a-z0-9_-]+)*)\.?(?::[0-9]*)?")
# Probes come without a credential, and by address instead of name.
OPEN_PATHS = frozenset({f"{API}/health", f"{API}/health/live", f"{API}/health/ready"})
DOCS_PATHS = ("/docs", "/openapi.json")
ASSETS = "/static/"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request. All that a request reads or changes belongs to this tenant.

    `key_id` is the key's, empty where none is needed.
    """

    tenant: str
    scopes: frozenset[str] = frozenset()
    key_id: str = ""


ANYONE = Caller("default", frozenset(SCOPES))
A_READER_OF_THE_DOCS = Caller("default")


class Gate:
    """Lets a request in, with its `Caller` in the request's state, or answers 400, 401, 429 or 503."""

    def __init__(
        self, app: ASGIApp, auth_required: bool, allowed_hosts: Sequence[str], keys: KeyRing, docs_public: bool = False
    ) -> None:
        self.app = app
        self.docs_public = docs_public
        self.auth_required = auth_required
        self.allowed_hosts = tuple(host.lower() for host in allowed_hosts)
        self.keys = keys
        self.failures = Failures()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                scope.setdefault("state", {})["caller"] = self._admit(scope)
            except Problem as problem:
                return await problem.response()(scope, receive, send)
        return await self.app(scope, receive, send)

    def _admit(self, scope: Scope) -> Caller:
        """Who sent this. Raises `Problem`."""
        if scope["path"] in OPEN_PATHS:
            return ANYONE
        if self.allowed_hosts and not any(_matches(_host(scope), allowed) for allowed in self.allowed_hosts):
            raise Problem("host_not_allowed", "This service does not go by this host name: use one from ALLOWED_HOSTS.")
        if not self.auth_required:
            return ANYONE
        if self.docs_public and (scope["path"] in DOCS_PATHS or scope["path"].startswith(ASSETS)):
            return A_READER_OF_THE_DOCS
        found = self._key(scope)
        structlog.contextvars.bind_contextvars(key=found.id, tenant=found.tenant)
        return Caller(found.tenant, frozenset(found.scopes), found.id)

    def _key(self, scope: Scope) -> ApiKey:
        text = _credential(scope)
        if text is None:
            raise _unauthorized("An API key is needed, as `Authorization: Bearer …` or `X-Api-Key`.")
        found = self.keys.find(text)
        if found is not None:
            return found
        if not self.keys.loaded:
            raise store_problem(StoreUnavailable("the API keys have not been read yet"))
        seconds = self.failures.note(scope["client"][0] if scope.get("client") else "")
        if seconds:
            detail = f"Too many wrong API keys came from this address. Try again in {seconds} s."
            raise Problem("too_many_failures", detail, headers={"Retry-After": str(seconds)})
        raise _unauthorized("This is no valid API key: it is unknown, was revoked, or has expired.")


def needs(scope: KeyScope) -> Callable[[Request], Awaitable[Caller]]:
    """A dependency that gives the caller, where his key has this scope. `scope` is its attribute."""

    async def allowed(request: Request) -> Caller:
        caller: Caller = request.scope["state"]["caller"]
        if scope not in caller.scopes:
            challenge = f'Bearer error="insufficient_scope", scope="{scope}"'
            detail = f"This API key does not have the scope {scope}."
            raise Problem("insufficient_scope", detail, headers={"WWW-Authenticate": challenge})
        return caller

    allowed.scope = scope  # type: ignore[attr-defined]
    return allowed


Reader = Annotated[Caller, Depends(needs("jobs:read"))]
"""A route's parameter: who sent the request, and may read what is his."""

Writer = Annotated[Caller, Depends(needs("jobs:write"))]
"""A route's parameter: who sent the request, and may change what is his."""

Operator = Annotated[Caller, Depends(needs("ops"))]
"""A route's parameter: who sent the request, and runs this service: what he sees is of all tenants."""


def scope_of(route: object) -> KeyScope | None:
    """The scope that a route needs; None where it needs none."""
    if not isinstance(route, APIRoute):
        return None
    needed = [getattr(dependency.call, "scope", None) for dependency in route.dependant.dependencies]
    return next((scope for scope in needed if scope is not None), None)


def _unauthorized(detail: str) -> Problem:
    return Problem("unauthorized", detail, headers={"WWW-Authenticate": "Bearer"})


def _credential(scope: Scope) -> str | None:
    """The key that the request brings, whatever it is; None where it brings none."""
    other: str | None = None
    name: bytes
    value: bytes
    for name, value in scope["headers"]:
        if name == b"authorization":
            scheme, _, text = value.decode("latin-1").partition(" ")
            if scheme.lower() == "bearer":
                return text.strip()
        elif name == b"x-api-key":
            other = value.decode("latin-1").strip()
    return other


def _host(scope: Scope) -> str:
    """The host name that the request gives, without its port; empty where it gives none, or two."""
    values = [value for name, value in scope["headers"] if name == b"host"]
    match = _HOST.fullmatch(values[0].decode("latin-1").lower()) if len(values) == 1 else None
    return match[1] if match else ""


def _matches(host: str, allowed: str) -> bool:
    if allowed.startswith("*."):
        return host.endswith(allowed[1:])
    return allowed in ("*", host)
