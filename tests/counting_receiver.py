"""A webhook receiver for thousands of requests a second, in a process of its own: `with CountingReceiver(…)`.

`python -m tests.counting_receiver FILE` answers 204 on a free port of loopback, which it prints, and writes each
request into FILE as a line of JSON. It ends with its standard input.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import ssl
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self

import orjson

ROOT = Path(__file__).resolve().parent.parent
FLUSH_SECONDS = 0.1
STOP_SECONDS = 10.0
REASONS = {204: "No Content", 500: "Internal Server Error", 503: "Service Unavailable"}
DROPPED = 0  # stands for a connection that was closed without an answer
FAILURES = (500, DROPPED, 503)


@dataclass(frozen=True)
class Arrival:
    """One request, when it came (monotonic), its webhook headers, and the status that answered it: 0 is none."""

    at: float
    id: str
    timestamp: str
    signature: str
    body: str
    status: int

    @property
    def headers(self) -> dict[str, str]:
        """What a verifying library asks for."""
        return {"webhook-id": self.id, "webhook-timestamp": self.timestamp, "webhook-signature": self.signature}


class CountingReceiver:
    """The process, its address, and what it has received.

    The first request of each `fail_every`-th message fails: 500, a closed connection and 503 take turns. The others are
    answered after a time between 0 and `slowest` seconds. `certificate`: a PEM file, for https.
    """

    def __init__(self, file: Path, *, fail_every: int = 0, slowest: float = 0, certificate: Path | None = None) -> None:
        self.file = file
        self.file.touch()
        self.scheme = "http" if certificate is None else "https"
        options = [f"--fail-every={fail_every}", f"--slowest={slowest}"]
        options += [] if certificate is None else [f"--certificate={certificate}"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.counting_receiver", str(file), *options],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline() or 0)
        assert self.port, "the receiver did not start"

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}/hook"

    def arrivals(self) -> list[Arrival]:
        """The requests that came until 0.1 s ago, oldest first; all, once the receiver is closed."""
        lines = self.file.read_bytes().split(b"\n")[:-1]  # a line that is being written is not there yet
        return [Arrival(**orjson.loads(line)) for line in lines]

    def close(self) -> None:
        """End it. What it received stays to be read."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Recorder:
    """Decides on answers, and writes down what came."""

    def __init__(self, file: BinaryIO, fail_every: int, slowest: float) -> None:
        self.file = file
        self.fail_every = fail_every
        self.slowest = slowest
        self.seen: Counter[str] = Counter()
        self.failed = 0

    def receive(self, headers: dict[bytes, bytes], body: bytes) -> tuple[int, float]:
        """The status that answers this request, and after how many seconds."""
        at = time.monotonic()
        message = headers[b"webhook-id"].decode()
        self.seen[message] += 1
        status, delay = 204, random.uniform(0, self.slowest)
        if self.fail_every and self.seen[message] == 1 and len(self.seen) % self.fail_every == 0:
            status, delay = FAILURES[self.failed % len(FAILURES)], 0.0
            self.failed += 1
        arrival = Arrival(
            at,
            message,
            headers[b"webhook-timestamp"].decode(),
            headers[b"webhook-signature"].decode(),
            body.decode(),
            status,
        )
        self.file.write(orjson.dumps(arrival) + b"\n")
        return status, delay


class _Connection(asyncio.Protocol):
    """HTTP/1.1 as our sender speaks it: a POST with a `Content-Length`, and the next one when that is answered."""

    transport: asyncio.Transport

    def __init__(self, recorder: _Recorder) -> None:
        self.recorder = recorder
        self.read = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.read += data
        head, end, body = self.read.partition(b"\r\n\r\n")
        if not end:
            return
        lines = (line.partition(b":") for line in head.split(b"\r\n")[1:])
        headers = {name.lower(): value.strip() for name, _, value in lines}
        if len(body) < int(headers[b"content-length"]):
            return
        self.read = b""
        status, delay = self.recorder.receive(headers, body)
        if delay:
            asyncio.get_running_loop().call_later(delay, self.answer, status)
        else:
            self.answer(status)

    def answer(self, status: int) -> None:
        if self.transport.is_closing():
            return
        if status == DROPPED:
            self.transport.abort()
            return
        more = "" if status == 204 else "Content-Length: 0\r\n"
        more += "Retry-After: 1\r\n" if status == 503 else ""
        self.transport.write(f"HTTP/1.1 {status} {REASONS[status]}\r\n{more}\r\n".encode())


async def serve(file: Path, fail_every: int, slowest: float, certificate: str | None) -> None:
    """Listen, say where, and answer until standard input ends."""
    context = None
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
    with file.open("ab") as out:
        recorder = _Recorder(out, fail_every, slowest)
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _Connection(recorder), "127.0.0.1", 0, ssl=context, backlog=1024)
        print(server.sockets[0].getsockname()[1], flush=True)
        ended = loop.run_in_executor(None, sys.stdin.read)
        while not ended.done():
            out.flush()
            await asyncio.wait((ended,), timeout=FLUSH_SECONDS)


def main(arguments: Sequence[str]) -> None:
    import uvloop

    parser = argparse.ArgumentParser(prog="python -m tests.counting_receiver")
    parser.add_argument("file", type=Path)
    parser.add_argument("--fail-every", type=int, default=0)
    parser.add_argument("--slowest", type=float, default=0.0)
    parser.add_argument("--certificate")
    asked = parser.parse_args(arguments)
    uvloop.run(serve(asked.file, asked.fail_every, asked.slowest, asked.certificate))


if __name__ == "__main__":
    main(sys.argv[1:])
