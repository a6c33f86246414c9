"""When a webhook is tried again: the schedule of retries, and what an answer changes in it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Literal

from shared.store.deliveries import AddressState, HostState
from worker.delivery_answer import Answer

HOUR = 3600.0
RETRY_SECONDS = (5.0, 300.0, 1800.0, 2 * HOUR, 5 * HOUR, 10 * HOUR, 14 * HOUR, 20 * HOUR, 24 * HOUR)
MAX_RETRY_AFTER_SECONDS = 24 * HOUR
JITTER = 0.1
BUSY = frozenset({429, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class Decision:
    """What follows from an answer. `error` is what the attempt's record says; `delay_seconds` is for `retry`.

    `host` is how the receiver's host showed itself: it answered, it has too much to do, or it said nothing.
    `address` is what the try says about the address: it works, it fails, it is no more, or nothing.
    """

    outcome: Literal["delivered", "retry", "failed"]
    delay_seconds: float = 0.0
    error: str | None = None
    host: HostState = "ok"
    address: AddressState = "none"


def decide(answer: Answer, step: int, *, now: datetime, chance: float) -> Decision:
    """What to do after try number `step` (from 0) of a schedule. `chance`, from 0 to 1, spreads the next try by ±10 %.

    Any 2xx is a delivery. 410 says that the address wants no more (Standard Webhooks 1.0), the answer's header
    `webhook-delivery: abort-message` that this message is not wanted, and all else is tried again.
    `Retry-After` only makes the wait longer (RFC 9110, 10.2.3), up to 24 h, and the try then never comes early.
    """
    status, error, host = answer.status_code, answer.error, _host(answer)
    if status is not None and 200 <= status < 300:
        return Decision("delivered", error=error, host=host, address="well")
    if status == 410:
        error = "the receiver answered 410 Gone: it wants no more deliveries"
        return Decision("failed", error=error, host=host, address="gone")
    if answer.abort:
        error = f"the receiver answered {status} with abort-message: it wants no more tries of this message"
        return Decision("failed", error=error, host=host)
    if status is not None and 300 <= status < 400:
        error = f"the receiver answered {status}: redirects are not followed"
    # What we could not make ready says nothing about the receiver.
    address: AddressState = "none" if status is None and answer.reason == "unready" else "ill"
    if step >= len(RETRY_SECONDS):
        return Decision("failed", error=error, host=host, address=address)
    scheduled = RETRY_SECONDS[step] * (1 + JITTER * (2 * chance - 1))
    asked = min(_retry_after_seconds(answer.retry_after, now), MAX_RETRY_AFTER_SECONDS) * (1 + JITTER * chance)
    return Decision("retry", max(scheduled, asked), error, host, address)


def _host(answer: Answer) -> HostState:
    if answer.status_code is None:
        return "silent" if answer.reason == "silent" else "ok"
    return "busy" if answer.status_code in BUSY else "ok"


def _retry_after_seconds(value: str | None, now: datetime) -> float:
    if value is None:
        return 0.0
    if re.fullmatch(r"\s*[0-9]+\s*", value):
        return float(value.strip())
    try:
        date = parsedate_to_datetime(value)
        return max(0.0, (date.replace(tzinfo=date.tzinfo or UTC) - now).total_seconds())
    except (ValueError, TypeError, IndexError, OverflowError):
        return 0.0
