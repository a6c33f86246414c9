"""What follows from an answer: the outcome of a try, and when the next one comes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from worker.delivery_answer import Answer
from worker.delivery_schedule import MAX_RETRY_AFTER_SECONDS, RETRY_SECONDS, decide

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
DAY = 24 * 3600.0
chances = st.floats(0, 1)
steps = st.integers(0, 30)
failures = st.sampled_from([None, *(status for status in range(100, 600) if status // 100 != 2 and status != 410)])


def test_the_schedule_is_5_s_5_min_30_min_then_2_5_10_14_20_and_24_h() -> None:
    minute, hour = 60.0, 3600.0
    expected = (5.0, 5 * minute, 30 * minute, *(hours * hour for hours in (2, 5, 10, 14, 20, 24)))
    found = [decide(Answer(500), step, now=NOW, chance=0.5).delay_seconds for step in range(9)]
    assert found == pytest.approx(expected)
    assert expected == RETRY_SECONDS


def test_after_the_tenth_try_the_delivery_has_failed() -> None:
    assert decide(Answer(500), 8, now=NOW, chance=0).outcome == "retry"
    assert decide(Answer(500), 9, now=NOW, chance=0).outcome == "failed"
    assert decide(Answer(error="no answer"), 9, now=NOW, chance=0).error == "no answer"


@given(st.integers(200, 299), steps, st.none() | st.text(), chances)
def test_every_2xx_is_a_delivery(status: int, step: int, retry_after: str | None, chance: float) -> None:
    decision = decide(Answer(status, retry_after, "body"), step, now=NOW, chance=chance)
    assert (decision.outcome, decision.delay_seconds, decision.error) == ("delivered", 0, None)
    assert (decision.host, decision.address) == ("ok", "well")


def test_an_answer_whose_body_broke_off_is_a_delivery_and_says_so() -> None:
    decision = decide(Answer(200, None, "bo", "no end of the answer within 15 s"), 0, now=NOW, chance=0)
    assert (decision.outcome, decision.error) == ("delivered", "no end of the answer within 15 s")


@given(steps, st.none() | st.just("60"), chances)
def test_410_stops_at_once_and_says_why(step: int, retry_after: str | None, chance: float) -> None:
    decision = decide(Answer(410, retry_after, ""), step, now=NOW, chance=chance)
    assert decision.outcome == "failed"
    assert "410" in (decision.error or "")


@pytest.mark.parametrize("status", [300, 404, 429, 500, 503])
def test_an_answer_that_aborts_the_message_is_its_end_and_says_nothing_about_the_address(status: int) -> None:
    decision = decide(Answer(status, "60", "", abort=True), 0, now=NOW, chance=0)
    assert (decision.outcome, decision.delay_seconds, decision.address) == ("failed", 0, "none")
    assert f"{status} with abort-message" in (decision.error or "")


def test_a_success_that_asks_to_abort_is_a_success() -> None:
    decision = decide(Answer(200, None, "", abort=True), 0, now=NOW, chance=0)
    assert (decision.outcome, decision.address, decision.error) == ("delivered", "well", None)


@given(steps, chances, st.booleans())
def test_410_is_the_end_of_the_address_whatever_else_it_says(step: int, chance: float, abort: bool) -> None:
    decision = decide(Answer(410, abort=abort), step, now=NOW, chance=chance)
    assert (decision.outcome, decision.host, decision.address) == ("failed", "ok", "gone")


@given(st.integers(100, 599), steps, chances, st.booleans())
def test_a_host_that_answers_is_busy_or_ok(status: int, step: int, chance: float, abort: bool) -> None:
    host = decide(Answer(status, abort=abort), step, now=NOW, chance=chance).host
    assert host == ("busy" if status in (429, 502, 503, 504) else "ok")


@given(steps, chances)
def test_only_a_host_that_said_nothing_is_silent(step: int, chance: float) -> None:
    hosts = {
        reason: decide(Answer(error="why", reason=reason), step, now=NOW, chance=chance).host
        for reason in ("silent", "refused", "unready")
    }
    assert hosts == {"silent": "silent", "refused": "ok", "unready": "ok"}
    assert decide(Answer(200, error="no end of the answer"), step, now=NOW, chance=chance).host == "ok"


@given(failures, steps, chances)
def test_an_address_that_fails_is_ill_also_at_its_last_try(status: int | None, step: int, chance: float) -> None:
    assert decide(Answer(status), step, now=NOW, chance=chance).address == "ill"
    assert decide(Answer(error="why", reason="refused"), step, now=NOW, chance=chance).address == "ill"


@given(steps, chances)
def test_what_could_not_be_made_ready_is_not_held_against_the_address(step: int, chance: float) -> None:
    decision = decide(Answer(error="could not be sent", reason="unready"), step, now=NOW, chance=chance)
    assert decision.address == "none"
    assert decision.outcome == ("retry" if step < 9 else "failed")
    assert decision.error == "could not be sent"


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 307, 308])
def test_a_redirect_is_a_failure_that_says_it_was_not_followed(status: int) -> None:
    decision = decide(Answer(status, None, ""), 0, now=NOW, chance=0)
    assert decision.outcome == "retry"
    assert "not followed" in (decision.error or "")


@given(failures, st.integers(0, 8), chances)
def test_a_failure_is_tried_again_within_ten_percent_of_the_schedule(
    status: int | None, step: int, chance: float
) -> None:
    decision = decide(Answer(status), step, now=NOW, chance=chance)
    assert decision.outcome == "retry"
    assert 0.9 * RETRY_SECONDS[step] <= decision.delay_seconds <= 1.1 * RETRY_SECONDS[step]


def test_the_jitter_uses_the_whole_ten_percent_both_ways() -> None:
    delays = [decide(Answer(500), 1, now=NOW, chance=chance).delay_seconds for chance in (0, 0.5, 1)]
    assert delays == pytest.approx([270, 300, 330])


@given(failures, st.integers(0, 8), chances, st.integers(0, 10 * 24 * 3600), st.booleans())
def test_retry_after_is_waited_for_and_never_brings_a_try_forward(
    status: int | None, step: int, chance: float, seconds: int, as_date: bool
) -> None:
    value = format_datetime(NOW + timedelta(seconds=seconds), usegmt=True) if as_date else str(seconds)
    delay = decide(Answer(status, value), step, now=NOW, chance=chance).delay_seconds
    assert delay >= min(seconds, MAX_RETRY_AFTER_SECONDS)
    assert delay >= decide(Answer(status), step, now=NOW, chance=chance).delay_seconds
    assert delay <= 1.1 * max(RETRY_SECONDS[step], min(seconds, DAY)) + 0.001


@given(st.text() | st.integers().map(str) | st.datetimes().map(format_datetime), chances)
@example("9" * 5000, 1.0)
@example("-5", 0.0)
@example("0\x1f", 0.0)
@example("1e9", 0.0)
@example("Fri, 31 Dec 9999 23:59:59 -0100", 1.0)
@example("Sat, 01 Jan 0001 00:00:00 +0100", 1.0)
@example("Sat, 31 Jan 2026 12:00:30 -0000", 0.0)
@example("nan", 0.0)
def test_whatever_retry_after_says_the_delay_is_sound(value: str, chance: float) -> None:
    decision = decide(Answer(503, value), 0, now=NOW, chance=chance)
    assert decision.outcome == "retry"
    assert 4.5 <= decision.delay_seconds <= 1.1 * DAY


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120),
        (" 120 ", 120),
        ("Sat, 31 Jan 2026 12:02:00 GMT", 120),
        ("Sat, 31 Jan 2026 12:02:00 -0000", 120),
        ("Saturday, 31-Jan-26 12:02:00 GMT", 120),
        ("Sat Jan 31 12:02:00 2026", 120),
        ("Sat, 31 Jan 2026 11:00:00 GMT", 4.5),
        ("999999999999", DAY),
        ("9" * 5000, DAY),
        ("soon", 4.5),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str, seconds: float) -> None:
    assert decide(Answer(429, value), 0, now=NOW, chance=0).delay_seconds == seconds
