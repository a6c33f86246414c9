"""One attempt of a job, from its payload to its outcome: stream the graph, keep events and usage, sort failures."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import orjson
import structlog
from langchain_core.runnables import RunnableConfig

from shared.jobs import JobError, StreamMode
from shared.metrics import JOB_RUN_SECONDS, JOBS_ENDED, LEASE_LOST
from shared.store import Claimed, JobStore
from worker.checkpoints.jobs import JobSaver
from worker.checkpoints.outage import NotBegun, ThreadsAway, outage_behind
from worker.checkpoints.pinned import PinnedSaver
from worker.checkpoints.progress import input_of, open_saver
from worker.checkpoints.threads import ThreadMemory
from worker.encoding import to_json
from worker.events import EventStream
from worker.failures import Failure, backoff_seconds, describe_failure
from worker.graphs.catalogue import Catalogue
from worker.graphs.loading import AnyGraph
from worker.lease import EndReason, FencedWriter, Lease, LeaseLost
from worker.stopping import TimeLimitReached, run_until_stopped
from worker.usage import UsageCounter

logger = structlog.get_logger(__name__)
RESERVED_CONFIGURABLE = ("thread_id", "checkpoint_id", "checkpoint_ns", "checkpoint_map")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a graph came to: its output's JSON, or the interrupts it waits with."""

    output: bytes
    interrupts: bytes | None = None


