"""How the real site treats a gateway that is slow, silent or gone: a small server of the test's own plays it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Self

import pytest

from tests.deploy.nginx import Nginx
from tests.servers import free_port

JOB = "/api/v1/jobs/0123"
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Played(threading.Thread):
    """Gives each request on each connection to `answer`, which writes what it likes. True closes the connection."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.answer: Callable[[bytes, socket.socket], bool] = lambda request, connection: bool(connection.sendall(OK))
        self.heard: list[bytes] = []
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", free_port()))
        self.port: int = self._listener.getsockname()[1]

    def run(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            while request := _request(connection):
                self.heard.append(request)
                if self.answer(request, connection):
                    return

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def _request(connection: socket.socket) -> bytes:
    got = b""
    while b"\r\n\r\n" not in got:
        piece = connection.recv(65_536)
        if not piece:
            return b""
        got += piece
    head, _, body = got.partition(b"\r\n\r\n")
    length = next(
        (int(line.partition(b":")[2]) for line in head.splitlines() if line.lower().startswith(b"content-length")), 0
    )
    while len(body) < length:
        body += connection.recv(65_536)
    return head + b"\r\n\r\n" + body


@pytest.fixture(scope="module")
def played() -> Iterator[Played]:
    with Played() as server:
        yield server


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory, played: Played) -> Iterator[Nginx]:
    folder = tmp_path_factory.mktemp("upstream")
    with Nginx(folder / "nginx", played.port, {"proxy_read_timeout 75s": "proxy_read_timeout 1s"}) as running:
        yield running


def test_each_event_arrives_before_the_next_one_is_sent_and_long_after(nginx: Nginx, played: Played) -> None:
    seen = threading.Event()

    def send_slowly(_: bytes, connection: socket.socket) -> bool:
        connection.sendall(HEAD)
        for number in range(5):
            connection.sendall(b"9\r\ndata: %d\n\n\r\n" % number)
            assert seen.wait(10), "it was held back"
            seen.clear()
            if number == 3:
                time.sleep(1.5)  # longer than other answers may take here
        connection.sendall(b"0\r\n\r\n")
        return False

    played.answer = send_slowly
    with nginx.client() as client, client.stream("GET", f"{JOB}/events") as answer:
        pieces = []
        for piece in answer.iter_raw():
            pieces.append(piece)
            seen.set()
    assert pieces == [b"data: %d\n\n" % number for number in range(5)]


def test_any_answer_that_says_so_is_not_held_back(nginx: Nginx, played: Played) -> None:
    seen = threading.Event()

    def send_slowly(_: bytes, connection: socket.socket) -> bool:
        connection.sendall(HEAD.replace(b"transfer", b"x-accel-buffering: no\r\ntransfer") + b"1\r\na\r\n")
        assert seen.wait(10), "it was held back"
        connection.sendall(b"1\r\nb\r\n0\r\n\r\n")
        return False

    played.answer = send_slowly
    with nginx.client() as client, client.stream("GET", "/api/v1/elsewhere") as answer:
        pieces = answer.iter_raw()
        assert next(pieces) == b"a"
        seen.set()
        assert b"".join(pieces) == b"b"


def test_a_gateway_that_does_not_answer_is_a_504_and_a_post_reaches_it_once(nginx: Nginx, played: Played) -> None:
    given_up = threading.Event()
    played.answer = lambda request, connection: bool(given_up.wait(20)) or True
    played.heard.clear()
    with nginx.client() as client:
        answer = client.post("/api/v1/jobs", json={"graph": "echo"})
    given_up.set()
    assert (answer.status_code, answer.json()["status"], answer.json()["code"]) == (504, 504, "gateway_timeout")
    assert answer.headers["retry-after"] == "1"
    assert "Idempotency-Key" in answer.json()["detail"]
    assert len(played.heard) == 1


def test_a_connection_that_the_gateway_closes_costs_no_get_and_never_sends_a_post_twice(
    nginx: Nginx, played: Played
) -> None:
    hung_up_on: set[bytes] = set()

    def hang_up_on_the_first(request: bytes, connection: socket.socket) -> bool:
        tag = request.partition(b"tag=")[2].partition(b" ")[0]
        if not tag or tag in hung_up_on:
            connection.sendall(OK)
            return False
        hung_up_on.add(tag)
        return True

    played.answer = hang_up_on_the_first
    with nginx.client() as client:
        for number in range(4):
            assert client.get("/api/v1/jobs").status_code == 200, "nginx keeps this connection"
            assert client.get(f"/api/v1/jobs?tag=get{number}").status_code == 200, "tried again on another connection"
            assert client.get("/api/v1/jobs").status_code == 200
            answer = client.post(f"/api/v1/jobs?tag=post{number}", json={"graph": "echo"})
            assert (answer.status_code, answer.json()["code"]) == (502, "gateway_unavailable")
            assert sum(b"tag=post%d " % number in request for request in played.heard) == 1


def test_connections_to_the_gateway_are_kept_and_closed_by_nginx_before_the_gateway_would(
    nginx: Nginx, played: Played
) -> None:
    closed = threading.Event()

    def answer_and_watch(request: bytes, connection: socket.socket) -> bool:
        connection.sendall(OK)
        if b"last" in request and not connection.recv(1, socket.MSG_PEEK):
            closed.set()
        return False

    played.answer = answer_and_watch
    before = played.connections
    with nginx.client() as client:  # over one connection, so that one nginx process serves it
        for _ in range(20):
            assert client.get("/api/v1/jobs").status_code == 200
        assert played.connections <= before + 1
        begun = time.monotonic()
        client.get("/api/v1/jobs?last")
        assert closed.wait(7.5), "GATEWAY_DRAIN_SECONDS is 8"
        assert time.monotonic() - begun > 4
    assert b"connection: close" not in played.heard[-1].lower()


def test_what_the_gateway_is_told(nginx: Nginx, played: Played) -> None:
    played.answer = lambda request, connection: bool(connection.sendall(OK))
    strange = {
        "x-forwarded-for": "6.6.6.6", "x-forwarded-host": "evil.test", "x-forwarded-proto": "http",
        "x-request-id": "me",
    }  # fmt: skip
    with nginx.client("127.0.0.3") as client:
        answer = client.get("/a//b%2e/c%2fd?e=%20f", headers=strange)
    assert answer.status_code == 200
    first, *lines = played.heard[-1].decode().splitlines()
    assert first == "GET /a//b%2e/c%2fd?e=%20f HTTP/1.1"
    told = [(name.lower(), value) for name, _, value in (line.partition(": ") for line in lines if line)]
    assert [value for name, value in told if name == "x-forwarded-for"] == ["127.0.0.3"]
    assert [value for name, value in told if name == "x-forwarded-proto"] == ["https"]
    assert [value for name, value in told if name == "host"] == ["localhost"]
    assert not {"x-forwarded-host", "connection"} & {name for name, _ in told}
    (request_id,) = [value for name, value in told if name == "x-request-id"]
    assert len(request_id) == 32


@pytest.mark.parametrize("path", ["/api/v1/jobs", "/page.html", f"{JOB}/events", "/health", "/static/a.css"])
def test_no_gateway_at_all_is_a_502_that_says_so(tmp_path: Path, path: str) -> None:
    with Nginx(tmp_path / "nginx", free_port()) as nginx, nginx.client() as client:
        answer = client.get(path)
    assert answer.status_code == 502
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.json()["status"], answer.json()["code"]) == (502, "gateway_unavailable")
    assert answer.headers.get_list("strict-transport-security") == ["max-age=31536000"]
    assert answer.headers.get_list("cache-control") == ["no-store"]
