"""What the saver of jobs without a thread keeps after a few steps and after many, with `keep="latest"` and `"all"`."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

from langchain_core.messages import AIMessage
from langgraph.graph import END, START, MessagesState, StateGraph
from redis.asyncio import Redis

from bench.saver_run import take_jobs, writer_of
from shared.store import JobStore
from worker.checkpoints.jobs import JobSaver

STEPS = (3, 100)
KEEP: tuple[Literal["latest"], Literal["all"]] = ("latest", "all")


class Countdown(MessagesState):
    left: int


def _count(state: Countdown) -> dict[str, object]:
    return {"left": state["left"] - 1}


def _speak(state: Countdown) -> dict[str, object]:
    return {**_count(state), "messages": [AIMessage("a message of this step")]}


async def kept(url: str, keep: Literal["latest", "all"], steps: int, *, speaks: bool) -> tuple[int, int]:
    """Fields and bytes of one job that went round so many times, and added a message each time or none."""
    builder = StateGraph(Countdown)
    builder.add_node("step", _speak if speaks else _count)
    builder.add_edge(START, "step")
    builder.add_conditional_edges("step", lambda state: "step" if state["left"] else END)
    redis = Redis.from_url(url)
    store = JobStore(redis, result_ttl_seconds=600)
    (job,) = await take_jobs(store, 1, threads=False)
    graph = builder.compile(checkpointer=JobSaver(writer_of(store, job).checkpoint, keep=keep))
    given: Any = {"left": steps, "messages": [{"role": "user", "content": "hi"}]}
    config: Any = {"configurable": {"thread_id": job.id}, "recursion_limit": steps + 10}
    await graph.ainvoke(given, config, durability="sync")
    fields = await store.checkpoints(job)
    await redis.aclose()
    return len(fields), sum(len(name) + len(value) for name, value in fields.items())


def measure(url: str) -> list[list[str]]:
    """Rows: state, what is kept, then fields and bytes after few and after many steps."""
    rows = []
    for speaks, state in ((False, "a state that stays as it is"), (True, "a message more each step")):
        for keep in KEEP:
            sizes = [asyncio.run(kept(url, keep, steps, speaks=speaks)) for steps in STEPS]
            rows.append([state, f'`"{keep}"`', *(f"{fields:,} fields, {size:,} bytes" for fields, size in sizes)])
    return rows
