"""Large bodies, many at once: in bounded memory, while others are served."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.memory import MB, Memory
from tests.raw_http import all_until_closed, connect, one_answer, post_head, status_and_code, upload
from tests.servers import Gateway, Processes, fetch

JOB = b'{"graph": "echo", "input": 1}'


def body(size: int) -> bytes:
    return b'{"graph": "echo", "input": "%s"}' % (b"x" * (size - 32))


@pytest.fixture
def gateway(processes: Processes, redis_url: str) -> Gateway:
    return processes.gateway(redis_url).ready()


def test_64_bodies_of_10_mb_at_once_are_all_taken_in_bounded_memory_and_others_are_served(gateway: Gateway) -> None:
    sent = body(10 * MB)
    with Memory(gateway.process.pid) as memory, ThreadPoolExecutor(64) as clients:
        answers = [clients.submit(upload, gateway, sent) for _ in range(64)]
        took = []
        while not all(answer.done() for answer in answers):
            started = time.monotonic()
            assert fetch(f"{gateway.api}/jobs", JOB)[0] == 202
            took.append(time.monotonic() - started)
        statuses = [answer.result() for answer in answers]
    assert set(statuses) <= {202, 503}
    assert statuses.count(202) >= 32
    assert max(took) < 5
    assert memory.peak - memory.before < 300


def test_bodies_that_are_only_announced_hold_up_other_large_ones_for_a_while_and_small_ones_never(
    processes: Processes, redis_url: str
) -> None:
    gateway = processes.gateway(redis_url, REQUEST_SECONDS="4", MAX_BODY_BYTES_AT_ONCE=str(20 * MB)).ready()
    holders = [connect(gateway) for _ in range(4)]
    for holder in holders:
        holder.sendall(post_head(10 * MB))
    time.sleep(0.5)
    assert fetch(f"{gateway.api}/jobs", JOB)[0] == 202
    started = time.monotonic()
    assert upload(gateway, body(1 * MB)) == 202  # the holders were cut
    assert time.monotonic() - started > 2
    statuses = []
    for holder in holders:
        with holder:
            statuses.append(status_and_code(all_until_closed(holder))[0])
    assert set(statuses) == {408}


def test_a_large_body_is_turned_away_where_no_room_comes_free(processes: Processes, redis_url: str) -> None:
    gateway = processes.gateway(redis_url, REQUEST_SECONDS="60", MAX_BODY_BYTES_AT_ONCE=str(10 * MB)).ready()
    with connect(gateway) as holder:
        holder.sendall(post_head(10 * MB) + b"x" * 100_000)
        time.sleep(0.5)
        with connect(gateway) as client:
            client.sendall(post_head(1 * MB) + b"x" * 100_000)
            answer = one_answer(client)
    assert status_and_code(answer) == (503, "overloaded")
    assert b"retry-after: 2" in answer.lower()
    assert upload(gateway, body(10 * MB)) == 202  # the holder has gone


def test_a_body_beyond_the_limit_is_answered_413_before_it_is_read(gateway: Gateway) -> None:
    with Memory(gateway.process.pid) as memory:
        for _ in range(20):
            with connect(gateway) as client:
                client.sendall(post_head(1000 * MB))
                assert status_and_code(one_answer(client)) == (413, "body_too_large")
        for _ in range(5):  # to a client that sends before it listens, too
            assert upload(gateway, body(20 * MB)) == 413
    assert memory.peak - memory.before < 50
