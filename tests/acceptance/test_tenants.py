"""Two tenants on one running service: same graphs, same workers, and nothing of each other."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import httpx
from redis.asyncio import Redis

from shared.api_keys import new_key
from shared.store import KeyStore
from tests.acceptance.conftest import GRAPHS
from tests.receivers import Receiver
from tests.servers import Processes, wait_until

THREAD = "the same thread of both"


async def new_keys(redis_url: str, *tenants: str) -> list[str]:
    """A key of each tenant, as `keys create` makes them."""
    made = [new_key(tenant, "test", ["jobs:read", "jobs:write"], now_ms=int(time.time() * 1000)) for tenant in tenants]
    async with Redis.from_url(redis_url) as redis:
        for _, kept in made:
            await KeyStore(redis).save(kept)
    return [text for text, _ in made]


def test_another_tenant_gets_nothing_of_a_running_service(
    processes: Processes, valkey_url: str, tmp_path: Path
) -> None:
    allow = {"WEBHOOK_ALLOW_NETWORKS": "127.0.0.0/8"}
    keys = asyncio.run(new_keys(valkey_url, "acme", "beta"))
    gateway = processes.gateway(valkey_url, AUTH_REQUIRED="true", **allow).ready()
    processes.worker(valkey_url, GRAPHS_CONFIG=GRAPHS, **allow).wait_for_line("worker ready", 40)
    options: dict[str, Any] = {"base_url": gateway.api, "trust_env": False, "timeout": 70}
    with (
        Receiver() as receiver,
        httpx.Client(**options, headers={"authorization": f"Bearer {keys[0]}"}) as acme,
        httpx.Client(**options, headers={"x-api-key": keys[1]}) as beta,
    ):
        wait_until(lambda: {one.get("/jobs").status_code for one in (acme, beta)} == {200}, 10, what="keys are known")
        endpoint = acme.post("/webhooks", json={"url": receiver.url}).json()["id"]
        job = {"graph": "two_nodes", "input": {"messages": "hi"}, "thread_id": THREAD}
        same = {"Idempotency-Key": "the-same"}
        ids = [one.post("/jobs", json=job, headers=same).json()["id"] for one in (acme, beta)]
        records = [
            one.get(f"/jobs/{job_id}", params={"wait": 30}).json()
            for one, job_id in zip((acme, beta), ids, strict=True)
        ]
        assert [record["status"] for record in records] == ["succeeded", "succeeded"]
        outputs = [len(record["output"]["messages"]) for record in records]
        assert outputs == [3, 3], "each thread knows its own job only"
        (message,) = receiver.wait_for(1)
        assert ids[0] in message.body.decode()

        def seen() -> list[Any]:
            paths = (f"/jobs/{ids[0]}", "/jobs", "/deliveries", "/webhooks")
            return [acme.get(path).json() for path in paths]

        wait_until(lambda: seen()[2]["items"][0]["status"] == "delivered", 10)
        before = seen()
        delivery = before[2]["items"][0]["id"]
        for method, path in (
            ("GET", f"/jobs/{ids[0]}?wait=30"), ("DELETE", f"/jobs/{ids[0]}"), ("POST", f"/jobs/{ids[0]}/cancel"),
            ("POST", f"/jobs/{ids[0]}/retry"), ("GET", f"/jobs/{ids[0]}/deliveries"),
            ("GET", f"/deliveries/{delivery}"), ("POST", f"/deliveries/{delivery}/redeliver"),
            ("GET", f"/webhooks/{endpoint}"), ("DELETE", f"/webhooks/{endpoint}"),
            ("POST", f"/webhooks/{endpoint}/rotate"), ("POST", f"/webhooks/{endpoint}/ping"),
            ("POST", f"/webhooks/{endpoint}/disable"), ("GET", f"/webhooks/{endpoint}/deliveries"),
        ):  # fmt: skip
            answer = beta.request(method, path)
            assert answer.status_code == 404, (method, path, answer.text)
        assert [one["id"] for one in beta.get("/jobs", params={"thread_id": THREAD}).json()["items"]] == [ids[1]]
        assert [beta.get(path).json()["items"] for path in ("/deliveries", "/webhooks")] == [[], []]
        assert seen() == before
        assert len(receiver.requests) == 1
        assert {beta.get(path).status_code for path in ("/workers", f"{gateway.url}/metrics")} == {403}
