"""TLS in front of a server that has none: on one port it takes both, as sentinels speak plainly and clients do not."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from typing import Self

TLS_HANDSHAKE = 0x16


class TLSFront:
    """Passes all that comes to `port`, plain or TLS, on to the server at `to`. `encrypted` counts what came by TLS."""

    def __init__(self, context: ssl.SSLContext, to: int) -> None:
        self.encrypted = 0
        self._context = context
        self._to = to
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._sockets: list[socket.socket] = []

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, name="tls-front", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for one in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            first = client.recv(1, socket.MSG_PEEK)
            if first and first[0] == TLS_HANDSHAKE:
                client = self._context.wrap_socket(client, server_side=True)
                self.encrypted += 1
            server = socket.create_connection(("127.0.0.1", self._to))
            self._sockets += [client, server]
            threading.Thread(target=_pass, args=(server, client), daemon=True).start()
            _pass(client, server)
        client.close()


def _pass(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while chunk := source.recv(1 << 16):
            target.sendall(chunk)
    for one in (source, target):
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
        one.close()
