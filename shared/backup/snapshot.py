"""A snapshot of Redis as of one moment, from any server: what a replica would be sent, without becoming one.

It needs neither a way to the server's files nor an end of its writes: the server forks, and streams its data as an RDB.
Servers say so in answer to SYNC: `$<length>` or `$EOF:<mark>`, after empty lines for as long as they prepare it.
"""

from __future__ import annotations

from typing import Any, BinaryIO

from redis.exceptions import ResponseError

from shared.backup.errors import BackupError
from shared.store.connection import connect_sync
from shared.store.errors import store_errors

ANSWER_SECONDS = 60.0  # servers send an empty line each few seconds while they prepare
MARK_BYTES = 40
CHUNK = 1 << 20
HEAD_LIMIT = 1000


def write_snapshot(url: str, out: BinaryIO) -> int:
    """Write the RDB of all that the server has; gives its size in bytes. Raises `BackupError` and `StoreError`s."""
    with store_errors(), connect_sync(url, answer_within=ANSWER_SECONDS) as redis:
        connection: Any = redis.connection_pool.get_connection("SYNC")
        try:
            # A stream without a file on the server's side, and no further writes after it.
            for option in (("capa", "eof"), ("rdb-only", "1")):
                connection.send_command("REPLCONF", *option)
                connection.read_response()
            connection.send_command("SYNC")
            return _copy(connection._sock, out)
        except ResponseError as error:
            raise _refused(str(error)) from None
        finally:
            connection.disconnect()
            redis.connection_pool.release(connection)


def _refused(reason: str) -> BackupError:
    return BackupError(
        f"Redis gives no snapshot ({reason}): its user needs the commands SYNC and REPLCONF. A managed server has "
        "snapshots of its own: see docs/operations/backup.md"
    )


def _copy(stream: Any, out: BinaryIO) -> int:
    head = _head(stream)
    if head.startswith(b"-"):
        raise _refused(head[1:].decode(errors="replace"))
    if head.startswith(b"$EOF:") and len(head) == len(b"$EOF:") + MARK_BYTES:
        return _copy_until(head[-MARK_BYTES:], stream, out)
    if head.startswith(b"$") and head[1:].isdigit():
        return _copy_length(int(head[1:]), stream, out)
    raise BackupError("Redis answered SYNC with something else than a snapshot")


def _head(stream: Any) -> bytes:
    """The first line that is not empty. It is read byte by byte: what follows is the snapshot."""
    line = b""
    while len(line) < HEAD_LIMIT:
        byte = stream.recv(1)
        if not byte:
            raise ConnectionError("Redis closed the connection before its snapshot")
        if byte != b"\n":
            line += byte
        elif line.strip():
            return line.strip()
        else:
            line = b""
    raise BackupError("Redis answered SYNC with something else than a snapshot")


def _copy_length(length: int, stream: Any, out: BinaryIO) -> int:
    left = length
    while left:
        left -= out.write(_more(stream, min(CHUNK, left)))
    return length


def _copy_until(mark: bytes, stream: Any, out: BinaryIO) -> int:
    held, written = b"", 0
    while not held.endswith(mark):
        written += out.write(held[:-MARK_BYTES])
        held = held[-MARK_BYTES:] + _more(stream, CHUNK)
    return written + out.write(held[:-MARK_BYTES])


def _more(stream: Any, size: int) -> bytes:
    piece: bytes = stream.recv(size)
    if not piece:
        raise ConnectionError("Redis closed the connection in the middle of its snapshot")
    return piece
