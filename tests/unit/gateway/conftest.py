"""A gateway on a Redis in memory, a client that speaks to it without a socket, and someone who plays the worker."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import fakeredis
import httpx
import orjson
import pytest
from fastapi import FastAPI
from redis.asyncio import Redis

from gateway.main import create_app
from gateway.notices import Waiters
from gateway.services import Services
from shared.api_keys import SCOPES, Scope, new_key
from shared.settings import Settings
from shared.store import Claimed, ClaimedDelivery, DeliveryLog, DeliveryStore, EndpointStore, JobStore, Registry
from shared.webhooks import DeliveryAttempt
from tests import fakes

SECRET_KEY = "a key for tests only, of forty characters"
LENIENT: dict[str, Any] = {"id": "echo", "description": "Says it again.", "input_schema": None, "context_schema": None}
STRICT: dict[str, Any] = {
    "id": "strict",
    "description": "Takes a count and messages.",
    "input_schema": {
        "type": "object",
        "properties": {
            "count": {"type": "integer"},
            "note": {"type": "string", "maxLength": 10},
            "messages": {
                "anyOf": [
                    {"type": "string"},
                    {"type": "array", "items": {"type": "object", "required": ["role"]}},
                ]
            },
        },
        "required": ["count"],
        "additionalProperties": False,
    },
    "output_schema": {"type": "object"},
    "context_schema": {"type": "object", "properties": {"language": {"enum": ["en", "zh"]}}},
    "drawing": "graph TD;",
}
BROKEN = {"type": "ImportError", "message": "No module named 'nowhere'"}


class PlayedWorker:
    """Claims jobs and ends them, as a worker does."""

    def __init__(self, jobs: JobStore, graphs: tuple[str, ...] = ("echo", "strict")) -> None:
        self.jobs = jobs
        self.graphs = graphs

    async def claim(self) -> Claimed:
        """The next job."""
        claim = await self.jobs.claim(
            "worker-1",
            lease_seconds=10,
            limit=1,
            max_bytes=2**24,
            recover=False,
            queues=["default"],
            graphs=self.graphs,
        )
        assert claim.jobs, "no job is ready"
        return claim.jobs[0]

    async def finish(self, job: Claimed, status: str = "succeeded", output: bytes = b"null", **fields: bytes) -> None:
        """End its round."""
        assert await self.jobs.finish("worker-1", job, status, output=output, fields=fields) == "done"  # type: ignore[arg-type]

    async def run(self, status: str = "succeeded", output: bytes = b"null", **fields: bytes) -> Claimed:
        """Claim a job and end its round."""
        job = await self.claim()
        await self.finish(job, status, output, **fields)
        return job


class PlayedSender:
    """Claims webhook deliveries and says how their tries went, as a sender does."""

    def __init__(self, store: DeliveryStore) -> None:
        self.store = store

    async def claim(self, limit: int = 100) -> list[ClaimedDelivery]:
        """What is due."""
        return (await self.store.claim("sender", lease_seconds=10, limit=limit))[0]

    async def settle(self, delivery: ClaimedDelivery, outcome: str = "delivered", status_code: int = 204) -> None:
        """End a try."""
        attempt = DeliveryAttempt(at=datetime.now(UTC), status_code=status_code, duration_ms=12, body="")
        how: Any = {"outcome": outcome, "address": "well" if outcome == "delivered" else "ill", "delay_seconds": 300}
        assert await self.store.finish("sender", delivery, attempt=attempt, body=b"{}", **how)

    async def send(self, outcome: str = "delivered") -> list[str]:
        """Try all that is due, which ends so. Gives the ids, in the order of their tries."""
        claimed = await self.claim()
        for delivery in claimed:
            await self.settle(delivery, outcome)
        return [delivery.id for delivery in claimed]


class Gateway:
    """A running gateway, a client of it, and the stores behind it."""

    def __init__(self, app: FastAPI, http: httpx.AsyncClient) -> None:
        self.app = app
        self.http = http
        self.services: Services = app.state.services
        self.jobs: JobStore = self.services.jobs
        self.deliveries: DeliveryLog = self.services.deliveries
        self.endpoints: EndpointStore = self.services.endpoints
        self.registry: Registry = self.services.registry
        self.waiters: Waiters = self.services.waiters
        self.worker = PlayedWorker(self.jobs)
        self.sender = PlayedSender(DeliveryStore(self.services.redis, ttl_seconds=3600, host_concurrency=1000))

    def pass_time(self, seconds: float) -> None:
        """Move the clock of all scripts."""
        for store in (self.jobs, self.deliveries, self.endpoints, self.sender.store):
            store.clock_offset_ms += round(seconds * 1000)

    async def submit(self, graph: str = "echo", input: Any = None, **fields: Any) -> str:
        """The id of an accepted job."""
        answer = await self.http.post("/api/v1/jobs", json={"graph": graph, "input": input, **fields})
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    async def register(self, **fields: Any) -> dict[str, Any]:
        """The answer about a new endpoint, with its secret."""
        answer = await self.post("/webhooks", {"url": "https://example.com/h", **fields})
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    async def end_job(self, status: str = "succeeded", **fields: Any) -> str:
        """The id of a job that has ended so, a second after all that was before."""
        self.pass_time(1)
        job_id = await self.submit(**fields)
        if status == "cancelled":
            assert (await self.post(f"/jobs/{job_id}/cancel")).status_code == 202
        else:
            await self.worker.run(status, b"" if status == "failed" else b"null")
        return job_id

    async def post(self, path: str, body: Any = None, **headers: str) -> httpx.Response:
        """POST under /api/v1: bytes as they are, all else as JSON."""
        content = body if isinstance(body, bytes) else orjson.dumps(body)
        names = {"content-type": "application/json"} | {name.replace("_", "-"): text for name, text in headers.items()}
        return await self.http.post(f"/api/v1{path}", content=content, headers=names)

    async def get(self, path: str, **parameters: Any) -> httpx.Response:
        """GET under /api/v1."""
        return await self.http.get(f"/api/v1{path}", params=parameters)


MakeGateway = Callable[..., AbstractAsyncContextManager[Gateway]]


def problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The problem document of an answer that has to be this one."""
    assert (answer.status_code, answer.json().get("code")) == (status, code), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document = dict(answer.json())
    assert document["status"] == status
    assert document["detail"].endswith((".", '"', "…")) or code in ("validation_error", "invalid_input")
    return document


