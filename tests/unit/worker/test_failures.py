"""Which failures are tried again, when, and what a job's record says of them."""

from __future__ import annotations

import asyncio
import errno
import random
import socket
import sqlite3
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import aiosqlite
import httpx
import openai
import psycopg
import psycopg_pool
import pytest
import redis.exceptions
import requests
from arq import Retry
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.exceptions import ModelAuthenticationError, ModelError, ModelRateLimitError, ModelTimeoutError
from langgraph.checkpoint.serde.types import ERROR
from langgraph.errors import GraphRecursionError
from langgraph.graph import START, StateGraph
from typing_extensions import TypedDict

from shared import secrets
from shared.settings import load_settings
from worker.checkpoints.answers import writes_to_store
from worker.failures import LONGEST_BACKOFF_SECONDS, backoff_seconds, describe_failure, is_retryable

REQUEST = httpx.Request("POST", "https://models.example/v1/chat/completions")


def answer(status: int, **headers: str) -> httpx.Response:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.Response(status, request=REQUEST, headers=names)


def openai_error(status: int, **headers: str) -> openai.APIStatusError:
    return openai.APIStatusError("said no", response=answer(status, **headers), body=None)


def http_error(status: int) -> httpx.HTTPStatusError:
    return httpx.HTTPStatusError("said no", request=REQUEST, response=answer(status))


class RetryableModelError(ModelError):
    is_retryable = True


RETRYABLE = [
    TimeoutError(),
    ConnectionError(),
    ConnectionResetError(),
    BrokenPipeError(),
    OSError(errno.EMFILE, "Too many open files"),
    socket.gaierror(-2, "Name or service not known"),
    Retry(defer=5),
    httpx.ConnectError("refused"),
    httpx.ReadTimeout("slow"),
    httpx.RemoteProtocolError("hung up"),
    *(http_error(status) for status in (408, 409, 425, 429, 500, 502, 503, 504, 529)),
    *(openai_error(status) for status in (408, 409, 425, 429, 500, 503)),
    openai.APIConnectionError(request=REQUEST),
    openai.APITimeoutError(REQUEST),
    ModelRateLimitError("slow down"),
    ModelTimeoutError("slow"),
    RetryableModelError("try again"),
    requests.ConnectionError("refused"),
    requests.Timeout("slow"),
    redis.exceptions.ConnectionError("away"),
    sqlite3.OperationalError("database is locked"),
    aiosqlite.OperationalError("database is locked"),
    psycopg.OperationalError("server closed the connection"),
    psycopg_pool.PoolTimeout("no connection"),
]
FINAL = [
    ValueError("no"),
    KeyError("no"),
    RuntimeError("no"),
    asyncio.CancelledError(),
    SystemExit(1),
    *(http_error(status) for status in (400, 401, 403, 404, 422)),
    *(openai_error(status) for status in (400, 401, 403, 404, 422)),
    ModelError("no"),
    ModelAuthenticationError("no key"),
    GraphRecursionError("too many steps"),
    sqlite3.IntegrityError("no"),
    psycopg.errors.UniqueViolation("no"),
    FileNotFoundError("no"),
    PermissionError("no"),
]


@pytest.mark.parametrize("error", RETRYABLE, ids=repr)
def test_what_another_try_may_help_is_retryable(error: BaseException) -> None:
    assert is_retryable(error)
    assert describe_failure(error).error.retryable


@pytest.mark.parametrize("error", FINAL, ids=repr)
def test_what_no_other_try_helps_fails_at_once(error: BaseException) -> None:
    assert not is_retryable(error)
    assert not describe_failure(error).error.retryable


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError("no"), "graph_error"),
        (Retry(defer=1), "graph_error"),
        (GraphRecursionError("no"), "limit_exceeded"),
        (TimeoutError(), "timeout"),
        (ConnectionError(), "connection_error"),
        (psycopg.OperationalError("away"), "connection_error"),
        (openai_error(429), "provider_error"),
        (openai_error(401), "provider_error"),
        (ModelRateLimitError("no"), "provider_error"),
    ],
    ids=repr,
)
def test_the_code_says_whose_failure_it_is(error: BaseException, code: str) -> None:
    assert describe_failure(error).error.code == code


def test_retry_after_in_seconds_is_honoured() -> None:
    assert describe_failure(openai_error(429, retry_after="7")).retry_after_seconds == 7
    assert describe_failure(openai_error(429, retry_after="0.5")).retry_after_seconds == 0.5


def test_retry_after_as_a_date_is_honoured() -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=120), usegmt=True)
    asked = describe_failure(openai_error(503, retry_after=soon)).retry_after_seconds
    assert asked is not None
    assert 100 < asked <= 120
    past = format_datetime(datetime.now(UTC) - timedelta(days=1), usegmt=True)
    assert describe_failure(openai_error(503, retry_after=past)).retry_after_seconds == 0


