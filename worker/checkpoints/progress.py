"""How far a job has come: the saver of an attempt, and what to give its graph so that it goes on from there."""

from __future__ import annotations

from typing import Any

from langchain_core.runnables import RunnableConfig

from shared.store import Claimed
from worker.checkpoints.answers import answer_to_give
from worker.checkpoints.head import Head
from worker.checkpoints.jobs import JobSaver
from worker.checkpoints.pinned import PinnedSaver
from worker.checkpoints.threads import ThreadMemory
from worker.graphs.loading import AnyGraph
from worker.lease import FencedWriter

AttemptSaver = JobSaver | PinnedSaver


async def open_saver(writer: FencedWriter, threads: ThreadMemory) -> AttemptSaver:
    """The saver of this attempt: what the job's earlier attempts, or the jobs of its thread, have stored, is in it.

    Raises `LeaseLost`, and `ThreadsAway` where the threads' database is.
    """
    if b"thread" in writer.job.record:
        return PinnedSaver(await threads.saver(), Head(await writer.head()), writer.pin)
    saver = JobSaver(writer.checkpoint, lambda fields: writer.checkpoint(fields, [], whole=True))
    if writer.job.attempt > 1:
        saver.load(await writer.checkpoints())
    return saver


async def input_of(job: Claimed, graph: AnyGraph, config: RunnableConfig, saver: AttemptSaver, given: Any) -> Any:
    """What to give the graph: `given`, the job's input; None where its own checkpoint has it; or a person's answer."""
    if job.attempt == 1:
        return given
    found = await saver.aget_tuple(config)
    if isinstance(saver, PinnedSaver):
        saver.begun = False  # that was not the graph
    if found is None or not _is_own(job, found.metadata):
        return given
    return await answer_to_give(job, graph, config) if job.answer else None


def _is_own(job: Claimed, metadata: Any) -> bool:
    """Whether the job has stored this checkpoint, since it was last started from the start."""
    return metadata.get("job_id") == job.id and int(metadata.get("round", 0)) >= int(job.record.get(b"fresh", 1))