class JobFailed(Exception):
    """The job fails for a reason that is not an exception of its graph."""

    def __init__(self, code: str, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.failure = Failure(JobError(type="JobFailed", code=code, message=message, retryable=retryable))


class Runner:
    """Runs attempts with the graphs of a catalogue."""

    def __init__(
        self, store: JobStore, worker: str, catalogue: Catalogue, threads: ThreadMemory, *,
        job_timeout_seconds: float, max_output_bytes: int,
    ) -> None:  # fmt: skip
        self.store = store
        self.worker = worker
        self.catalogue = catalogue
        self.threads = threads
        self.job_timeout_seconds = job_timeout_seconds
        self.max_output_bytes = max_output_bytes

    async def run(self, lease: Lease) -> None:
        """Run one attempt and write what it came to. Never raises for what a graph does."""
        job = lease.job
        writer = FencedWriter(self.store, self.worker, lease)
        events = EventStream(writer, job.round)
        usage = UsageCounter()
        started = time.perf_counter()
        try:
            try:
                outcome = await self._outcome(writer, events, usage)
            except LeaseLost:
                await events.close()
                raise
            except asyncio.CancelledError as error:
                if lease.reason is None:  # the graph cancelled itself
                    await self._fail(writer, events, usage, describe_failure(error))
                else:
                    await self._stopped(lease.reason, writer, events, usage)
            except NotBegun as error:
                await self._give_back(writer, events, error.retry_seconds)
            except JobFailed as error:
                await self._fail(writer, events, usage, error.failure)
            except (Exception, SystemExit) as error:
                await self._fail(writer, events, usage, describe_failure(outage_behind(error) or error))
            else:
                await self._succeed(writer, events, usage, outcome)
        except LeaseLost:
            LEASE_LOST.inc()
            logger.warning("lease lost, attempt dropped")
        finally:
            JOB_RUN_SECONDS.labels(job.graph).observe(time.perf_counter() - started)

    async def _outcome(self, writer: FencedWriter, events: EventStream, usage: UsageCounter) -> Outcome:
        """Run the graph within its time, until the lease asks for its end."""
        request = _read_payload(writer.job)
        limit = (request.get("limits") or {}).get("seconds") or self.job_timeout_seconds or None
        with writer.lease.stoppable():
            writer.lease.limit_to(limit)
            try:
                return await run_until_stopped(self._stream(request, writer, events, usage), limit)
            except TimeLimitReached:
                raise JobFailed("timeout", f"the attempt ran longer than {limit:g} seconds") from None

    async def _stream(
        self, request: dict[str, Any], writer: FencedWriter, events: EventStream, usage: UsageCounter
    ) -> Outcome:
        job = writer.job
        loaded = self.catalogue.graphs[job.graph]
        config = _run_config(job, request, usage)
        try:
            saver = await open_saver(writer, self.threads)
        except ThreadsAway as error:
            raise NotBegun(error) from error
        try:
            async with loaded.open(config, saver) as graph:
                if isinstance(saver, JobSaver):
                    saver.starting = graph.trigger_to_nodes
                given = await input_of(job, graph, config, saver, loaded.to_messages(request.get("input")))
                wanted: list[StreamMode] = request.get("stream") or ["updates"]
                modes: list[StreamMode] = list(dict.fromkeys(["values", "updates", *wanted]))
                last: Any = None
                asked: dict[str, Any] | None = None
                chunks: AsyncIterator[Any] = graph.astream(
                    given,
                    config,
                    context=request.get("context"),
                    stream_mode=modes,
                    subgraphs=True,
                    durability="sync",
                )
                async for namespace, mode, chunk in chunks:
                    if mode == "values" and not namespace:
                        last = chunk
                    if mode == "updates" and not namespace and "__interrupt__" in chunk:
                        asked = (asked or {}) | {interrupt.id: interrupt.value for interrupt in chunk["__interrupt__"]}
                    if mode in wanted:
                        events.add(mode, _event_data(namespace, chunk))
                if last is None:
                    last = (await graph.aget_state(config)).values
            if asked is not None:  # empty where the graph stops at a breakpoint
                await saver.store_all()
                return Outcome(b"", to_json([{"id": id_, "value": value} for id_, value in asked.items()]))
            outcome = self._output(graph, last)
            await saver.ended()
            return outcome
        except Exception as error:
            away = outage_behind(error)
            if away is not None and isinstance(saver, PinnedSaver) and not saver.begun:
                raise NotBegun(away) from error
            raise
        finally:
            await saver.settled()  # what the attempt has come to is written after its last checkpoint

    def _output(self, graph: AnyGraph, values: Any) -> Outcome:
        """What `graph.invoke` would have returned."""
        names = graph.output_channels
        if isinstance(values, dict) and not isinstance(graph.stream_channels_asis, str):
            if isinstance(names, str):
                values = values.get(names)
            else:
                values = {name: values[name] for name in names if name in values}
        output = to_json(values)
        if self.max_output_bytes and len(output) > self.max_output_bytes:
            size = f"the output has {len(output)} bytes, more than {self.max_output_bytes}"
            raise JobFailed("output_too_large", size)
        return Outcome(output)

    async def _succeed(self, writer: FencedWriter, events: EventStream, usage: UsageCounter, outcome: Outcome) -> None:
        fields = usage.fields()
        if outcome.interrupts is not None:
            fields["interrupts"] = outcome.interrupts
            await writer.finish("interrupted", fields=fields, events=await events.close())
            self._count(writer.job, "interrupted")
        else:
            await writer.finish("succeeded", output=outcome.output, fields=fields, events=await events.close())
            self._count(writer.job, "succeeded")

    async def _fail(self, writer: FencedWriter, events: EventStream, usage: UsageCounter, failure: Failure) -> None:
        job, error = writer.job, failure.error
        body = orjson.dumps(error.model_dump())
        tries, allowed = int(job.record[b"tries"]), int(job.record[b"max_attempts"])
        logger.info("attempt failed", error=error.type, code=error.code, node=error.node, retryable=error.retryable)
        if error.retryable and tries < allowed:
            delay = backoff_seconds(tries, failure.retry_after_seconds)
            status = await writer.release("backoff", delay_seconds=delay, error=body, events=await events.close())
        else:
            fields = {"error": body, **usage.fields()}
            await writer.finish("failed", fields=fields, events=await events.close())
            status = "failed"
        if status in ("failed", "cancelled"):
            self._count(job, status)

    async def _stopped(self, reason: EndReason, writer: FencedWriter, events: EventStream, usage: UsageCounter) -> None:
        if reason is EndReason.GONE:
            await events.close()
            raise LeaseLost(writer.job.ref)
        if reason is EndReason.CANCEL:
            await writer.finish("cancelled", fields=usage.fields(), events=await events.close())
            self._count(writer.job, "cancelled")
            return
        await self._give_back(writer, events)

    async def _give_back(self, writer: FencedWriter, events: EventStream, delay_seconds: float = 0) -> None:
        """Give the job back for another attempt; this one costs no try."""
        status = await writer.release("hand_back", delay_seconds=delay_seconds, events=await events.close())
        logger.info("job handed back", status=status, delay_seconds=round(delay_seconds, 1))
        if status == "cancelled":
            self._count(writer.job, status)

    @staticmethod
    def _count(job: Claimed, status: str) -> None:
        JOBS_ENDED.labels(job.graph, status).inc()
        logger.info("job ended", status=status)


def _read_payload(job: Claimed) -> dict[str, Any]:
    try:
        request = orjson.loads(job.payload)
    except orjson.JSONDecodeError as error:
        raise JobFailed("unreadable_record", "the job's input could not be read") from error
    if not isinstance(request, dict):
        raise JobFailed("unreadable_record", "the job's input could not be read")
    return request


def _run_config(job: Claimed, request: dict[str, Any], usage: UsageCounter) -> RunnableConfig:
    asked = request.get("config") or {}
    configurable = {
        name: value
        for name, value in (asked.get("configurable") or {}).items()
        if name not in RESERVED_CONFIGURABLE and not name.startswith("__")
    }
    metadata: dict[str, Any] = {"job_id": job.id, "round": job.round}
    thread_id = job.record.get(b"thread_id")
    if thread_id is not None:
        configurable["thread_id"] = f"{job.tenant}:{thread_id.decode()}"
        metadata["thread_id"] = thread_id.decode()  # what events show
    else:
        configurable["thread_id"] = job.id
    config: RunnableConfig = {
        "configurable": configurable,
        "metadata": metadata,
        "callbacks": [usage],
        "tags": asked.get("tags") or [],
    }
    steps = (request.get("limits") or {}).get("steps") or asked.get("recursion_limit")
    if steps:
        config["recursion_limit"] = steps
    return config


def _event_data(namespace: tuple[str, ...], chunk: Any) -> Any:
    return {"namespace": list(namespace), "data": chunk} if namespace else chunk
