"""Clients that send slowly, stop in the middle, never end or never read: each is cut, and others are served."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import orjson
import psutil
import pytest

from gateway.routes.docs import SWAGGER_UI_VERSION
from tests.integration.gateway.conftest import publish_echo
from tests.raw_http import all_until_closed, connect, drip, get, one_answer, post_head, status_and_code
from tests.servers import Gateway, Processes, Valkey, fetch, wait_until

SECONDS = 2.0  # what the gateway of these tests gives a client
LATE = SECONDS + 12.0  # slack, for a machine that is busy
LARGE = f"/static/{SWAGGER_UI_VERSION}/swagger-ui-bundle.js"
JOB = b'{"graph": "echo", "input": 1}'


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    server = Valkey(tmp_path_factory.mktemp("valkey"))
    publish_echo(server.url)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def gateway(valkey: Valkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with Processes(tmp_path_factory.mktemp("processes")) as processes:
        yield processes.gateway(valkey.url, REQUEST_SECONDS=str(SECONDS)).ready()


@pytest.fixture
def others_are_served(gateway: Gateway) -> Iterator[list[float]]:
    """Another client, all the while: each of its submits is accepted. Gives the seconds that each took."""
    took: list[float] = []
    statuses: list[int] = []
    done = threading.Event()

    def submit() -> None:
        while not done.wait(0.05):
            started = time.monotonic()
            statuses.append(fetch(f"{gateway.api}/jobs", JOB)[0])
            took.append(time.monotonic() - started)

    thread = threading.Thread(target=submit)
    thread.start()
    yield took
    done.set()
    thread.join()
    assert set(statuses) == {202}
    assert max(took) < 5


@pytest.mark.parametrize(
    ("at_once", "byte_by_byte"),
    [
        (b"", get("/api/v1/jobs?" + "x" * 100)),
        (post_head(100), b'{"graph": "echo", "input": "' + b"x" * 100),
        (post_head("100").replace(b"content-length: 100", b"transfer-encoding: chunked"), b"1\r\nx\r\n" * 50),
    ],
    ids=["headers", "body", "chunked body"],
)
def test_a_client_that_sends_a_byte_a_second_is_answered_408_and_others_are_served(
    gateway: Gateway, others_are_served: list[float], at_once: bytes, byte_by_byte: bytes
) -> None:
    with connect(gateway) as client:
        client.sendall(at_once)
        assert SECONDS / 2 < drip(client, byte_by_byte) < LATE
        assert status_and_code(all_until_closed(client)) == (408, "request_timeout")
    assert others_are_served


def test_a_client_that_says_nothing_is_cut_after_the_limit_and_one_that_was_answered_is_not(gateway: Gateway) -> None:
    with connect(gateway) as silent, connect(gateway) as kept:
        kept.sendall(get("/api/v1/health/live"))
        assert status_and_code(one_answer(kept))[0] == 200
        started = time.monotonic()
        assert all_until_closed(silent) == b""
        assert SECONDS / 2 < time.monotonic() - started < LATE
        kept.sendall(get("/api/v1/health/live"))
        assert status_and_code(one_answer(kept))[0] == 200


def test_the_next_request_of_a_connection_may_not_be_slow_either(gateway: Gateway) -> None:
    with connect(gateway) as client:
        client.sendall(get("/api/v1/health/live"))
        assert status_and_code(one_answer(client))[0] == 200
        assert drip(client, get("/api/v1/health/live")) < LATE
        assert status_and_code(all_until_closed(client)) == (408, "request_timeout")


def test_a_long_poll_and_the_answer_to_it_are_not_cut(gateway: Gateway) -> None:
    job_id = orjson.loads(fetch(f"{gateway.api}/jobs", JOB)[1])["id"]
    with connect(gateway) as client:
        client.sendall(get(f"/api/v1/jobs/{job_id}?wait={2 * SECONDS:g}"))
        assert b'"queued"' in one_answer(client)


def test_a_body_may_take_longer_where_it_comes_fast_enough(gateway: Gateway) -> None:
    body = b'{"graph": "echo", "input": "%s"}' % (b"x" * 900_000)
    with connect(gateway) as client:
        client.sendall(post_head(len(body)))
        started = time.monotonic()
        for start in range(0, len(body), 100_000):
            client.sendall(body[start : start + 100_000])
            time.sleep(0.45)
        assert time.monotonic() - started > SECONDS
        assert status_and_code(one_answer(client))[0] == 202


def test_headers_without_an_end_are_refused_and_cost_no_memory(
    gateway: Gateway, others_are_served: list[float]
) -> None:
    before = psutil.Process(gateway.process.pid).memory_info().rss
    endless = {
        "one header": b"GET / HTTP/1.1\r\nx: ",
        "many headers": b"GET / HTTP/1.1\r\n",
        "an address": b"GET /",
        "trailers": post_head(1).replace(b"content-length: 1", b"transfer-encoding: chunked") + b"1\r\nx\r\n0\r\n",
    }
    for name, start in endless.items():
        with connect(gateway) as client:
            piece = b"x: y\r\n" * 1000 if name in ("many headers", "trailers") else b"x" * 6000
            with suppress(ConnectionError):
                client.sendall(start)
                for _ in range(10_000):  # 60 MB
                    client.sendall(piece)
            refused = 414 if name == "an address" else 431
            assert status_and_code(all_until_closed(client))[0] in (refused, 0), name
    assert psutil.Process(gateway.process.pid).memory_info().rss - before < 50_000_000


def test_headers_that_are_too_large_are_answered_431(gateway: Gateway) -> None:
    with connect(gateway) as client:
        client.sendall(b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"y" * 70_000 + b"\r\n\r\n")
        assert status_and_code(all_until_closed(client)) == (431, "headers_too_large")


@pytest.mark.parametrize(
    ("refused", "status"),
    [
        (b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"y" * 400_000, 431),
        (post_head(10**9), 413),
        (b"GET /api/v1/health/live HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n", 200),
    ],
    ids=["headers", "body", "body that nobody needs"],
)
def test_a_client_that_was_answered_and_goes_on_sending_is_cut_soon(
    gateway: Gateway, refused: bytes, status: int
) -> None:
    with connect(gateway) as client:
        client.sendall(refused)
        assert status_and_code(one_answer(client))[0] == status

        def cut() -> bool:
            try:
                client.send(b"x")
            except ConnectionError:
                return True
            return False

        wait_until(cut, LATE, what="it is cut")


def test_what_is_no_http_is_answered_with_a_problem(gateway: Gateway) -> None:
    with connect(gateway) as client:
        client.sendall(b"\x16\x03\x01 hello?\r\n\r\n")
        assert status_and_code(all_until_closed(client)) == (400, "bad_request")


def test_requests_that_are_queued_up_behind_a_slow_one_are_not_kept(gateway: Gateway) -> None:
    before = psutil.Process(gateway.process.pid).memory_info().rss
    job_id = orjson.loads(fetch(f"{gateway.api}/jobs", JOB)[1])["id"]
    clients = [connect(gateway) for _ in range(20)]
    for client in clients:
        client.sendall(get(f"/api/v1/jobs/{job_id}?wait=30"))
    many = get("/api/v1/health/live") * 5000
    for client in clients:
        client.settimeout(1)
        with suppress(TimeoutError, ConnectionError):
            client.sendall(many)
    time.sleep(0.5)
    assert psutil.Process(gateway.process.pid).memory_info().rss - before < 50_000_000
    for client in clients:
        client.close()
    assert fetch(f"{gateway.api}/health/live")[0] == 200


def test_32_requests_may_wait_behind_a_slow_one_and_a_connection_with_more_is_cut(gateway: Gateway) -> None:
    job_id = orjson.loads(fetch(f"{gateway.api}/jobs", JOB)[1])["id"]
    with connect(gateway) as few, connect(gateway) as many:
        few.sendall(get(f"/api/v1/jobs/{job_id}?wait=1") + get("/api/v1/health/live") * 32)
        many.sendall(get(f"/api/v1/jobs/{job_id}?wait=30") + get("/api/v1/health/live") * 33)
        assert all_until_closed(many) == b""
        said = b""
        while said.count(b"HTTP/1.1 200") < 33:
            piece = few.recv(65536)
            assert piece, said
            said += piece


def test_a_client_that_does_not_read_its_answer_is_cut(gateway: Gateway) -> None:
    clients = [connect(gateway) for _ in range(4)]
    for client in clients:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.sendall(get(LARGE) * 20)
    server = psutil.Process(gateway.process.pid)
    wait_until(lambda: len(_established(server, gateway)) >= 4, what="they are connected")
    wait_until(lambda: len(_established(server, gateway)) == 0, 45, what="they are cut")
    for client in clients:
        client.close()


def _established(server: psutil.Process, gateway: Gateway) -> list[object]:
    return [
        one
        for one in server.net_connections("tcp")
        if one.status == psutil.CONN_ESTABLISHED and one.laddr.port == gateway.port
    ]


def test_clients_that_disconnect_in_the_middle_of_a_body_or_a_long_poll_leave_nothing(
    gateway: Gateway, valkey: Valkey
) -> None:
    job_id = orjson.loads(fetch(f"{gateway.api}/jobs", JOB)[1])["id"]
    with valkey.client() as client:
        jobs = len(client.keys("mas:job:*"))
    server = psutil.Process(gateway.process.pid)
    before = len(server.open_files()) + len(_established(server, gateway))
    for _ in range(100):
        with connect(gateway) as poll, connect(gateway) as half:
            poll.sendall(get(f"/api/v1/jobs/{job_id}?wait=60"))
            half.sendall(post_head(1000) + b'{"graph": "echo", ')
    wait_until(lambda: len(server.open_files()) + len(_established(server, gateway)) <= before, 15)
    metrics = fetch(f"{gateway.url}/metrics")[1]
    assert b'status="500"' not in metrics
    assert "Traceback" not in gateway.process.log
    with valkey.client() as client:
        assert len(client.keys("mas:job:*")) == jobs
    assert fetch(f"{gateway.api}/jobs", JOB)[0] == 202


def test_a_long_poll_ends_with_its_client_also_where_a_request_waits_behind_it(gateway: Gateway) -> None:
    job_id = orjson.loads(fetch(f"{gateway.api}/jobs", JOB)[1])["id"]

    def polls_ended() -> float:
        lines = fetch(f"{gateway.url}/metrics")[1].decode().splitlines()
        return sum(
            float(line.split()[-1])
            for line in lines
            if line.startswith("mas_http_request_seconds_count") and '/jobs/{job_id}"' in line
        )

    before = polls_ended()
    with connect(gateway) as client:
        client.sendall(get(f"/api/v1/jobs/{job_id}?wait=60") + get("/api/v1/health/live"))
    wait_until(lambda: polls_ended() > before, 20, what="the poll has ended")
