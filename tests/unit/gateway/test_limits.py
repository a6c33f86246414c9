"""Bodies: their size, and what of JSON is taken."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator
from typing import Any

import httpx
import orjson
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import Problem
from gateway.limits import MAX_KEYS, MAX_KEYS_OF_OBJECT, parse_json
from tests.unit.gateway.conftest import LENIENT, Gateway, MakeGateway, problem

BODY = b'{"graph":"echo","input":"%s"}'


async def _chunks(size: int, read: list[int]) -> AsyncIterator[bytes]:
    for _ in range(0, size, 1000):
        read.append(1000)
        yield b"x" * 1000


async def test_a_body_over_the_limit_is_refused_before_it_is_read(make_gateway: MakeGateway) -> None:
    async with make_gateway(max_body_bytes=10_000) as gateway:
        await gateway.registry.publish({"echo": LENIENT}, {})
        read: list[int] = []
        headers = {"content-type": "application/json", "content-length": "10001"}
        answer = await gateway.http.post("/api/v1/jobs", content=_chunks(10_001, read), headers=headers)
        problem(answer, 413, "body_too_large")
        assert answer.headers["connection"] == "close"
        assert read == []
        fits = BODY % (b"x" * (10_000 - len(BODY) + 2))
        assert (await gateway.post("/jobs", fits)).status_code == 202


async def test_a_chunked_body_over_the_limit_is_refused_while_it_is_read(make_gateway: MakeGateway) -> None:
    async with make_gateway(max_body_bytes=10_000) as gateway:
        read: list[int] = []
        headers = {"content-type": "application/json"}
        answer = await gateway.http.post("/api/v1/jobs", content=_chunks(10**6, read), headers=headers)
        problem(answer, 413, "body_too_large")
        assert sum(read) <= 12_000


async def test_a_route_that_takes_no_body_refuses_a_large_one_too(make_gateway: MakeGateway) -> None:
    async with make_gateway(max_body_bytes=10) as gateway:
        for method in ("GET", "POST", "DELETE"):
            answer = await gateway.http.request(method, "/api/v1/workers", content=b"x" * 11)
            problem(answer, 413, "body_too_large")


async def test_a_body_that_breaks_off_is_no_bug_of_ours(gateway: Gateway) -> None:
    messages: list[dict[str, Any]] = [
        {"type": "http.request", "body": b'{"graph"', "more_body": True},
        {"type": "http.disconnect"},
    ]
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
        "path": "/api/v1/jobs", "raw_path": b"/api/v1/jobs", "query_string": b"", "root_path": "", "client": None,
        "headers": [(b"content-type", b"application/json")], "server": None,
    }  # fmt: skip
    with structlog.testing.capture_logs() as logs:
        await gateway.app(scope, receive, send)
    assert logs == []
    assert sent[0]["status"] == 400


async def test_a_limit_of_0_is_none(make_gateway: MakeGateway) -> None:
    async with make_gateway(max_body_bytes=0) as gateway:
        await gateway.registry.publish({"echo": LENIENT}, {})
        assert (await gateway.post("/jobs", BODY % (b"x" * 11_000_000))).status_code == 202


@pytest.mark.parametrize("value", ["x", "-1", "1e3", "9" * 5000, ""])
async def test_a_strange_content_length_breaks_nothing(gateway: Gateway, value: str) -> None:
    headers = httpx.Headers({"content-type": "application/json", "content-length": value})
    answer = await gateway.http.post("/api/v1/jobs", content=b'{"graph":"echo","input":1}', headers=headers)
    assert answer.status_code in (202, 413)


@pytest.mark.parametrize(
    "body",
    [
        b"{", b"nonsense", b'{"a": NaN}', b'{"a": Infinity}', b'{"a": -Infinity}', b"\xff\xfe", b'{"a": "\xff"}',
        b'"\xed\xa0\x80"', b'{"a": "\\ud800"}', b"\xef\xbb\xbf{}", b'{"a": 1,}', b"{'a': 1}", b'{"a": 01}',
        b'{"a": 1e400}', b"[" * 5000 + b"]" * 5000, b'{"a": 1} {}', b"\x00", b'{"a": 1234567890123456789',
    ],
)  # fmt: skip
async def test_what_is_not_json_is_refused(gateway: Gateway, body: bytes) -> None:
    for path in ("/jobs", "/jobs/batch"):
        problem(await gateway.post(path, body), 400, "invalid_json")


@pytest.mark.parametrize(
    "number", ["18446744073709551616", "-9223372036854775809", "1" * 400, "-" + "9" * 5000, "123456789012345678901"]
)
async def test_an_integer_beyond_64_bits_is_refused_wherever_it_stands(gateway: Gateway, number: str) -> None:
    for field in ("input", "metadata", "context", "priority"):
        value = number if field in ("input", "priority") else f'{{"deep": [{number}]}}'
        body = f'{{"graph": "echo", "input": 1, "{field}": {value}}}'.encode()
        problem(await gateway.post("/jobs", body), 422, "integer_too_large")
    problem(await gateway.post("/jobs/batch", f'{{"jobs": [{number}]}}'.encode()), 422, "integer_too_large")


@pytest.mark.parametrize("value", [2**64 - 1, -(2**63), "1" * 100, 1.5e300, {"9" * 50: 0}, 0.1234567890123456789012])
async def test_what_only_looks_like_a_large_integer_is_accepted(gateway: Gateway, value: Any) -> None:
    await gateway.submit(input=value)


@given(st.integers(-(2**70), 2**70))
def test_an_integer_is_kept_exactly_or_refused(number: int) -> None:
    body = f'{{"a": [{number}], "s": "{number}{number}"}}'.encode()
    if -(2**63) <= number < 2**64:
        assert parse_json(body)["a"] == [number]
    else:
        with pytest.raises(Problem) as refused:
            parse_json(body)
        assert refused.value.code == "integer_too_large"


@pytest.mark.parametrize("field", ["input", "metadata", "context", "config"])
@pytest.mark.parametrize("long", [b"", b', "n": 1234567890123456789'])
async def test_deep_nesting_is_refused(gateway: Gateway, field: str, long: bytes) -> None:
    for depth in (255, 300, 900, 1000, 1010):
        nested = b'{"a":' * depth + b"1" + b"}" * depth
        body = b'{"graph": "echo", "input": 1, "%s": %s%s}' % (field.encode(), nested, long)
        assert (await gateway.post("/jobs", body)).status_code in (400, 422), depth
        problem(await gateway.post("/jobs", body), 422, "too_deeply_nested")


async def test_nesting_that_can_be_kept_is_accepted(gateway: Gateway) -> None:
    nested: Any = 1
    for _ in range(250):
        nested = [nested]
    await gateway.submit(input=nested, metadata={"a": nested})


@pytest.mark.parametrize("media_type", ["application/json", "application/json; charset=utf-8", "APPLICATION/JSON"])
async def test_json_is_taken_where_it_says_so(gateway: Gateway, media_type: str) -> None:
    answer = await gateway.post("/jobs", {"graph": "echo", "input": 1}, content_type=media_type)
    assert answer.status_code == 202


@pytest.mark.parametrize(
    "media_type", ["text/plain", "application/x-www-form-urlencoded", "", "application/jsonp", "a" * 9000]
)
async def test_a_body_that_does_not_say_it_is_json_is_refused(gateway: Gateway, media_type: str) -> None:
    # A page in a browser can send these to a gateway on its own machine without asking; JSON it cannot.
    answer = await gateway.post("/jobs", {"graph": "echo", "input": 1}, content_type=media_type)
    problem(answer, 415, "unsupported_media_type")


def test_no_garbage_is_collected_while_json_is_read_and_again_after(monkeypatch: pytest.MonkeyPatch) -> None:
    collecting: list[bool] = []
    loads = orjson.loads

    def watched(body: bytes) -> Any:
        collecting.append(gc.isenabled())
        return loads(body)

    monkeypatch.setattr(orjson, "loads", watched)
    assert gc.isenabled()
    assert parse_json(b"[[]]") == [[]]
    assert (collecting, gc.isenabled()) == ([False], True)
    with pytest.raises(Problem):
        parse_json(b"[")
    assert gc.isenabled()


def _object(keys: int) -> dict[str, int]:
    return {f"k{number}": number for number in range(keys)}


async def test_an_object_with_very_many_keys_is_refused_wherever_it_is(gateway: Gateway) -> None:
    for wrap in (lambda one: one, lambda one: [[one]], lambda one: {"a": [{"b": one}]}):
        fits, does_not = wrap(_object(MAX_KEYS_OF_OBJECT)), wrap(_object(MAX_KEYS_OF_OBJECT + 1))
        assert (await gateway.post("/jobs", {"graph": "echo", "input": fits})).status_code == 202
        problem(await gateway.post("/jobs", {"graph": "echo", "input": does_not}), 422, "too_many_keys")
        problem(
            await gateway.post("/jobs/batch", {"jobs": [{"graph": "echo", "input": does_not}]}), 422, "too_many_keys"
        )


@pytest.mark.parametrize("of_each", [1, 7, 1000])
def test_all_keys_of_a_body_are_counted_together(of_each: int) -> None:
    fits = [_object(of_each)] * (MAX_KEYS // of_each)
    assert parse_json(orjson.dumps(fits)) == fits
    with pytest.raises(Problem) as refused:
        parse_json(orjson.dumps([*fits, _object(of_each), _object(of_each)]))
    assert refused.value.code == "too_many_keys"


def test_colons_of_texts_and_items_of_lists_are_no_keys() -> None:
    value = {"text": ":" * 10 * MAX_KEYS, "lists": [[[]]] * MAX_KEYS, "numbers": [1] * MAX_KEYS}
    assert parse_json(orjson.dumps(value)) == value
