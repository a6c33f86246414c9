"""A person's answer on its way to the node that asked: given to its question, and to no other, whatever dies meanwhile.

LangGraph stores the answers that a task has heard with the task's other writes. Where the task then fails, the next
attempt gives it the answer again, so the stored one must not be there: it would be taken for one more answer, and the
task's next question would get it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.serde.types import ERROR, RESUME
from langgraph.types import Command

from shared.secrets import masked
from shared.store import Claimed
from worker.graphs.loading import AnyGraph


async def answer_to_give(job: Claimed, graph: AnyGraph, config: RunnableConfig) -> Command[Any] | None:
    """The answer, to all questions that were open when it was given and still are; None where they are answered."""
    asked = {question["id"] for question in orjson.loads(job.record.get(b"asked", b"[]"))}
    snapshot = await graph.aget_state(config)
    still_open = [question.id for question in snapshot.interrupts if question.id in asked]
    return Command(resume=dict.fromkeys(still_open, orjson.loads(job.answer))) if still_open else None


def writes_to_store(writes: Sequence[tuple[str, Any]]) -> Sequence[tuple[str, Any]]:
    """A task's writes; where it failed, without the answers it has heard, and without the credentials it quotes."""
    if any(channel == ERROR for channel, _ in writes):
        return [
            (channel, _unsaid(value) if channel == ERROR else value) for channel, value in writes if channel != RESUME
        ]
    return writes


def _unsaid(error: Any) -> Any:
    said = repr(error)  # as LangGraph stores it
    hidden = masked(said)
    return error if hidden == said else hidden
