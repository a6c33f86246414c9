"""The headers that tell a browser to make nothing of an answer but what it is: on each one, errors included."""

from __future__ import annotations

from collections.abc import Iterable

from starlette.types import Scope

Headers = list[tuple[bytes, bytes]]
CORS = "cors"  # in the state of a request: what its answer says about other origins
_ALWAYS: Headers = [(b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer")]
# A route that knows better says so itself: the docs page runs a script, and its assets are anybody's.
_UNLESS_SAID: Headers = [
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cache-control", b"no-store"),
    (b"cross-origin-resource-policy", b"same-origin"),
]
EVERYWHERE: Headers = [*_ALWAYS, *_UNLESS_SAID]
"""What an answer has that no route has made."""
_HTTPS_ONLY = (b"strict-transport-security", b"max-age=31536000")


def with_security(scope: Scope, headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """An answer's headers, and those that it lacks."""
    made = [*headers, *_ALWAYS]
    said = {name for name, _ in made}
    made += [header for header in _UNLESS_SAID if header[0] not in said]
    if scope.get("scheme") == "https":
        made.append(_HTTPS_ONLY)
    made += scope.get("state", {}).get(CORS, ())
    return made
