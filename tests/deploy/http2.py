"""A GET by HTTP/2, spoken by hand: enough of it (RFC 9113, RFC 7541) to ask one question and read its status."""

from __future__ import annotations

import socket
import ssl

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _SETTINGS, _GOAWAY = 0, 1, 4, 7
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
_STATUSES = {0x88: 200, 0x8C: 400, 0x8D: 404, 0x8E: 500}  # those of the static table that may come here


def get(context: ssl.SSLContext, host: str, port: int, path: str) -> tuple[int, bytes]:
    """Status and body. Raises `AssertionError` where the server does not choose HTTP/2."""
    context.set_alpn_protocols(["h2", "http/1.1"])
    with (
        socket.create_connection(("127.0.0.1", port), 20) as plain,
        context.wrap_socket(plain, server_hostname=host) as connection,
    ):
        assert connection.selected_alpn_protocol() == "h2"
        head = b"\x82\x87"  # :method GET, :scheme https
        head += b"\x04" + _text(path) + b"\x01" + _text(f"{host}:{port}")  # :path, :authority
        connection.sendall(_PREFACE + _frame(_SETTINGS, 0, 0, b""))
        connection.sendall(_frame(_HEADERS, _END_STREAM | _END_HEADERS, 1, head))
        status, body = 0, b""
        while True:
            kind, flags, payload = _read(connection)
            if kind == _SETTINGS and not flags & _ACK:
                connection.sendall(_frame(_SETTINGS, _ACK, 0, b""))
            elif kind == _HEADERS:
                status = _STATUSES[payload.lstrip(b" ")[0]]  # which 0x20, a change of the table, may go before
            elif kind == _DATA:
                body += payload
            assert kind != _GOAWAY, payload
            if kind in (_DATA, _HEADERS) and flags & _END_STREAM:
                return status, body


def _text(value: str) -> bytes:
    assert len(value) < 127
    return bytes([len(value)]) + value.encode()


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def _read(connection: ssl.SSLSocket) -> tuple[int, int, bytes]:
    head = _exactly(connection, 9)
    return head[3], head[4], _exactly(connection, int.from_bytes(head[:3], "big"))


def _exactly(connection: ssl.SSLSocket, size: int) -> bytes:
    got = b""
    while len(got) < size:
        piece = connection.recv(size - len(got))
        assert piece, "the server has closed"
        got += piece
    return got
