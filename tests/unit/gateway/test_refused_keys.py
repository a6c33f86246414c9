"""What is logged of wrong API keys: enough for fail2ban and people, never the key, and no more than a disk bears."""

from __future__ import annotations

import pytest
import structlog
from structlog.typing import EventDict

from gateway.failures import MAX_LINES, MOST, WINDOW_SECONDS, Failures
from shared.api_keys import SCOPES, new_key
from tests.unit.gateway.conftest import Gateway, ask, key_for


def _refused(lines: list[EventDict]) -> list[EventDict]:
    return [line for line in lines if line["event"] == "API key refused"]


async def test_a_refused_key_is_one_line_with_the_address_and_without_the_key(locked: Gateway) -> None:
    unknown, _ = new_key("acme", "test", SCOPES, now_ms=0)
    with structlog.testing.capture_logs(processors=[structlog.contextvars.merge_contextvars]) as lines:
        answer = await ask(locked, unknown)
    (line,) = _refused(lines)
    assert line == {
        "client": "127.0.0.1",
        "event": "API key refused",
        "log_level": "warning",
        "request_id": answer.headers["x-request-id"],
    }
    assert unknown not in repr(lines)


async def test_a_right_key_and_none_at_all_are_not_logged(locked: Gateway) -> None:
    key = await key_for(locked, scopes=["jobs:read"])
    with structlog.testing.capture_logs() as lines:
        assert (await ask(locked, key)).status_code == 200
        assert (await ask(locked, key, "POST", json={})).status_code == 403
        assert (await locked.http.get("/api/v1/jobs")).status_code == 401
        assert (await locked.http.get("/api/v1/health/live")).status_code == 200
    assert _refused(lines) == []


async def test_what_is_told_to_wait_is_not_logged(locked: Gateway) -> None:
    with structlog.testing.capture_logs() as lines:
        for _ in range(MOST + 5):
            await ask(locked, "wrong")
    assert len(_refused(lines)) == MOST


def test_a_flood_from_many_addresses_is_cut_off_and_told_of_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("gateway.failures.time.monotonic", lambda: now)
    failures = Failures()
    for _ in range(2):
        with structlog.testing.capture_logs() as lines:
            for number in range(MAX_LINES + 50):
                failures.note(f"2001:db8::{number:x}")
        assert len(_refused(lines)) == MAX_LINES
        assert len(lines) == MAX_LINES + 1
        now += WINDOW_SECONDS
