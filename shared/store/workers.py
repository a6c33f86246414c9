"""What workers tell the gateway: that they live, what they run, and the graphs they serve."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal

import orjson
from redis import Redis as SyncRedis
from redis.asyncio import Redis

from shared.store import scripts
from shared.store.connection import run_sync
from shared.store.errors import StoreFull, store_errors
from shared.store.job_values import Ended
from shared.store.keys import key

MAX_HEARTBEAT_SECONDS = 1.0
HEARTBEAT_TTL_MS = 5000
FORGET_WORKER_MS = 24 * 3600 * 1000
CATALOGUE_CHANGED = "catalogue"
RESULT_TTL_SECONDS = 7 * 24 * 3600
EVERY_CLAIM = 2**53 - 1  # no claim has a larger number


def heartbeat_seconds(lease_seconds: float) -> float:
    """How often a worker says that it lives."""
    return min(MAX_HEARTBEAT_SECONDS, lease_seconds / 5)


class KeeperStore:
    """What a worker's keeper thread does, on a synchronous connection of its own.

    `result_ttl_seconds` is the retention of the jobs that it ends; their ends, `wait_replicas` have.
    """

    def __init__(
        self, redis: SyncRedis, worker: str, *,
        result_ttl_seconds: int = RESULT_TTL_SECONDS, wait_replicas: int = 0, clock_offset_ms: int = 0,
    ) -> None:  # fmt: skip
        self.redis = redis
        self.wait_replicas = wait_replicas
        self.worker = worker
        self.result_ttl_ms = result_ttl_seconds * 1000
        self.clock_offset_ms = clock_offset_ms

    def renew(self, lease_seconds: float, held: list[tuple[str, int]]) -> list[str]:
        """Lengthen the leases of these (ref, attempt); gives for each `held`, `cancel` or `gone`."""
        flat = [part for pair in held for part in pair]
        answers = run_sync(
            self.redis, scripts.RENEW, self.clock_offset_ms, self.worker, int(lease_seconds * 1000), *flat
        )
        return [answer.decode() for answer in answers]

    def renew_deliveries(self, lease_seconds: float, sending: Sequence[tuple[str, int]]) -> list[str]:
        """Lengthen the leases of these (ref, attempt) of deliveries; gives for each `held` or `gone`."""
        flat = [part for pair in sending for part in pair]
        answers = run_sync(
            self.redis, scripts.DELIVERY_RENEW, self.clock_offset_ms, self.worker, int(lease_seconds * 1000), *flat
        )
        return [answer.decode() for answer in answers]

    def fail(self, ref: str, attempt: int, error: bytes) -> Literal["done", "already", "gone"]:
        """End the round as failed; `error` is its JSON."""
        answer = run_sync(
            self.redis, scripts.FINISH, self.clock_offset_ms, self.worker, ref, attempt,
            "failed", "", self.result_ttl_ms, 1, "error", error, replicas=self.wait_replicas,
        )  # fmt: skip
        return answer.decode()  # type: ignore[no-any-return]

    def hand_back_all(self) -> list[Ended]:
        """Hand back all that the worker holds, also what it has claimed and not heard of: nothing is claimed any more.

        No try is counted. Gives what was handed back, with its status now.
        """
        answers = run_sync(
            self.redis, scripts.DISOWN, self.clock_offset_ms, self.worker, EVERY_CLAIM, self.result_ttl_ms
        )
        return [Ended(name.decode(), graph.decode(), status.decode()) for name, graph, status in answers]

    def heartbeat(self, state: Mapping[str, Any], lease_seconds: float) -> None:
        """Say that this worker lives; unsaid for five seconds, it is gone from the list.

        Say it each `heartbeat_seconds` of its leases: where no worker does, leases are not taken back for a while.
        """
        run_sync(
            self.redis, scripts.BEAT, self.clock_offset_ms, self.worker, int(lease_seconds * 1000),
            orjson.dumps(state), HEARTBEAT_TTL_MS,
        )  # fmt: skip

    def farewell(self) -> None:
        """Take this worker off the list at once."""
        with store_errors():
            pipeline = self.redis.pipeline(transaction=False)
            pipeline.delete(key("worker", self.worker), key("control", self.worker))
            pipeline.zrem(key("workers"), self.worker)
            pipeline.execute()

    def wait_for_control(self, timeout: float) -> tuple[str, int] | None:
        """The next (ref, attempt) to cancel, or None after `timeout` seconds."""
        if timeout <= 0:  # to Redis 0 is forever
            return None
        with store_errors():
            answer: Any = self.redis.blpop([key("control", self.worker)], timeout=timeout)  # type: ignore[arg-type]
        if answer is None:
            return None
        _, ref, attempt = answer[1].decode().split(" ")
        return ref, int(attempt)


class Registry:
    """The live workers, and the catalogue of graphs, which outlives them."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis

    async def workers(self) -> list[dict[str, Any]]:
        """The heartbeats of the workers that live now, by id."""
        with suppress(StoreFull), store_errors():  # a full disk must not keep anyone from reading
            await self.redis.zremrangebyscore(key("workers"), "-inf", int(time.time() * 1000) - FORGET_WORKER_MS)
        with store_errors():
            names = [name.decode() for name in await self.redis.zrange(key("workers"), 0, -1)]
            states = await self.redis.mget([key("worker", name) for name in names]) if names else []
        return sorted((orjson.loads(state) for state in states if state), key=lambda state: str(state["id"]))

    async def publish(self, graphs: Mapping[str, Mapping[str, Any]], errors: Mapping[str, Mapping[str, Any]]) -> None:
        """Put a worker's graphs into the catalogue. One that failed keeps its last good entry beside the error."""
        with store_errors():
            pipeline = self.redis.pipeline(transaction=True)
            for graph_id, entry in graphs.items():
                pipeline.hset(key("catalogue"), graph_id, orjson.dumps(entry).decode())
                pipeline.hdel(key("catalogue_errors"), graph_id)
            for graph_id, error in errors.items():
                pipeline.hset(key("catalogue_errors"), graph_id, orjson.dumps(error).decode())
            pipeline.publish(key("notify"), CATALOGUE_CHANGED)
            await pipeline.execute()

    async def catalogue(self) -> dict[str, dict[str, Any]]:
        """All graphs by id: `{id, input_schema, …, error}`; one that never loaded has only `id` and `error`."""
        with store_errors():
            pipeline = self.redis.pipeline(transaction=True)
            pipeline.hgetall(key("catalogue"))
            pipeline.hgetall(key("catalogue_errors"))
            entries, errors = await pipeline.execute()
        graphs = {name.decode(): {**orjson.loads(entry), "error": None} for name, entry in entries.items()}
        for name, error in errors.items():
            graphs.setdefault(name.decode(), {"id": name.decode()})["error"] = orjson.loads(error)
        return dict(sorted(graphs.items()))
