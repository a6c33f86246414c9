"""How an answer leaves: two small writes are two packets, and wake the client twice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gateway.connections import BoundedProtocol

SMALL_BYTES = 65_536  # what is copied to go out with the head


class Outlet:
    """The transport as an answer sees it: its head goes out with the first part of its body, in one packet.

    And closing it waits until the client has said what it came for.
    """

    __slots__ = ("_begun", "_connection", "_head", "is_closing")

    def __init__(self, connection: BoundedProtocol) -> None:
        self._connection = connection
        self._head = b""
        self._begun = False
        self.is_closing = connection.transport.is_closing

    def write(self, data: bytes) -> None:
        if not self._begun:
            self._begun, self._head = True, data
            self._connection.loop.call_soon(self.flush)  # an answer that is made bit by bit begins at once
        elif self._head and len(data) <= SMALL_BYTES:
            head, self._head = self._head, b""
            self._write(head + data)
        else:
            self.flush()
            self._write(data)

    def flush(self) -> None:
        """Send the head, where it has not gone out."""
        head, self._head = self._head, b""
        self._write(head)

    def close(self) -> None:
        self.flush()
        self._connection.close_when_heard()

    def _write(self, data: bytes) -> None:
        if data and not self.is_closing():
            self._connection.transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection.transport, name)
