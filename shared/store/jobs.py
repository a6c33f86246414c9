"""Jobs in Redis: each method is one transition or one read in one round trip. All raise `StoreError`s."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from secrets import token_hex
from typing import Any, Literal

from redis.asyncio import Redis

from shared.addresses import parse_url
from shared.store import scripts
from shared.store.connection import Argument, run, run_many
from shared.store.errors import EarlierWriteLost, store_errors
from shared.store.job_values import Claim, Claimed, DepthLimits, Ended, NewJob, StoredJob, Submitted
from shared.store.keys import digest, key, ref
from shared.store.together import CallsTogether

IDEMPOTENCY_MS = 24 * 3600 * 1000
# What a worker's jobs, and a gateway's requests, do at the same time.
_OF_MANY = (scripts.CHECKPOINT, scripts.PIN, scripts.APPEND, scripts.FINISH, scripts.READ)
RetryFrom = Literal["checkpoint", "start"]
RetryOutcome = Literal["queued", "refused", "moved_on", "missing"]


class JobStore:
    """All that is done to jobs. What it promises, `wait_replicas` have. `clock_offset_ms` is for tests only."""

    def __init__(
        self, redis: Redis, *, result_ttl_seconds: int, wait_replicas: int = 0, limits: DepthLimits | None = None,
        clock_offset_ms: int = 0,
    ) -> None:  # fmt: skip
        self.redis = redis
        self.wait_replicas = wait_replicas
        self.limits = limits or DepthLimits()
        self.result_ttl_ms = result_ttl_seconds * 1000
        self.clock_offset_ms = clock_offset_ms
        self._together = CallsTogether(redis, replicas=wait_replicas)

    # What clients do

    async def submit(self, job: NewJob) -> Submitted:
        """Accept one job, or say why not; after `created` it is never lost."""
        return _submitted(await self._together.run(scripts.SUBMIT, *self._submit_args(job)))

    async def submit_many(self, jobs: Sequence[NewJob]) -> list[Submitted | Exception]:
        """Accept several jobs in one round trip, each for itself."""
        calls = [self._submit_args(job) for job in jobs]
        answers = await run_many(self.redis, scripts.SUBMIT, calls, replicas=self.wait_replicas)
        return [answer if isinstance(answer, Exception) else _submitted(answer) for answer in answers]

    async def known(self, tenant: str, idempotency_key: str, fingerprint: str) -> dict[int, str]:
        """The jobs that a request with this key was answered with, by their places in it; none for another request."""
        with store_errors():
            found = await self.redis.hgetall(key("idem", tenant, digest(idempotency_key)))  # type: ignore[misc]
        if found.pop(b"request", None) != fingerprint.encode():
            return {}
        return {int(place): job_id.decode() for place, job_id in found.items()}

    async def get(self, tenant: str, job_id: str, *, largest_output: int | None = None) -> StoredJob | None:
        """A job of this tenant, with its output, where that has no more than `largest_output` bytes."""
        name = ref(tenant, job_id)
        if largest_output is None:  # which may be large: no script should hold it
            record, size, output = await self._whole(name)
        else:
            flat, size, output = await self._call(scripts.READ, name, largest_output)
            record = _to_dict(flat)
        if not record:
            return None
        if largest_output is not None and size > largest_output:
            return StoredJob(job_id, record, None, size)
        return StoredJob(job_id, record, output or None)

    async def _whole(self, name: str) -> tuple[dict[bytes, bytes], int, bytes | None]:
        with store_errors():
            pipeline = self.redis.pipeline(transaction=True)  # as in scripts/read.lua: of one moment
            pipeline.hgetall(key("job", name))
            pipeline.strlen(key("result", name))
            pipeline.get(key("result", name))
            record, size, output = await pipeline.execute()
        return record, size, output

    async def statuses(self, refs: Sequence[str]) -> dict[str, str | None]:
        """The statuses of many jobs at once; None where a job is not there or cannot be read."""
        with store_errors():
            pipeline = self.redis.pipeline(transaction=False)
            for name in refs:
                pipeline.hget(key("job", name), "status")
            values = await pipeline.execute(raise_on_error=False)
        return {
            name: value.decode() if isinstance(value, bytes) else None for name, value in zip(refs, values, strict=True)
        }

    async def cancel(
        self, tenant: str, job_id: str
    ) -> tuple[Literal["cancelled", "cancelling", "ended", "missing"], str, str]:
        """End a waiting job, ask a running one to end. Gives the outcome, the status and the graph."""
        answer = await self._call(scripts.CANCEL, ref(tenant, job_id), self.result_ttl_ms)
        return answer[0].decode(), answer[1].decode(), answer[2].decode()

    async def retry(self, tenant: str, job_id: str, start: RetryFrom = "checkpoint") -> tuple[RetryOutcome, str]:
        """Start another round of a job that failed or was cancelled. Gives the outcome and the status.

        `moved_on`: other jobs have gone on in its thread since its last checkpoint, or are about to.
        """
        answer = await self._call(scripts.RETRY, ref(tenant, job_id), start, _call_id())
        return answer[0].decode(), answer[1].decode()

    async def retry_many(
        self, tenant: str, job_ids: Sequence[str], start: RetryFrom = "checkpoint"
    ) -> list[tuple[RetryOutcome, str] | Exception]:
        """Retry several jobs in one round trip, each for itself."""
        calls: list[list[Argument]] = [
            [self.clock_offset_ms, ref(tenant, job_id), start, _call_id()] for job_id in job_ids
        ]
        answers = await run_many(self.redis, scripts.RETRY, calls, replicas=self.wait_replicas)
        return [
            answer if isinstance(answer, Exception) else (answer[0].decode(), answer[1].decode()) for answer in answers
        ]

    async def resume(
        self, tenant: str, job_id: str, answer: bytes, *, round_: int | None = None
    ) -> tuple[Literal["queued", "refused", "missing"], str]:
        """Go on with an interrupted job; `answer` is JSON. Gives the outcome and the status.

        With `round_` only where that round is the one that was interrupted.
        """
        asked_in = "" if round_ is None else round_
        outcome, status = await self._call(scripts.RESUME, ref(tenant, job_id), answer, _call_id(), asked_in)
        return outcome.decode(), status.decode()

    async def erase(self, tenant: str, job_id: str) -> tuple[Literal["erased", "running", "missing"], str]:
        """Forget an ended job and all that belongs to it but its deliveries. Gives the outcome and the status."""
        answer = await self._call(scripts.ERASE, ref(tenant, job_id))
        return answer[0].decode(), answer[1].decode()

    # What workers do

    async def claim(
        self, worker: str, *, lease_seconds: float, limit: int, max_bytes: int, recover: bool,
        queues: Sequence[str], graphs: Sequence[str], number: int = 1,
    ) -> Claim:  # fmt: skip
        """Lease up to `limit` ready jobs of these graphs. `recover`: also put the jobs of lost workers back.

        `number` is the worker's count of its claims: see `disown`.
        """
        now, wait_ms, hold, jobs, ended = await self._call(
            scripts.CLAIM, worker, int(lease_seconds * 1000), limit, max_bytes, int(recover), self.result_ttl_ms,
            number, len(queues), *queues, *graphs,
        )  # fmt: skip
        return Claim(
            now_ms=int(now),
            next_seconds=None if int(wait_ms) < 0 else int(wait_ms) / 1000,
            hold=hold == b"1",
            jobs=[
                Claimed(name.decode(), int(attempt), alone == b"1", payload, _to_dict(flat), answer)
                for name, attempt, alone, payload, answer, flat in jobs
            ],
            ended=[Ended(name.decode(), graph.decode(), status.decode()) for name, graph, status in ended],
        )

    async def disown(self, worker: str, number: int, known: Sequence[tuple[str, int]]) -> list[Ended]:
        """Hand back what the worker holds beyond the (ref, attempt) it knows: the reply to a claim was lost.

        The worker's claims up to this `number` take nothing any more, should they still be on their way. No try is
        counted. Gives what was handed back.
        """
        flat = [part for pair in known for part in pair]
        answers = await self._call(scripts.DISOWN, worker, number, self.result_ttl_ms, *flat)
        return [Ended(name.decode(), graph.decode(), status.decode()) for name, graph, status in answers]

    async def checkpoint(
        self, worker: str, job: Claimed, changed: Mapping[bytes, bytes], dropped: Sequence[bytes], *,
        number: int = 1, whole: bool = False,
    ) -> bool:  # fmt: skip
        """Change what the job's saver keeps. False: the lease is gone.

        `number` counts these writes, on from `saved` of the record. Raises `EarlierWriteLost` where the one before is
        not there; `whole`: this is all there is, whatever was there.
        """
        flat = [part for pair in changed.items() for part in pair]
        answer = await self._call(
            scripts.CHECKPOINT, worker, job.ref, job.attempt, number, int(whole), len(changed), *flat, *dropped
        )
        if int(answer) == 0:
            raise EarlierWriteLost(job.ref)
        return int(answer) > 0

    async def checkpoints(self, job: Claimed) -> dict[bytes, bytes]:
        """What earlier attempts of the job kept by `checkpoint`."""
        with store_errors():
            return dict(await self.redis.hgetall(key("checkpoints", job.ref)))  # type: ignore[misc]

    async def pin(self, worker: str, job: Claimed, pins: Sequence[tuple[str, str, str]]) -> bool:
        """Move the head of the job's thread: (namespace, checkpoint, task or '') in order. False: it is not held."""
        flat = [part for pin in pins for part in pin]
        return int(await self._call(scripts.PIN, worker, job.ref, job.attempt, *flat)) >= 0

    async def head(self, job: Claimed) -> dict[bytes, bytes]:
        """Where the job's thread stands: see `prelude.lua`; empty for a thread that no job has moved."""
        with store_errors():
            name = key("head", job.tenant, job.record[b"thread"].decode())
            return dict(await self.redis.hgetall(name))  # type: ignore[misc]

    async def append(self, worker: str, job: Claimed, events: Sequence[bytes]) -> bool:
        """Add events to the job's stream. False: the lease is gone."""
        return int(await self._call(scripts.APPEND, worker, job.ref, job.attempt, *events)) >= 0

    async def finish(
        self, worker: str, job: Claimed, status: Literal["succeeded", "failed", "cancelled", "interrupted"], *,
        output: bytes = b"", fields: Mapping[str, bytes] | None = None, events: Sequence[bytes] = (),
    ) -> Literal["done", "already", "gone"]:  # fmt: skip
        """End the round: status, output, fields (`error`, `usage`, `interrupts`), events and delivery in one step."""
        flat = [part for pair in (fields or {}).items() for part in pair]
        answer = await self._call(
            scripts.FINISH,
            worker,
            job.ref,
            job.attempt,
            status,
            output,
            self.result_ttl_ms,
            len(flat) // 2,
            *flat,
            *events,
        )
        return answer.decode()  # type: ignore[no-any-return]

    async def release(
        self, worker: str, job: Claimed, kind: Literal["hand_back", "backoff"], *,
        delay_seconds: float = 0, error: bytes = b"", events: Sequence[bytes] = (),
    ) -> Literal["queued", "cancelled", "failed", "already", "gone"]:  # fmt: skip
        """Give the job back: `hand_back` costs no try, `backoff` runs it again later, while tries are left."""
        answer = await self._call(
            scripts.RELEASE,
            worker,
            job.ref,
            job.attempt,
            kind,
            int(delay_seconds * 1000),
            error,
            self.result_ttl_ms,
            *events,
        )
        return answer.decode()  # type: ignore[no-any-return]

    async def expire(self, limit: int = 100) -> tuple[int, int, int]:
        """Forget up to `limit` jobs, deliveries and failed URLs whose retention is over. Gives how many of each."""
        jobs, deliveries, addresses = await self._call(scripts.EXPIRE, limit)
        return int(jobs), int(deliveries), int(addresses)

    async def wait_for_work(
        self,
        blocking: Redis,
        queues: Sequence[str],
        graphs: Sequence[str],
        timeout: float,  # noqa: ASYNC109
    ) -> None:
        """Return when a job may be ready, or after `timeout` seconds. `blocking` is used for nothing else."""
        if timeout <= 0:  # to Redis 0 is forever
            return
        wake = [key("wake", queue, graph) for queue in queues for graph in graphs]
        with store_errors():
            await blocking.blpop(wake or [key("wake", "-")], timeout=timeout)  # type: ignore[arg-type, misc]

    async def queue_state(self) -> tuple[dict[str, int], dict[str, float]]:
        """For each queue how many jobs are ready, and how many seconds the one first in line has been ready."""
        with store_errors():
            pipeline = self.redis.pipeline(transaction=False)
            pipeline.smembers(key("queues"))
            pipeline.hkeys(key("catalogue"))
            names, graphs = await pipeline.execute()
            queues = sorted(name.decode() for name in names)
            for queue in queues:
                pipeline.smembers(key("lanes", queue))
            lanes_of = zip(queues, await pipeline.execute(), strict=True)
            lanes = [(queue, key("lane", queue, lane.decode())) for queue, lanes in lanes_of for lane in lanes]
            lanes += [(queue, key("solo", queue, graph.decode())) for queue in queues for graph in graphs]
            pipeline.time()
            for _, lane in lanes:
                pipeline.zcard(lane)
                pipeline.zrange(lane, 0, 0)
            (seconds, _), *answers = await pipeline.execute()
            for head in answers[1::2]:
                pipeline.hmget(key("job", head[0].decode() if head else "-"), ["created_at", "run_at"])
            heads = await pipeline.execute(raise_on_error=False)
        depths, oldest = dict.fromkeys(queues, 0), dict.fromkeys(queues, 0.0)
        for (queue, _), count, head in zip(lanes, answers[::2], heads, strict=True):
            depths[queue] += count
            times = [int(at) for at in head if at] if isinstance(head, list) else []
            oldest[queue] = max(oldest[queue], seconds - max(times, default=seconds * 1000) / 1000)
        return depths, oldest

    async def arq_queue(self, tenant: str, job_id: str) -> str:
        """The set that a job waits in: the `_queue_name` for which arq's `Job(ref, redis, …).status()` is true."""
        name = ref(tenant, job_id)
        with store_errors():
            record = await self.redis.hmget(key("job", name), ["queue", "graph", "thread"])  # type: ignore[misc]
            queue, graph, thread = (value.decode() if value else "" for value in record)
            places = [
                key("lane", queue, graph, tenant),
                key("solo", queue, graph),
                key("due"),
                key("line", tenant, thread),
            ]
            pipeline = self.redis.pipeline(transaction=False)
            for place in places:
                pipeline.zscore(place, name)
            ranks = await pipeline.execute()
        return next((place for place, rank in zip(places, ranks, strict=True) if rank is not None), places[0])

    async def _call(self, script: scripts.Script, *args: Argument) -> Any:
        if script in _OF_MANY:
            return await self._together.run(script, self.clock_offset_ms, *args)
        return await run(self.redis, script, self.clock_offset_ms, *args, replicas=self.wait_replicas)

    def _submit_args(self, job: NewJob) -> list[Argument]:
        fields: dict[str, str | bytes] = {"max_attempts": str(job.max_attempts), **job.fields}
        if job.thread_id is not None:
            fields |= {"thread_id": job.thread_id, "thread": digest(job.thread_id)}
        if "webhook_url" in fields:
            url = str(fields["webhook_url"])
            fields |= {"webhook_host": parse_url(url).origin, "webhook_address": digest(url)}
        return [
            self.clock_offset_ms, ref(job.tenant, job.id), job.graph, job.queue, job.priority,
            "" if job.delay_ms is None else job.delay_ms, "" if job.run_at_ms is None else job.run_at_ms,
            job.on_busy, digest(job.idempotency_key) if job.idempotency_key else "", job.place, job.fingerprint,
            IDEMPOTENCY_MS, job.payload, self.result_ttl_ms, self.limits.of_queue, self.limits.of_tenant,
            *(part for pair in fields.items() for part in pair),
        ]  # fmt: skip


def _call_id() -> str:
    """Names one call, so that a script knows it again where the connection broke and it is sent once more."""
    return token_hex(8)


def _submitted(answer: list[bytes]) -> Submitted:
    outcome, job_id, status, created_at, ended_graph, seconds = (part.decode() for part in answer)
    return Submitted(outcome, job_id, status, int(created_at), ended_graph, int(seconds))  # type: ignore[arg-type]


def _to_dict(flat: list[bytes]) -> dict[bytes, bytes]:
    return dict(zip(flat[::2], flat[1::2], strict=True))
