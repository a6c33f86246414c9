"""A snapshot of Redis as it comes over a connection: in any pieces, and not to its end."""

from __future__ import annotations

import io

import pytest

from shared.backup.errors import BackupError
from shared.backup.snapshot import MARK_BYTES, _copy

MARK = bytes(range(65, 65 + MARK_BYTES))  # 40 random characters
DATA = b"REDIS0011" + MARK[:-1] + b"\n" + bytes(range(255, -1, -1)) * 20 + MARK[1:] + b"$EOF:" + MARK[:20]


class Stream:
    """Gives its bytes in pieces of this size, and then none."""

    def __init__(self, data: bytes, piece: int) -> None:
        self.data = io.BytesIO(data)
        self.piece = piece

    def recv(self, size: int) -> bytes:
        return self.data.read(min(size, self.piece))


@pytest.mark.parametrize("piece", [1, 7, 39, 40, 41, 100, 1 << 20])
@pytest.mark.parametrize("start", [b"\n\n$EOF:" + MARK + b"\r\n", b"\n$%d\r\n" % len(DATA)])
def test_what_comes_is_what_is_written_in_whatever_pieces(start: bytes, piece: int) -> None:
    end = MARK if b"EOF" in start else b""
    out = io.BytesIO()
    assert _copy(Stream(start + DATA + end, piece), out) == len(DATA)
    assert out.getvalue() == DATA


@pytest.mark.parametrize("start", [b"$EOF:" + MARK + b"\r\n", b"$%d\r\n" % (len(DATA) + 1)])
def test_a_snapshot_that_breaks_off_is_none(start: bytes) -> None:
    for sent in (start[:3], start, start + DATA):
        with pytest.raises(ConnectionError):
            _copy(Stream(sent, 1000), io.BytesIO())


@pytest.mark.parametrize("answer", [b"-NOPERM no permission\r\n", b"+OK\r\n", b"$-1\r\n", b"x" * 2000])
def test_another_answer_is_said(answer: bytes) -> None:
    with pytest.raises(BackupError):
        _copy(Stream(answer, 1000), io.BytesIO())
