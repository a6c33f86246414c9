"""A proxy by which a network namespace that has only a loopback gets at the package registries, and at nothing else."""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import socketserver
import struct
import threading
from contextlib import suppress
from typing import Self

PORT = 3128
PORTS_OUT = (80, 443)
_CLONE_NEWNET = 0x40000000
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1


class WayOut:
    """Listens on PORT of another process's network namespace, and connects from this one's. Needs root."""

    def __init__(self, pid: int) -> None:
        found: list[socket.socket] = []
        inside = threading.Thread(target=lambda: found.append(_listener_inside(pid)))
        inside.start()  # a namespace belongs to a thread, and this one ends with it
        inside.join()
        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Request, bind_and_activate=False)
        self._server.socket.close()
        self._server.socket = found[0]
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _listener_inside(pid: int) -> socket.socket:
    namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).setns(namespace, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "cannot enter the network namespace")
    finally:
        os.close(namespace)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh", b"lo", _IFF_UP))
    return socket.create_server(("127.0.0.1", PORT), backlog=64)


class _Request(socketserver.BaseRequestHandler):
    """One request of a client: CONNECT, or a GET whose answer ends the connection."""

    def handle(self) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            more = self.request.recv(65536)
            if not more:
                return
            head += more
        method, target, rest = head.split(b" ", 2)
        address = target if method == b"CONNECT" else target.removeprefix(b"http://").partition(b"/")[0]
        host, _, port = address.decode().rpartition(":") if b":" in address else (address.decode(), "", "80")
        try:
            assert int(port) in PORTS_OUT
            out = socket.create_connection((host, int(port)), timeout=60)
        except (OSError, AssertionError, ValueError):
            self.request.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            return
        with out:
            if method == b"CONNECT":
                self.request.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                path = b"/" + target.removeprefix(b"http://").partition(b"/")[2]
                lines = [line for line in rest.split(b"\r\n") if not line.lower().startswith(b"connection:")]
                lines.insert(1, b"Connection: close")
                out.sendall(method + b" " + path + b" " + b"\r\n".join(lines))
            upward = threading.Thread(target=_pass_on, args=(self.request, out), daemon=True)
            upward.start()
            _pass_on(out, self.request)
            upward.join(1)


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(262144):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)
