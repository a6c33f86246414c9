"""All of the service, with everything that can die of it: two gateways, three workers, and a Valkey of their own."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

from redis import Redis

from shared.store.keys import key
from tests.chaos.clients import Clients
from tests.chaos.load import Planned, of_a_client
from tests.chaos.reruns import Loss, Outage
from tests.chaos.traces import TENANT, Clock, Cut, cut_by
from tests.chaos.workers import WorkerPool, parsed
from tests.clients import Client
from tests.counting_receiver import Arrival, CountingReceiver
from tests.servers import Gateway, Processes, Valkey, wait_until

LEASE_SECONDS = 2.0
WORKERS = 3
GATEWAYS = 2
CLIENTS = 10
HEDGED_EVERY = 10
START_SECONDS = 40.0
SETTLE_SECONDS = 3.0  # a worker that was woken shows what it does, and is not killed before
LOOPBACK = "127.0.0.0/8"


class OutageRun:
    """Submit jobs, kill what there is, and read what came of it. All must be over by `deadline` (monotonic)."""

    def __init__(self, folder: Path, processes: Processes, random: Random, deadline: float) -> None:
        self.processes = processes
        self.random = random
        self.deadline = deadline
        self.clock = Clock()
        self.valkey = Valkey(folder / "valkey")
        self.receiver = CountingReceiver(folder / "webhooks.jsonl", fail_every=25, slowest=0.3)
        self.lines = folder / "lines.jsonl"
        self.lines.touch()
        self.workers = WorkerPool(
            folder / "workers",
            self.valkey.url,
            WORKERS,
            LEASE_SECONDS=str(LEASE_SECONDS),
            DATABASE_URL=f"sqlite:///{folder / 'threads.db'}",
        )
        self.gateways = [self._gateway() for _ in range(GATEWAYS)]
        self.clients = Clients([gateway.api for gateway in self.gateways], deadline)
        self.accepted: dict[str, Planned] = {}  # by job id; those of a thread in order
        self.kills: list[Loss] = []
        self.gateway_kills = 0
        self.valkey_kills = 0
        self.outages: list[Outage] = []
        self.suspensions: list[Loss] = []
        self.suspended: list[Cut] = []  # what those workers held
        self._valkey_away_at = 0.0
        self._unkillable: dict[int, float] = {}  # slot to the time until which it is spared

    def left(self) -> float:
        """The seconds that are left for all that is still to be done."""
        return max(0.0, self.deadline - time.monotonic())

    def ready(self) -> None:
        """Wait until the gateways answer and the workers that live now are on the list."""
        for gateway in self.gateways:
            gateway.ready(START_SECONDS)
        self.workers.started()
        wait_until(self._all_listed, START_SECONDS, what="the workers are up")

    @contextmanager
    def submitting(self, jobs: int, seconds: float) -> Iterator[None]:
        """Within this block clients submit so many jobs, spread over this time; it is left when all are accepted."""
        begun, count = time.monotonic(), jobs // CLIENTS
        with ThreadPoolExecutor(CLIENTS) as threads:
            running: list[Future[dict[str, Planned]]] = []
            for number in range(CLIENTS):
                plans = of_a_client(str(number), count, self.random)
                times = [begun + seconds * (place + number / CLIENTS) / count for place in range(count)]
                send = self._sender(Random(self.random.random()))
                running.append(threads.submit(self.clients.submit_all, list(zip(times, plans, strict=True)), send))
            try:
                yield
            except BaseException as error:
                failed = [client.exception() for client in running if client.done() and client.exception()]
                self.clients.stopped.set()
                if failed and failed[0]:  # what went wrong for a client, before what followed from it
                    raise failed[0] from error
                raise
            for client in running:
                self.accepted |= client.result()

    def kill_worker(self) -> None:
        """`kill -9` one of the workers, any but one that is suspended or was so a moment ago."""
        now = time.monotonic()
        slots = [slot for slot in range(WORKERS) if self._unkillable.get(slot, 0.0) < now]
        self.kills.append(Loss(*self.workers.kill(self.random.choice(slots))))

    def kill_gateway(self, place: int) -> None:
        self.gateways[place].process.kill()
        self.gateway_kills += 1

    def restart_gateway(self, place: int) -> None:
        """Start it again on its port. Does not wait for it."""
        self.gateways[place] = self._gateway(PORT=str(self.gateways[place].port))

    def kill_valkey(self) -> None:
        self._valkey_away_at = time.monotonic()
        self.valkey.kill()

    def restart_valkey(self) -> None:
        self.valkey.restart()
        self.valkey_kills += 1
        self.outages.append(Outage(self._valkey_away_at, time.monotonic()))

    def suspend_valkey(self) -> None:
        """It says nothing, and no connection to it ends: what is sent meanwhile it does when it goes on, twice too."""
        self._valkey_away_at = time.monotonic()
        self.valkey.process.pause()

    def resume_valkey(self) -> None:
        self.valkey.process.resume()
        self.outages.append(Outage(self._valkey_away_at, time.monotonic()))

    def suspend_worker(self) -> None:
        """SIGSTOP one that holds jobs, until others have claimed all of these again, and let it go on."""
        with self.valkey.client() as redis:
            slot, pid, suspended_at = wait_until(lambda: self._suspended_with_jobs(redis), what="a worker has jobs")
            self._unkillable[slot] = float("inf")
            held = cut_by(redis, pid, self.clock)
            self.suspensions.append(Loss(pid, suspended_at))
            self.suspended += held
            try:
                wait_until(lambda: all(_claimed_again(redis, cut) for cut in held), self.left(), what="others go on")
            finally:
                self.workers.resume(pid)
            self._unkillable[slot] = time.monotonic() + SETTLE_SECONDS

    def ended(self) -> dict[str, dict[str, Any]]:
        """Each job's document, once all have ended, or as they stand when time is over."""
        with Client(self.gateways[0].api) as client, ThreadPoolExecutor(client.connections) as threads:
            waits = threads.map(lambda job: client.job(job, min(60.0, self.left())), self.accepted)
            return dict(zip(self.accepted, waits, strict=True))

    def delivered(self, redis: Redis) -> int:
        """How many deliveries are on record as delivered."""
        return int(redis.zcard(key("deliveries_index", TENANT, "job", "delivered")))  # type: ignore[arg-type]

    def arrivals(self) -> list[Arrival]:
        """All that the receiver got. Closes it."""
        self.receiver.close()
        return self.receiver.arrivals()

    def gateway_log_lines(self, *levels: str) -> Iterator[dict[str, Any]]:
        """What gateways logged at these levels, also those that were killed."""
        for process in self.processes.started:
            yield from (line for line in parsed(process.log) if line["level"] in levels)

    def close(self) -> None:
        self.clients.close()
        self.receiver.close()
        self.valkey.stop()

    def _gateway(self, **environment: str) -> Gateway:
        return self.processes.gateway(self.valkey.url, WEBHOOK_ALLOW_NETWORKS=LOOPBACK, **environment)

    def _sender(self, random: Random) -> Any:
        def send(plan: Planned) -> str:
            request = plan.request(str(self.lines), self.receiver.url)
            return self.clients.submit(plan, request, random, hedged=random.randrange(HEDGED_EVERY) == 0)

        return send

    def _all_listed(self) -> bool:
        with Client(self.gateways[0].api) as client:
            listed = {item["pid"] for item in client.http.get("/workers").json()["items"]}
        return listed >= set(self.workers.live.values())

    def _suspended_with_jobs(self, redis: Redis) -> tuple[int, int, float] | None:
        """Suspend a worker that holds two jobs or more; it goes on at once where they have ended meanwhile."""
        for slot in self.random.sample(range(WORKERS), WORKERS):
            pid = self.workers.live.get(slot)
            if pid is None or len(cut_by(redis, pid, self.clock)) < 2:
                continue
            at = time.monotonic()
            self.workers.suspend(slot)
            if cut_by(redis, pid, self.clock):
                return slot, pid, at
            self.workers.resume(pid)
        return None


def _claimed_again(redis: Redis, cut: Cut) -> bool:
    return int(redis.hget(key("job", f"{TENANT}:{cut.job}"), "attempt") or 0) > cut.attempt  # type: ignore[arg-type]
