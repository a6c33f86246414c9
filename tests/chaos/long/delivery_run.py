"""Webhooks that are sent while their senders are killed: a gateway, two workers, and receivers over http and https."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random

import trustme
from uuid_utils import uuid7

from shared.store import JobStore, NewJob, connect
from shared.store.keys import key
from tests.chaos.traces import TENANT, Clock
from tests.chaos.workers import WorkerPool
from tests.clients import Client
from tests.counting_receiver import Arrival, CountingReceiver
from tests.servers import Processes, Valkey, wait_until

LEASE_SECONDS = 2.0
WORKERS = 2
AT_ONCE = 64  # tries at once in one worker, and to one of the two hosts
BATCH = 500
SLOWEST_SECONDS = 1.0  # so that many tries are under way when a worker is killed
FAIL_EVERY = 25
UNSERVED = "unserved"


@dataclass(frozen=True)
class CutTry:
    """A try that a kill broke off, and when its lease was to end. Times are monotonic."""

    delivery: str
    killed_at: float
    lease_ends: float


class DeliveryRun:
    """Submit jobs with webhooks, kill workers, and read what came of it."""

    def __init__(self, folder: Path, processes: Processes, valkey: Valkey) -> None:
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(folder / "authority.pem"))
        certificate = folder / "receiver.pem"
        authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(certificate))
        self.redis = valkey.client()
        self.redis_url = valkey.url
        self.clock = Clock()
        self.random = Random(1)
        answers = {"fail_every": FAIL_EVERY, "slowest": SLOWEST_SECONDS}
        self.receivers = (
            CountingReceiver(folder / "http.jsonl", **answers),
            CountingReceiver(folder / "https.jsonl", **answers, certificate=certificate),
        )
        self.workers = WorkerPool(
            folder / "workers",
            valkey.url,
            WORKERS,
            LEASE_SECONDS=str(LEASE_SECONDS),
            WEBHOOK_CONCURRENCY=str(AT_ONCE),
            WEBHOOK_HOST_CONCURRENCY=str(AT_ONCE),
            WEBHOOK_TIMEOUT_SECONDS="30",  # a try fails only where the receiver wants it to
            SSL_CERT_FILE=str(folder / "authority.pem"),
            DATABASE_URL=f"sqlite:///{folder / 'threads.db'}",
        )
        self.gateway = processes.gateway(valkey.url, WEBHOOK_ALLOW_NETWORKS="127.0.0.0/8")
        self.client = Client(self.gateway.ready().api)
        self.receiver_of: dict[str, CountingReceiver] = {}  # by job id
        self.kills = 0
        self.cuts: list[CutTry] = []

    def ready(self) -> None:
        """Wait until the workers that live now are on the list."""
        self.workers.started()
        wait_until(lambda: self._listed() >= set(self.workers.live.values()), 30, what="workers are up")

    def submit(self, count: int) -> None:
        """So many quick jobs, each with a webhook to one of the receivers in turn."""
        for first in range(0, count, BATCH):
            places = range(first, first + BATCH)
            jobs = [
                {
                    "graph": "quick",
                    "input": {"name": str(place)},
                    "max_attempts": 20,
                    "webhook": {"url": self.receivers[place % 2].url},
                }
                for place in places
            ]
            answer = self.client.http.post("/jobs/batch", json={"jobs": jobs})
            assert answer.status_code == 202, answer.text
            for place, item in zip(places, answer.json()["items"], strict=True):
                self.receiver_of[item["id"]] = self.receivers[place % 2]

    def end_jobs(self, count: int) -> None:
        """So many jobs that nobody has to run end at once, so that their webhooks are a backlog."""

        async def end() -> None:
            redis = connect(self.redis_url, answer_within=30)
            store = JobStore(redis, result_ttl_seconds=3600)
            for first in range(0, count, BATCH):
                receivers = {uuid7().hex: self.receivers[place % 2] for place in range(first, first + BATCH)}
                self.receiver_of |= receivers
                await store.submit_many(
                    [
                        NewJob(TENANT, job, UNSERVED, b"{}", 3, fields={"webhook_url": receiver.url})
                        for job, receiver in receivers.items()
                    ]
                )
                claim = await store.claim(
                    "ender", queues=["default"], graphs=[UNSERVED], lease_seconds=60, limit=BATCH,
                    max_bytes=1_000_000, recover=False,
                )  # fmt: skip
                await asyncio.gather(*(store.finish("ender", job, "succeeded", output=b"1") for job in claim.jobs))
            await redis.aclose()

        asyncio.run(end())

    def delivered(self) -> int:
        """How many deliveries are on record as delivered."""
        return int(self.redis.zcard(key("deliveries_index", TENANT, "job", "delivered")))  # type: ignore[arg-type]

    def under_way(self, pid: int) -> dict[str, float]:
        """The deliveries that this worker has leased, by id, and when (monotonic) their leases end."""
        leases = self.redis.zrange(key("deliveries_leases"), 0, -1, withscores=True)
        pipeline = self.redis.pipeline(transaction=False)
        for dref, _ in leases:  # type: ignore[union-attr]
            pipeline.hget(key("delivery", dref.decode()), "worker")
        return {
            dref.decode().partition(":")[2]: self.clock.monotonic(ends)
            for (dref, ends), worker in zip(leases, pipeline.execute(), strict=True)  # type: ignore[arg-type]
            if worker is not None and f"-{pid}-" in worker.decode()
        }

    def kill_one(self, *, sending: int = 0) -> None:
        """`kill -9` one of the workers, as soon as it has so many tries under way, and note which those were."""
        slot = self.random.randrange(WORKERS)
        deadline = time.monotonic() + 5
        while sending and time.monotonic() < deadline:  # it may be the end of the run, with little left to send
            pid = self.workers.live.get(slot)
            if pid is not None and len(self.under_way(pid)) >= sending:
                break
        self._kill(slot)

    def kill_both(self) -> None:
        """`kill -9` the two workers, one right after the other."""
        for slot in range(WORKERS):
            self._kill(slot)

    def arrivals(self) -> list[tuple[CountingReceiver, Arrival]]:
        """All that the receivers got, in order. Closes them."""
        self.close_receivers()
        found = [(receiver, arrival) for receiver in self.receivers for arrival in receiver.arrivals()]
        return sorted(found, key=lambda one: one[1].at)

    def close_receivers(self) -> None:
        for receiver in self.receivers:
            receiver.close()

    def close(self) -> None:
        self.close_receivers()
        self.client.http.close()
        self.redis.close()

    def _kill(self, slot: int) -> None:
        pid, killed_at = self.workers.kill(slot)
        self.kills += 1
        self.cuts += [CutTry(delivery, killed_at, ends) for delivery, ends in self.under_way(pid).items()]

    def _listed(self) -> set[int]:
        return {item["pid"] for item in self.client.http.get("/workers").json()["items"]}
