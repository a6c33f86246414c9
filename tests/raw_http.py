"""HTTP by hand, over sockets: for clients that a library would not play."""

from __future__ import annotations

import socket
import time
from contextlib import suppress

import orjson

from tests.servers import Gateway

ANSWER_SECONDS = 30.0


def connect(gateway: Gateway) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", gateway.port), timeout=ANSWER_SECONDS)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def post_head(length: int | str, path: str = "/api/v1/jobs") -> bytes:
    """The head of a POST of JSON with this Content-Length."""
    return (
        f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    ).encode()


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode()


def all_until_closed(connection: socket.socket) -> bytes:
    """What the server still says until it closes. Raises `TimeoutError` where it does not close."""
    said = b""
    with suppress(ConnectionError):
        while piece := connection.recv(65536):
            said += piece
    return said


def one_answer(connection: socket.socket) -> bytes:
    """The next answer, as long as its Content-Length says."""
    said = b""
    while (end := said.find(b"\r\n\r\n")) < 0 or len(said) < end + 4 + _content_length(said[:end]):
        piece = connection.recv(65536)
        assert piece, f"closed after {said!r}"
        said += piece
    return said


def _content_length(head: bytes) -> int:
    return next(int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))


def status_and_code(answer: bytes) -> tuple[int, str]:
    """The status, and a problem's code."""
    head, _, body = answer.partition(b"\r\n\r\n")
    if not head:
        return 0, ""
    with suppress(orjson.JSONDecodeError):
        return int(head.split()[1]), orjson.loads(body).get("code", "")
    return int(head.split()[1]), ""


def drip(connection: socket.socket, data: bytes, every: float = 1.0) -> float:
    """Send byte by byte until the server closes or all is sent; gives the seconds it took."""
    started = time.monotonic()
    connection.settimeout(every)
    for place in range(len(data)):
        try:
            connection.send(data[place : place + 1])
            if not connection.recv(1, socket.MSG_PEEK):
                break
            break  # it has said something
        except TimeoutError:
            continue
        except ConnectionError:
            break
    connection.settimeout(ANSWER_SECONDS)
    return time.monotonic() - started


def upload(gateway: Gateway, sent: bytes) -> int:
    """Post a job's JSON, all of it before listening; the status that the client sees."""
    with connect(gateway) as client:
        with suppress(ConnectionError):
            client.sendall(post_head(len(sent)) + sent)
        return status_and_code(one_answer(client))[0]
