"""The jobs of the soak: of each kind so many in a hundred, submitted in batches, each followed to the end it must have.

No more than `WAITING` jobs are on their way at once: who has that many submits no more until some have ended.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from bench.graph import INPUT

BATCH = 250
WAITING = 2000
FOLLOWERS = 64
THREADS = 200  # at most
WAIT_SECONDS = 30
ROUNDS = 10  # how often a job is waited for: far more than it can take
CANCEL_SECONDS = 0.25
FAULTS = 20  # told in full


@dataclass(frozen=True)
class Kind:
    """What is sent beside the thread and the webhook, and how the job must end: status, rounds, tries."""

    share: int  # of a hundred jobs
    body: dict[str, Any]
    ends: tuple[str, int, int]
    thread: bool = False
    webhook: bool = False


VALUE = {"value": "x" * 50}
KINDS = {
    "plain": Kind(50, {"graph": "two_nodes", "input": INPUT}, ("succeeded", 1, 1)),
    "of threads": Kind(20, {"graph": "remembering", "input": VALUE}, ("succeeded", 1, 1), thread=True),
    "with a webhook": Kind(8, {"graph": "two_nodes", "input": INPUT}, ("succeeded", 1, 1), webhook=True),
    "failing, with a webhook": Kind(4, {"graph": "failing", "input": VALUE}, ("failed", 1, 1), webhook=True),
    "tried twice": Kind(5, {"graph": "flaky", "input": {**VALUE, "retryable": True}}, ("succeeded", 1, 2)),
    "failed and retried": Kind(2, {"graph": "flaky", "input": VALUE}, ("succeeded", 2, 1)),
    "cancelled while they wait": Kind(
        2, {"graph": "two_nodes", "input": INPUT, "delay_seconds": 600}, ("cancelled", 1, 0)
    ),
    "cancelled while they run": Kind(1, {"graph": "sleeping", "input": VALUE}, ("cancelled", 1, 1)),
    "delayed": Kind(7, {"graph": "two_nodes", "input": INPUT}, ("succeeded", 1, 1)),
    "interrupted and resumed": Kind(1, {"graph": "asking", "input": VALUE}, ("succeeded", 2, 1)),
}
# Spread over the hundred, so that each batch has all of them.
_IN_TURN = [name for name, kind in KINDS.items() for _ in range(kind.share)]
IN_TURN = [_IN_TURN[place * 37 % 100] for place in range(100)]


@dataclass
class Load:
    """Submits `jobs` jobs to the gateway at `base`, and knows how many have ended, and what went wrong."""

    base: str
    webhook: str
    jobs: int
    at: dict[int, Callable[[], Awaitable[None]]] = field(default_factory=dict)  # what to do when so many have ended
    ended: int = 0
    by_kind: Counter[str] = field(default_factory=Counter)
    threads: set[str] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)

    async def run(self) -> None:
        """Return when all have ended, or as soon as it is clear that something is broken."""
        self._room = asyncio.Semaphore(WAITING)
        self._accepted: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
        timeout = aiohttp.ClientTimeout(total=WAIT_SECONDS + 30)
        connector = aiohttp.TCPConnector(limit=FOLLOWERS + 8)
        async with aiohttp.ClientSession(self.base, timeout=timeout, connector=connector) as self._http:
            cancelling = asyncio.create_task(self._cancel_running())
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._submit())
                    for _ in range(FOLLOWERS):
                        tasks.create_task(self._follow_all())
            finally:
                cancelling.cancel()

    @property
    def webhooks(self) -> int:
        """How many messages the receiver has to get."""
        return sum(count for name, count in self.by_kind.items() if KINDS[name].webhook)

    def request(self, number: int) -> tuple[str, dict[str, Any]]:
        """The kind and the body of this job."""
        name = IN_TURN[number % 100]
        kind = KINDS[name]
        body = dict(kind.body)
        if kind.thread:
            body["thread_id"] = f"thread {number // 5 % THREADS}"
            self.threads.add(body["thread_id"])
        if kind.webhook:
            body["webhook"] = {"url": self.webhook}
        if name == "delayed":
            body["delay_seconds"] = 1 + number % 5
        return name, body

    async def _submit(self) -> None:
        for start in range(0, self.jobs, BATCH):
            planned = [self.request(number) for number in range(start, min(start + BATCH, self.jobs))]
            for _ in planned:
                await self._room.acquire()
            answer = await self._call("POST", "/api/v1/jobs/batch", {"jobs": [body for _, body in planned]})
            for (name, _), item in zip(planned, answer["items"], strict=True):
                if "id" not in item:
                    raise RuntimeError(f"a job was not accepted: {item}")
                if name == "cancelled while they wait":
                    await self._call("POST", f"/api/v1/jobs/{item['id']}/cancel")
                    await self._follow(name, item["id"])  # at once: it ends, and is forgotten, before its turn
                else:
                    self._accepted.put_nowait((name, item["id"]))
        for _ in range(FOLLOWERS):
            self._accepted.put_nowait(("", ""))

    async def _follow_all(self) -> None:
        """One of the followers: the jobs in the order in which they were accepted."""
        while (accepted := await self._accepted.get()) != ("", ""):
            await self._follow(*accepted)

    async def _follow(self, name: str, job_id: str) -> None:
        job: dict[str, Any] = {}
        for _ in range(ROUNDS):
            job = await self._call("GET", f"/api/v1/jobs/{job_id}?wait={WAIT_SECONDS}")
            if job["status"] == "interrupted":
                await self._call("POST", f"/api/v1/jobs/{job_id}/resume", {"value": "go on"})
            elif name == "failed and retried" and job["status"] == "failed" and job["round"] == 1:
                await self._call("POST", f"/api/v1/jobs/{job_id}/retry")
            elif job["status"] not in ("queued", "running"):
                break
        await self._note(name, job)

    async def _note(self, name: str, job: dict[str, Any]) -> None:
        self.ended += 1
        self.by_kind[name] += 1
        self._room.release()
        if (job["status"], job["round"], job["tries"]) != KINDS[name].ends:
            self.wrong.append(f"{name}: {job}")
            if len(self.wrong) >= FAULTS:
                raise RuntimeError("too many jobs did not end as planned:\n" + "\n".join(self.wrong))
        if (mark := self.at.get(self.ended)) is not None:
            await mark()

    async def _cancel_running(self) -> None:
        while True:
            await asyncio.sleep(CANCEL_SECONDS)
            with suppress(aiohttp.ClientError):  # it has ended since
                running = await self._call("GET", "/api/v1/jobs?graph=sleeping&status=running&limit=100")
                for job in running["items"]:
                    await self._call("POST", f"/api/v1/jobs/{job['id']}/cancel")

    async def _call(self, method: str, path: str, body: Any = None) -> Any:
        async with self._http.request(method, path, json=body) as answer:
            answer.raise_for_status()
            return await answer.json()
