"""When a webhook is tried again: the schedule of retries, and what an answer changes in it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Literal

from worker.delivery_http import Answer

HOUR = 3600.0
RETRY_SECONDS = (5.0, 300.0, 1800.0, 2 * HOUR, 5 * HOUR, 10 * HOUR, 14 * HOUR, 20 * HOUR, 24 * HOUR)
MAX_RETRY_AFTER_SECONDS = 24 * HOUR
JITTER = 0.1


@dataclass(frozen=True, slots=True)
class Decision:
    """What follows from an answer. `error` is what the attempt's record says; `delay_seconds` is for `retry`."""

    outcome: Literal["delivered", "retry", "failed"]
    delay_seconds: float = 0.0
    error: str | None = None


def decide(answer: Answer, step: int, *, now: datetime, chance: float) -> Decision:
    """What to do after try number `step` (from 0) of a schedule. `chance`, from 0 to 1, spreads the next try by ±10 %.

    Any 2xx is a delivery, 410 says that no more is wanted (Standard Webhooks), and all else is tried again.
    `Retry-After` only makes the wait longer (RFC 9110, 10.2.3), up to 24 h, and the try then never comes early.
    """
    status = answer.status_code
    if status is not None and 200 <= status < 300:
        return Decision("delivered", error=answer.error)
    error = answer.error
    if status == 410:
        return Decision("failed", error="the receiver answered 410 Gone: it wants no more tries")
    if status is not None and 300 <= status < 400:
        error = f"the receiver answered {status}: redirects are not followed"
    if step >= len(RETRY_SECONDS):
        return Decision("failed", error=error)
    scheduled = RETRY_SECONDS[step] * (1 + JITTER * (2 * chance - 1))
    asked = min(_retry_after_seconds(answer.retry_after, now), MAX_RETRY_AFTER_SECONDS) * (1 + JITTER * chance)
    return Decision("retry", max(scheduled, asked), error)


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
