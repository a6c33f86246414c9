"""What the bounds of connections cost a request: the gateway's protocol class beside uvicorn's, without sockets."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

import uvloop
from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from bench.graph import INPUT
from bench.report import conditions, keep, table
from gateway.connections import BoundedProtocol, Connections

JOB = json.dumps({"graph": "two_nodes", "input": INPUT}).encode()
REQUESTS = {
    "a GET": b"GET /api/v1/health/live HTTP/1.1\r\nhost: x\r\n\r\n",
    "a POST of a job": b"POST /api/v1/jobs HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    b"content-length: %d\r\n\r\n%s" % (len(JOB), JOB),
}
HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"2")]
ROUNDS = 10  # for each repetition


class _Nowhere(asyncio.Transport):
    """A transport that takes all, and costs nothing."""

    def write(self, data: Any) -> None: ...
    def is_closing(self) -> bool:
        return False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


async def _app(scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]) -> None:
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": b"{}"})


async def _cpu_us(protocol: HttpToolsProtocol, request: bytes, count: int) -> float:
    begun = time.process_time()
    for _ in range(count):
        protocol.data_received(request)
        while not protocol.cycle.response_complete:  # noqa: ASYNC110 - uvicorn tells nobody
            await asyncio.sleep(0)
    return (time.process_time() - begun) / count * 1e6


async def _rows(rounds: int, count: int) -> list[list[str]]:
    config = Config(_app, lifespan="off", log_config=None, access_log=False, ws="none", timeout_keep_alive=75)
    config.load()
    state = {"connections": Connections(4096, 20)}
    protocols = [kind(config, ServerState(), state) for kind in (HttpToolsProtocol, BoundedProtocol)]
    for protocol in protocols:
        protocol.connection_made(_Nowhere())
    rows = []
    for what, request in REQUESTS.items():
        took: list[list[float]] = [[], []]
        for number in range(rounds + 1):
            for kind in (0, 1) if number % 2 else (1, 0):
                took[kind].append(await _cpu_us(protocols[kind], request, count))
        plain, bounded = (figures[1:] for figures in took)  # the first was to get warm
        more = [ours - theirs for ours, theirs in zip(bounded, plain, strict=True)]
        rows.append([what, *(_spread(figures) for figures in (plain, bounded, more))])
    return rows


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def measure(repeats: int, count: int) -> None:
    """Measure, print and keep."""
    rounds = ROUNDS * repeats
    rows = uvloop.run(_rows(rounds, count))
    columns = ("request", "uvicorn's `HttpToolsProtocol`, µs", "with bounds, µs", "more, µs")
    body = f"{conditions(rounds)} {count:,} requests a run, in turns.\n\n{table(columns, rows)}"
    print(body)
    keep("Protocol", body)