def test_the_delay_of_arqs_retry_is_honoured() -> None:
    assert describe_failure(Retry(defer=2.5)).retry_after_seconds == 2.5
    assert describe_failure(Retry()).retry_after_seconds is None


@pytest.mark.parametrize("value", ["", "soon", "nan", "Mon, 99 Foo 2026", "12 apples", "-"])
def test_a_retry_after_that_means_nothing_is_left_out(value: str) -> None:
    assert describe_failure(openai_error(429, retry_after=value)).retry_after_seconds is None


@given(st.text(max_size=40) | st.floats().map(str) | st.integers().map(str))
def test_whatever_a_provider_sends_as_retry_after_gives_a_wait_that_can_be_stored(value: str) -> None:
    error = Exception()
    error.response = type("Answer", (), {"status_code": 429, "headers": {"retry-after": value}})()  # type: ignore[attr-defined]
    asked = describe_failure(error).retry_after_seconds
    assert asked is None or 0 <= asked <= 3600
    assert int(backoff_seconds(1, asked) * 1000) >= 0


@given(st.integers(1, 1000), st.none() | st.floats(0, 3600), st.randoms(use_true_random=False))
def test_a_backoff_grows_to_its_bound_and_is_never_shorter_than_asked(
    tries: int, asked: float | None, chance: random.Random
) -> None:
    state = random.getstate()
    random.seed(chance.random())
    try:
        seconds = backoff_seconds(tries, asked)
    finally:
        random.setstate(state)
    ceiling = min(LONGEST_BACKOFF_SECONDS, 2.0**tries if tries < 10 else LONGEST_BACKOFF_SECONDS)
    assert (asked or 0) <= seconds <= ((asked or 0) + ceiling)


def test_a_backoff_has_full_jitter() -> None:
    waits = [backoff_seconds(5, None) for _ in range(300)]
    assert min(waits) < 8 < 24 < max(waits) <= 32


class State(TypedDict, total=False):
    x: int


def raised_in(node: Any, *, inside: str | None = None) -> Exception:
    """What comes out of a graph whose node `ask` raises, run as a subgraph of node `inside` where that is given."""
    graph = StateGraph(State)
    graph.add_node("ask", node)
    graph.add_edge(START, "ask")
    compiled = graph.compile()
    if inside is not None:
        outer = StateGraph(State)
        outer.add_node(inside, compiled)
        outer.add_edge(START, inside)
        compiled = outer.compile()
    with pytest.raises(Exception) as caught:  # noqa: PT011 - whatever it is
        compiled.invoke({"x": 1})
    return caught.value


def fail(_: State) -> State:
    raise ValueError("no")


def fail_with_cause(_: State) -> State:
    try:
        fail({})
    except ValueError as error:
        raise RuntimeError("wrapped") from error
    return {}


def test_the_node_that_raised_is_named() -> None:
    assert describe_failure(raised_in(fail)).error.node == "ask"
    assert describe_failure(raised_in(fail_with_cause)).error.node == "ask"
    assert describe_failure(raised_in(fail, inside="team")).error.node == "ask"
    assert describe_failure(ValueError("outside of any node")).error.node is None


def test_causes_that_form_a_circle_are_walked_once() -> None:
    one, two = ValueError("one"), ValueError("two")
    one.__cause__, two.__cause__ = two, one
    assert describe_failure(one).error.node is None


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("no"), "no"),
        (ValueError(), "ValueError"),
        (ValueError("\ud800"), "?"),
        (ValueError("x" * 10_000), "x" * 4096),
        (Mute(), "<Mute>"),
    ],
    ids=lambda case: type(case).__name__,
)
def test_the_message_is_text_that_a_record_can_hold(error: BaseException, message: str) -> None:
    described = describe_failure(error).error
    assert (described.type, described.message) == (type(error).__name__, message)
    assert described.model_dump_json()


def test_an_error_quotes_no_credential_in_the_record_nor_in_a_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "_pattern", secrets._pattern)
    secrets.hide(load_settings(openai_api_key="sk-of-the-provider"))
    error = ValueError("Incorrect API key provided: sk-of-the-provider.")
    assert describe_failure(error).error.message == "Incorrect API key provided: [secret]."
    harmless = KeyError("x")
    writes = writes_to_store([(ERROR, error), (ERROR, harmless), ("value", "sk-of-the-provider")])
    assert writes == [
        (ERROR, "ValueError('Incorrect API key provided: [secret].')"),
        (ERROR, harmless),
        ("value", "sk-of-the-provider"),
    ]
