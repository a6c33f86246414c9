"""JSON that takes many times its bytes, or whose keys or depth have no end."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.memory import MB, Memory
from tests.raw_http import upload
from tests.servers import Gateway, Processes, fetch

JOB = b'{"graph": "echo", "input": 1}'


@pytest.fixture
def gateway(processes: Processes, redis_url: str) -> Gateway:
    return processes.gateway(redis_url).ready()


@pytest.mark.parametrize(
    "value",
    [b"[]", b'{"a":1}', b"[[[[[[]]]]]]"],
)
def test_json_that_takes_many_times_its_bytes_is_read_in_turn(gateway: Gateway, value: bytes) -> None:
    values = b",".join([value] * (9_900_000 // (len(value) + 1)))
    sent = b'{"graph": "echo", "input": [%s]}' % values
    with Memory(gateway.process.pid) as memory, ThreadPoolExecutor(6) as clients:
        statuses = list(clients.map(lambda _: upload(gateway, sent), range(6)))
    assert set(statuses) <= {422 if value.startswith(b"{") else 202, 503}  # too many keys in all
    assert fetch(f"{gateway.api}/jobs", JOB)[0] == 202
    assert memory.peak - memory.before < 750


def test_huge_keys_and_deep_nesting_are_refused_or_kept_and_cost_little(gateway: Gateway) -> None:
    deep = b"[" * 5 * MB + b"]" * 4 * MB
    keys = b",".join(b'"%07d":0' % number for number in range(800_000))
    with Memory(gateway.process.pid) as memory:
        for sent, status in [
            (b'{"graph": "echo", "input": {"%s": 1}}' % (b"k" * 9 * MB), 202),
            (b'{"%s": 1}' % (b"k" * 9 * MB), 422),
            (b'{"graph": "echo", "input": {%s}}' % keys, 422),
            (b'{"graph": "echo", "input": 1, %s}' % keys, 422),
            (b'{"graph": "echo", "input": %s}' % deep, 400),
        ]:
            started = time.monotonic()
            assert upload(gateway, sent) == status
            assert time.monotonic() - started < 10
    assert memory.peak - memory.before < 600
