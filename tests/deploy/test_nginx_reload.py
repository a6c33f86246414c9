"""Ten thousand requests through the real nginx while the gateway is replaced, again and again: not one fails."""

from __future__ import annotations

import asyncio
import signal
import ssl
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx

from tests.deploy.nginx import NAME, Nginx
from tests.deploy.service import start_service
from tests.servers import Gateway, Processes, wait_until

REQUESTS = 10_000
CLIENTS = 16
PAUSE_SECONDS = 0.02  # so that there is time for all else on a small machine
RELOADS = 3
EACH_SUBMIT = 10  # the other requests ask for a job
JOB = b'{"graph":"echo","input":{"value":1}}'


class Load:
    """Clients that keep their connections, each with an address of its own, as nginx limits what comes from one."""

    def __init__(self, nginx: Nginx, key: str) -> None:
        self.port = nginx.https_port
        self.context: ssl.SSLContext = nginx.trusting()
        self.head = f"Host: {NAME}\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n".encode()
        self.statuses: Counter[tuple[str, int | str]] = Counter()
        self.reloaded = asyncio.Event()

    @property
    def sent(self) -> int:
        return self.statuses.total()

    async def run(self) -> None:
        """Until enough was sent, and the reloads are done."""
        await asyncio.gather(*(self._client(f"127.0.1.{number + 1}") for number in range(CLIENTS)))

    async def _client(self, address: str) -> None:
        streams = None
        job, number = b"", 0
        while self.sent < REQUESTS or not self.reloaded.is_set():
            submits = number % EACH_SUBMIT == 0
            number += 1
            asks = b"POST /api/v1/jobs" if submits else b"GET /api/v1/jobs/" + job
            length = b"Content-Length: %d\r\n\r\n%b" % (len(JOB), JOB) if submits else b"\r\n"
            try:
                streams = streams or await asyncio.open_connection(
                    "127.0.0.1", self.port, ssl=self.context, server_hostname=NAME, local_addr=(address, 0)
                )
                reader, writer = streams
                writer.write(asks + b" HTTP/1.1\r\n" + self.head + length)
                head = await reader.readuntil(b"\r\n\r\n")
                body = await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].split(None, 1)[0]))
            except (OSError, EOFError, asyncio.IncompleteReadError) as error:
                self.statuses[asks[:4].decode(), repr(error)] += 1
                streams = None
                continue
            self.statuses[asks[:4].decode(), int(head[9:12])] += 1
            if submits:
                job = body.partition(b'"id":"')[2].partition(b'"')[0] or job
            if b"connection: close" in head.lower():  # nginx does so after a thousand requests
                writer.close()
                streams = None
            await asyncio.sleep(PAUSE_SECONDS)
        if streams:
            streams[1].close()


async def reload_often(gateway: Gateway, load: Load) -> None:
    """Under load, one reload after the other."""
    for number in range(RELOADS):
        gateway.process.send(signal.SIGHUP)
        async with asyncio.timeout(60):
            while gateway.process.log.count("the old processes leave") <= number:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
    await asyncio.sleep(1)
    load.reloaded.set()


async def test_ten_thousand_requests_while_gateways_reload(tmp_path: Path, valkey_url: str) -> None:
    with Processes(tmp_path / "processes") as processes:
        gateway, key = start_service(processes, valkey_url)
        with Nginx(tmp_path / "nginx", gateway.port) as nginx:
            load = Load(nginx, key)
            begun = time.monotonic()
            await asyncio.gather(load.run(), reload_often(gateway, load))
            print(f"{load.sent} requests in {time.monotonic() - begun:.1f} s: {dict(load.statuses)}")
            assert {*load.statuses} == {("POST", 202), ("GET ", 200)}, load.statuses
            assert load.sent >= REQUESTS
            assert "upstream" not in nginx.error_log.read_text()
            accepted = load.statuses["POST", 202]
            with nginx.client(authorization=f"Bearer {key}") as client:
                not_ended = {"status": "queued,running", "limit": 1}
                wait_until(lambda: not client.get("/api/v1/jobs", params=not_ended).json()["items"], 60)
                assert sum(1 for _ in succeeded(client)) == accepted


def succeeded(client: httpx.Client) -> Iterator[str]:
    """The ids of all jobs that have."""
    wanted: dict[str, str] = {"limit": "100", "status": "succeeded"}
    while True:
        page = client.get("/api/v1/jobs", params=wanted).json()
        yield from (job["id"] for job in page["items"])
        if page["next_cursor"] is None:
            return
        wanted["cursor"] = page["next_cursor"]
