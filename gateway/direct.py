"""A short way to the routes that carry the load: the framework's layers cost more than all that is done in them.

A route is declared as all others are, and its declaration is followed here for requests that are as they should be. All
others are handed to the framework, together with the body that was read, so that it is one voice that says what is
wrong.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl

from fastapi import Response
from fastapi._compat import ModelField
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import Problem, store_failure
from gateway.limits import SMALL_BODY_BYTES, JSONRequest, JSONRoute, answered_in_time
from shared.store import StoreError

_ID = re.compile(r"[0-9a-f]{32}")
_ONE_ID = re.compile(r"(.*)/\{(\w+)\}")


class Direct:
    """Answers the requests of these routes, where nothing about them is unusual; hands on all others.

    A route's path is a fixed one, or a fixed one with an id behind it.
    """

    def __init__(self, app: ASGIApp, routes: Sequence[APIRoute]) -> None:
        self.app = app
        self._fixed: dict[tuple[str, str], _DirectRoute] = {}
        self._with_id: dict[tuple[str, str], _DirectRoute] = {}
        for route in routes:
            direct = _DirectRoute(route)
            match = _ONE_ID.fullmatch(route.path)
            place = self._with_id if match else self._fixed
            place |= {(method, match[1] if match else route.path): direct for method in route.methods or ()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = self._find(scope) if scope["type"] == "http" else None
        if found is None:
            return await self.app(scope, receive, send)
        request = JSONRequest(scope, receive)
        try:
            response = await found.answer(request)
        except Problem as problem:
            response = problem.response()
        except StoreError as error:
            response = store_failure(error)
        if response is None:
            return await self.app(scope, _from_the_start(request), send)
        return await response(scope, receive, send)

    def _find(self, scope: Scope) -> _DirectRoute | None:
        method, path = scope["method"], scope["path"]
        found = self._fixed.get((method, path))
        if found is None:
            start, _, last = path.rpartition("/")
            found = self._with_id.get((method, start))
            if found is None or not _ID.fullmatch(last):
                return None
            scope["path_params"] = {found.path_parameter: last}
        scope["route"] = found.route
        return found


class _DirectRoute:
    """One route, and what its endpoint wants of a request. Raises `TypeError` for what is not provided for here."""

    def __init__(self, route: APIRoute) -> None:
        wanted = route.dependant
        if wanted.cookie_params or len(wanted.body_params) > 1 or wanted.path_params or wanted.call is None:
            raise TypeError(f"{route.path} cannot be reached directly")
        match = _ONE_ID.fullmatch(route.path)
        self.path_parameter = match[2] if match else ""
        self.route = route
        self._endpoint: Callable[..., Awaitable[Response]] = wanted.call
        self._request = wanted.request_param_name
        self._dependencies = [_Dependency(each) for each in wanted.dependencies]
        self._headers = _Parameters(wanted.header_params)
        self._query = _Parameters(wanted.query_params)
        self._body = wanted.body_params[0] if wanted.body_params else None
        self._in_time = isinstance(route, JSONRoute)

    async def answer(self, request: JSONRequest) -> Response | None:
        """The answer; None where the framework has to give it. Raises `Problem`s and `StoreError`s."""
        if self._body is not None and not 0 < len(await request.body()) <= SMALL_BODY_BYTES:
            return None
        if not self._in_time:
            return await self._call(request)
        async with answered_in_time():
            return await self._call(request)

    async def _call(self, request: JSONRequest) -> Response | None:
        arguments: dict[str, Any] = {}
        if self._body is not None:
            body, errors = self._body.validate(await request.json(), loc=("body",))
            if errors:
                return None
            arguments[self._body.name] = body
        for dependency in self._dependencies:
            arguments[dependency.name] = await dependency.value(request)
        scope = request.scope
        headers = self._headers.read(scope["headers"])
        query = self._query.read(_pairs(scope["query_string"]))
        if headers is None or query is None:
            return None
        if self._request is not None:
            arguments[self._request] = request
        return await self._endpoint(**arguments, **headers, **query)


class _Dependency:
    """A dependency that wants the request, or a part of its path, and gives the endpoint a value."""

    def __init__(self, wanted: Dependant) -> None:
        more = (
            wanted.dependencies,
            wanted.body_params,
            wanted.query_params,
            wanted.header_params,
            wanted.cookie_params,
        )
        if any(more) or wanted.call is None or wanted.name is None:
            raise TypeError(f"{wanted.call} cannot be provided directly")
        self.name = wanted.name
        self._provide: Callable[..., Awaitable[Any]] = wanted.call
        self._request = wanted.request_param_name
        self._path = [(field.name, field.alias) for field in wanted.path_params]

    async def value(self, request: JSONRequest) -> Any:
        if self._request is not None:
            return await self._provide(**{self._request: request})
        return await self._provide(**{name: request.path_params[alias] for name, alias in self._path})


class _Parameters:
    """The headers, or the query parameters, that an endpoint wants: each once at most."""

    def __init__(self, fields: Sequence[ModelField]) -> None:
        if any(field.field_info.is_required() for field in fields):
            raise TypeError("parameters that are required cannot be provided directly")
        # Headers are bytes, query parameters are texts.
        self._fields = {name: field for field in fields for name in (field.alias, field.alias.encode())}
        self._defaults = {field.name: field.default for field in fields}

    def read(self, sent: Iterable[tuple[Any, Any]]) -> Mapping[str, Any] | None:
        """Their values by the names of the endpoint's parameters; None where one is wrong or sent twice."""
        values: dict[str, Any] = {}
        for name, text in sent:
            field = self._fields.get(name)
            if field is None:
                continue
            value, errors = field.validate(text if isinstance(text, str) else text.decode("latin-1"))
            if errors or field.name in values:
                return None
            values[field.name] = value
        return {**self._defaults, **values}


def _pairs(query: bytes) -> list[tuple[str, str]]:
    return parse_qsl(query.decode("latin-1"), keep_blank_values=True) if query else []


def _from_the_start(request: JSONRequest) -> Receive:
    """What the next reader of this request receives: the body that has been read, then what comes after it."""
    if not hasattr(request, "_body"):
        return request.receive
    read: list[Message] = [{"type": "http.request", "body": request._body, "more_body": False}]

    async def receive() -> Message:
        return read.pop() if read else await request.receive()

    return receive