async def key_for(
    gateway: Gateway, tenant: str = "acme", scopes: Sequence[Scope] = SCOPES, seconds: float | None = None
) -> str:
    """A key that the gateway knows."""
    now = int(time.time() * 1000)
    expires = None if seconds is None else now + int(seconds * 1000)
    text, kept = new_key(tenant, "test", scopes, now_ms=now, expires_at_ms=expires)
    await gateway.services.keys.store.save(kept)
    await gateway.services.keys.load()  # it would look in half a second
    return text


async def ask(gateway: Gateway, key: str, method: str = "GET", path: str = "/jobs", **more: Any) -> httpx.Response:
    """What a request with this key is answered, under /api/v1, or at /metrics."""
    url = path if path == "/metrics" else f"/api/v1{path}"
    headers = {**more.pop("headers", {}), "authorization": f"Bearer {key}"}
    return await gateway.http.request(method, url, headers=headers, **more)


@pytest.fixture
def fake_server() -> fakeredis.FakeServer:
    return fakes.fake_server()


@pytest.fixture
async def redis(fake_server: fakeredis.FakeServer) -> AsyncIterator[Redis]:
    async with fakeredis.FakeAsyncRedis(server=fake_server) as client:
        yield client


@pytest.fixture
def make_gateway(fake_server: fakeredis.FakeServer) -> MakeGateway:
    """Starts a gateway with settings of the test's own, for as long as a `with` block lasts."""

    @asynccontextmanager
    async def make(*, redis: Any = None, notices_redis: Any = None, **settings: Any) -> AsyncIterator[Gateway]:
        app = create_app(
            Settings(**{"secret_key": SECRET_KEY, "auth_required": False, **settings}),
            redis=redis or fakeredis.FakeAsyncRedis(server=fake_server),
            notices_redis=notices_redis or fakeredis.FakeAsyncRedis(server=fake_server),
        )
        transport = httpx.ASGITransport(app=app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://gateway.test") as http,
        ):
            yield Gateway(app, http)

    return make


@pytest.fixture
async def gateway(make_gateway: MakeGateway) -> AsyncIterator[Gateway]:
    """A gateway without authentication; its catalogue has a lenient graph, a strict one, and one that never loaded."""
    async with make_gateway() as made:
        await made.registry.publish({"echo": LENIENT, "strict": STRICT}, {"broken": BROKEN})
        yield made


@pytest.fixture
async def locked(make_gateway: MakeGateway) -> AsyncIterator[Gateway]:
    """A gateway that lets in who has a key."""
    async with make_gateway(auth_required=True) as gateway:
        await gateway.registry.publish({"echo": LENIENT}, {})
        yield gateway
