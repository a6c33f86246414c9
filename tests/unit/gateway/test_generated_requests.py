"""Thousands of requests made out of the OpenAPI page, right and wrong ones, and each answer held against the page.

Schemathesis makes them: the page's examples, the edges of each parameter, what it finds at random (with a fixed seed),
and chains in which the ids of one answer go into the next request. All of its checks are on: no 5xx, no status, header
or type of content that the page does not name, no answer that does not fit its schema, nothing wrong accepted, nothing
right refused.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import fakeredis
import pytest
import schemathesis
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import events, from_schema
from schemathesis.python.asgi import shutdown_lifespans

from gateway.main import create_app
from shared.settings import Settings
from tests.unit.gateway.conftest import LENIENT, SECRET_KEY, STRICT, Gateway, key_for
from tests.unit.gateway.estate import Estate, make_estates

# What a schema cannot say, so that a request which fits it may still be refused, and with which of the codes.
JUDGED_LATER = {
    "unknown_graph",  # by the catalogue
    "invalid_input",  # by the graph's own schema
    "webhook_refused",  # by where the URL leads
    "invalid_cursor",  # by the list that it comes from
    "idempotency_key_reused",  # by what the key was used for before
    "integer_too_large",  # JSON numbers have no end, ours have 64 bits
}
# The keys that are tried, by scopes, and how many requests each makes at least: 2,000 and more in all.
KEYS: dict[str, tuple[tuple[str, ...] | None, int, int]] = {
    "all scopes": (("jobs:read", "jobs:write", "ops"), 12, 1200),
    "no key": (None, 4, 500),
    "the wrong scope": (("ops",), 4, 500),
}


@pytest.fixture
async def estate(locked: Gateway) -> Estate:
    """Jobs in each status and all the rest, so that there is something to find."""
    await locked.registry.publish({"customer_service": {**LENIENT, "id": "customer_service"}, "strict": STRICT}, {})
    return (await make_estates(locked, "acme"))[0]


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # A wait is cut short, and the wrong keys that are tried here all come from one address.
    monkeypatch.setattr("gateway.routes.jobs.MAX_WAIT_SECONDS", 0.02)
    monkeypatch.setattr("gateway.failures.MOST", 10**6)
    yield
    shutdown_lifespans()


def load(server: fakeredis.FakeServer, estate: Estate, key: str | None, examples: int) -> Any:
    """The page's schema, with an application to ask."""
    app = create_app(
        Settings(secret_key=SECRET_KEY, auth_required=True),  # type: ignore[arg-type]
        redis=fakeredis.FakeAsyncRedis(server=server),
        notices_redis=fakeredis.FakeAsyncRedis(server=server),
    )
    config = SchemathesisConfig.from_dict(
        {
            "seed": 1,
            "headers": {"Authorization": f"Bearer {key}"} if key else {},
            "generation": {"deterministic": True, "database": "none", "max-examples": examples, "no-shrink": True},
        }
    )
    schema: Any = schemathesis.openapi.from_dict(app.openapi(), config=config)
    schema.app = app

    @schema.hook
    def map_path_parameters(_: Any, path_parameters: dict[str, Any] | None) -> dict[str, Any] | None:
        return path_parameters and {name: _real(estate, name, value) for name, value in path_parameters.items()}

    @schema.hook
    def filter_failure(_: Any, failure: Any, case: Any, response: Any) -> bool:
        return not _may_be(failure.title, case.operation.path, response)

    return schema


def _real(estate: Estate, name: str, value: Any) -> Any:
    """In place of two of three ids, one that is there."""
    known: dict[str, Sequence[str]] = {
        "job_id": [*estate.jobs.values()],
        "delivery_id": [*estate.deliveries.values()],
        "endpoint_id": estate.endpoints,
        "graph_id": ["strict"],
        "tenant": ["gamma", "delta"],  # whose limits change nothing for who asks
    }
    number = zlib.crc32(repr(value).encode())
    return value if number % 3 == 0 else known[name][number % len(known[name])]


def _may_be(failure: str, path: str, response: Any) -> bool:
    """Whether this is no failure: a refusal that no schema could announce, or a batch that says it item by item."""
    if failure == "Schema-valid request rejected":
        return response.json().get("code") in JUDGED_LATER
    if failure == "Schema-violating request accepted" and path.endswith("/batch"):
        return any("error" in item for item in response.json()["items"])
    return False


@pytest.mark.parametrize("name", KEYS)
async def test_nothing_is_answered_that_the_page_does_not_name(
    locked: Gateway, estate: Estate, unhurried: None, fake_server: fakeredis.FakeServer, name: str
) -> None:
    scopes, examples, at_least = KEYS[name]
    key = None if scopes is None else await key_for(locked, estate.tenant, scopes)  # type: ignore[arg-type]
    statuses: Counter[int] = Counter()
    found: list[str] = []
    for event in from_schema(load(fake_server, estate, key, examples)).execute():
        if isinstance(event, events.ScenarioFinished):
            recorder = event.recorder
            statuses.update(one.response.status_code for one in recorder.interactions.values() if one.response)
            failed = [check for checks in recorder.checks.values() for check in checks if check.failure_info]
            found += [
                f"{check.name}: {check.failure_info.failure}\n{check.failure_info.code_sample}" for check in failed
            ]
        elif isinstance(event, events.NonFatalError):
            found.append(f"{event.label}: {event.value}")
        elif isinstance(event, events.FatalError):
            raise event.exception
    assert not found, "\n\n".join(found[:10])
    assert sum(statuses.values()) >= at_least, statuses
    assert max(statuses) < 500
    expected = {200, 201, 202, 204, 400, 401, 404, 405, 409, 415, 422} if name == "all scopes" else {200, 401, 405}
    assert statuses.keys() >= expected, statuses
    if name == "the wrong scope":
        assert statuses[403] > 200
