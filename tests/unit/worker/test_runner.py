"""One attempt of a job, from its payload to what stands in its record, on a Redis in memory."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import orjson
import pytest
from arq import Retry
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableConfig
from langgraph.config import get_stream_writer
from langgraph.func import entrypoint
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.pregel import Pregel
from langgraph.runtime import Runtime
from langgraph.types import interrupt
from typing_extensions import TypedDict

from shared.metrics import JOBS_ENDED, LEASE_LOST
from shared.store import StoreUnavailable
from shared.store.keys import key
from tests.attempts import Attempts, State, chain
from tests.conditions import until
from tests.job_queue import GRAPH, JobQueue
from worker import lease as lease_module
from worker import stopping
from worker.encoding import to_json
from worker.lease import EndReason, Lease
from worker.offline import OfflineChatModel

Run = Callable[..., Awaitable[dict[str, Any]]]


# Success


def double(state: State) -> State:
    return {"x": state["x"] * 2}


def note(state: State) -> State:
    return {"log": [f"x is {state['x']}"]}


def answer(_: MessagesState) -> dict[str, Any]:
    return {"messages": [AIMessage("hello", id="a1", tool_calls=[{"name": "f", "args": {}, "id": "c1"}])]}


class Out(TypedDict):
    log: list[str]


class Private(TypedDict):
    secret: str


def whisper(_: State) -> Private:
    return {"secret": "psst"}


def hear(state: Private) -> State:
    return {"log": [state["secret"]]}


@entrypoint()
def workflow(value: dict[str, int]) -> dict[str, int]:
    return {"sum": sum(value.values()), "log": 1}


@entrypoint()
def to_number(value: int) -> int:
    return value + 1


def nothing(_: State) -> None:
    return None


ONE_CHANNEL = chain(double, note).compile().copy(update={"output_channels": "x"})


@pytest.mark.parametrize(
    ("source", "value"),
    [
        (chain(double, note), {"x": 2}),
        (chain(double, note, output_schema=Out), {"x": 2}),
        (chain(whisper, hear), {"x": 1}),
        (chain(answer, state=MessagesState), {"messages": [{"role": "user", "content": "hi", "id": "u1"}]}),
        (workflow, {"a": 1, "b": 2}),
        (to_number, 41),
        (chain(nothing), {"x": None}),
        (ONE_CHANNEL, {"x": 2}),
    ],
    ids=["state", "output schema", "private state", "messages", "entrypoint", "number", "no change", "one channel"],
)
async def test_the_output_is_what_invoke_returns(run: Run, source: Any, value: Any) -> None:
    compiled = source if isinstance(source, Pregel) else source.compile()
    record = await run(source, value)
    assert record["status"] == "succeeded"
    assert record["output"] == orjson.loads(to_json(compiled.invoke(value)))
    assert record["error"] is None


async def test_messages_reach_the_graph_as_langchains_own_however_they_were_sent(run: Run) -> None:
    class Chat(MessagesState):
        log: list[str]

    def read(state: Chat) -> dict[str, Any]:
        return {"log": [f"{type(message).__name__}: {message.content}" for message in state["messages"]]}

    sent = ["one", ["system", "two"], {"role": "assistant", "content": "three"}]
    record = await run(chain(read, state=Chat), {"messages": sent})
    assert record["output"]["log"] == ["HumanMessage: one", "SystemMessage: two", "AIMessage: three"]


async def test_what_is_no_message_fails_the_job_with_a_message_that_says_so(run: Run) -> None:
    record = await run(chain(answer, state=MessagesState), {"messages": [{"role": "boss", "content": "hi"}]})
    assert record["status"] == "failed"
    assert "not a message" in record["error"]["message"]


async def test_config_and_context_reach_the_nodes(run: Run) -> None:
    def look(_: State, config: RunnableConfig, runtime: Runtime[Any]) -> State:
        asked = config["configurable"]
        return {"x": [asked["user"], asked["thread_id"], asked.get("__pregel_x"), config["tags"], runtime.context]}

    config = {"configurable": {"user": "Ann", "thread_id": "stolen", "__pregel_x": 1}, "tags": ["t"]}
    record = await run(chain(look), config=config, context={"language": "en"})
    assert record["output"]["x"] == ["Ann", "j1", None, ["t"], {"language": "en"}]


async def test_a_sync_node_runs_in_the_pool_and_does_not_hold_up_the_loop(run: Run) -> None:
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1, thread_name_prefix="node"))
    passed = threading.Event()

    def wait(_: State) -> State:
        return {"x": passed.wait(5), "log": [threading.current_thread().name]}

    asyncio.get_running_loop().call_later(0.01, passed.set)
    record = await run(chain(wait))
    assert record["output"]["x"] is True
    assert record["output"]["log"][0].startswith("node")


# Failure


def fail(_: State) -> State:
    raise ValueError("no such customer")


async def test_a_failure_says_type_message_and_node_and_is_final(run: Run) -> None:
    record = await run(chain(double, fail), {"x": 1})
    assert (record["status"], record["output"], record["tries"]) == ("failed", None, "1")
    assert record["error"] == {
        "type": "ValueError",
        "code": "graph_error",
        "message": "no such customer",
        "node": "fail",
        "retryable": False,
    }


async def test_a_failure_whose_words_json_cannot_hold_is_written_too(run: Run) -> None:
    def garble(_: State) -> State:
        raise ValueError("file \udcff")

    assert (await run(chain(garble)))["error"]["message"] == "file ?"


async def test_a_retryable_failure_waits_and_is_tried_again(attempts: Attempts, queue: JobQueue) -> None:
    tries: list[int] = []

    def connect(_: State) -> State:
        tries.append(1)
        if len(tries) < 3:
            raise ConnectionError("the provider hung up")
        return {"x": len(tries)}

    await attempts.serve(chain(connect))
    await attempts.submit(max_attempts=3)
    for tried in (1, 2):
        record = await attempts.run()
        assert (record["status"], record["tries"]) == ("queued", str(tried))
        assert (record["error"]["code"], record["error"]["retryable"]) == ("connection_error", True)
        assert await queue.redis.zcard(key("due")) == 1
        queue.pass_time(2**tried)
    record = await attempts.run()
    assert (record["status"], record["tries"], record["output"]) == ("succeeded", "3", {"x": 3, "log": []})
    assert record["error"] is None


async def test_when_no_try_is_left_a_retryable_failure_is_final(run: Run) -> None:
    def connect(_: State) -> State:
        raise ConnectionError("the provider hung up")

    record = await run(chain(connect), max_attempts=1)
    assert (record["status"], record["error"]["retryable"]) == ("failed", True)


async def test_a_retry_comes_no_sooner_than_its_source_asked(run: Run, queue: JobQueue) -> None:
    def later(_: State) -> State:
        raise Retry(defer=40)

    before = time.time()
    record = await run(chain(later))
    ((_, due),) = await queue.redis.zrange(key("due"), 0, -1, withscores=True)
    assert record["status"] == "queued"
    assert 40 <= due / 1000 - before < 50


async def test_a_graph_that_cancels_itself_fails(run: Run) -> None:
    async def cancel(_: State) -> State:
        raise asyncio.CancelledError

    record = await run(chain(cancel))
    assert (record["status"], record["error"]["code"], record["tries"]) == ("failed", "graph_error", "1")


@pytest.mark.parametrize("payload", [b"", b"not json", b"[1]", b"null", b'{"input":'])
async def test_a_payload_that_cannot_be_read_fails_its_job(run: Run, payload: bytes) -> None:
    record = await run(chain(double), payload=payload)
    assert (record["status"], record["error"]["code"]) == ("failed", "unreadable_record")


# Limits


async def sleep(_: State) -> State:
    await asyncio.sleep(60)
    return {}


async def test_the_jobs_own_time_limit_ends_it(run: Run) -> None:
    started = time.monotonic()
    record = await run(chain(sleep), limits={"seconds": 0.05})
    assert time.monotonic() - started < 10
    assert (record["status"], record["error"]["code"]) == ("failed", "timeout")
    assert record["error"]["retryable"] is False
    assert "0.05 seconds" in record["error"]["message"]


async def test_the_services_time_limit_ends_a_job_without_one(attempts: Attempts, run: Run) -> None:
    attempts.limits["job_timeout_seconds"] = 0.05
    assert (await run(chain(sleep)))["error"]["code"] == "timeout"


async def test_a_time_limit_of_0_is_off(attempts: Attempts, run: Run) -> None:
    attempts.limits["job_timeout_seconds"] = 0
    assert (await run(chain(double), {"x": 1}))["status"] == "succeeded"


async def test_a_nodes_own_timeout_is_no_time_limit_of_the_job(run: Run) -> None:
    async def slow(_: State) -> State:
        async with asyncio.timeout(0.01):
            await asyncio.sleep(60)
        return {}

    record = await run(chain(slow))
    assert (record["status"], record["error"]["code"]) == ("queued", "timeout")
    assert record["error"]["retryable"] is True


@pytest.mark.parametrize("request_", [{"limits": {"steps": 5}}, {"config": {"recursion_limit": 5}}], ids=str)
async def test_a_graph_that_goes_in_circles_is_stopped_by_the_limit_of_steps(
    run: Run, request_: dict[str, Any]
) -> None:
    steps: list[int] = []

    def circle(state: State) -> State:
        steps.append(1)
        return {"x": len(steps)}

    graph = StateGraph(State)
    graph.add_node("circle", circle)
    graph.add_edge(START, "circle")
    graph.add_edge("circle", "circle")
    record = await run(graph, {"x": 0}, **request_)
    assert (record["status"], record["error"]["code"], len(steps)) == ("failed", "limit_exceeded", 5)


async def test_an_output_beyond_the_limit_fails_the_job(attempts: Attempts, run: Run) -> None:
    attempts.limits["max_output_bytes"] = 100
    assert (await run(chain(double), {"x": "a" * 40}))["status"] == "succeeded" or pytest.fail("80 bytes fit")
    record = await run(chain(double), {"x": "a" * 50})
    assert (record["status"], record["error"]["code"], record["output"]) == ("failed", "output_too_large", None)
    attempts.limits["max_output_bytes"] = 0
    assert (await run(chain(double), {"x": "a" * 50}))["status"] == "succeeded"


# Interrupts


def ask_ann(_: State) -> State:
    return {"log": [f"Ann: {interrupt({'question': 'go on?'})}"]}


def ask_bob(_: State) -> State:
    return {"log": [f"Bob: {interrupt('really?')}"]}


@pytest.mark.parametrize("thread_id", [None, "t1"])
async def test_an_interrupt_ends_the_attempt_and_says_what_is_asked(run: Run, thread_id: str | None) -> None:
    record = await run(chain(double, ask_ann, note), {"x": 1}, **({"thread_id": thread_id} if thread_id else {}))
    assert (record["status"], record["output"]) == ("interrupted", None)
    (asked,) = record["interrupts"]
    assert asked["value"] == {"question": "go on?"}
    assert asked["id"]


async def test_all_that_is_asked_at_once_is_told_also_where_another_node_ends_last(run: Run) -> None:
    async def last(_: State) -> State:
        await asyncio.sleep(0.05)
        return {"log": ["done"]}

    graph = StateGraph(State)
    for node in (ask_ann, ask_bob, last):
        graph.add_node(node.__name__, node)
        graph.add_edge(START, node.__name__)
    record = await run(graph)
    assert record["status"] == "interrupted"
    assert sorted(str(asked["value"]) for asked in record["interrupts"]) == ["really?", "{'question': 'go on?'}"]


async def test_an_interrupt_within_a_subgraph_counts(run: Run) -> None:
    outer = StateGraph(State)
    outer.add_node("team", chain(double, ask_ann).compile())
    outer.add_edge(START, "team")
    record = await run(outer, {"x": 1})
    assert record["status"] == "interrupted"
    assert len(record["interrupts"]) == 1


@pytest.mark.parametrize("thread_id", [None, "t1"])
async def test_a_breakpoint_of_the_author_ends_the_attempt_too(run: Run, thread_id: str | None) -> None:
    graph = chain(double, note).compile(interrupt_before=["note"])
    record = await run(graph, {"x": 1}, **({"thread_id": thread_id} if thread_id else {}))
    assert (record["status"], record["interrupts"], record["output"]) == ("interrupted", [], None)


# Ends from outside


async def started(attempts: Attempts, source: Any, **request: Any) -> tuple[Lease, asyncio.Task[dict[str, Any]]]:
    """An attempt whose graph has said that it runs, by its first event."""
    await attempts.serve(source)
    await attempts.submit({"x": 1}, **request)
    lease = await attempts.claim()
    task = asyncio.create_task(attempts.run(lease))
    await until(attempts.events)
    return lease, task


async def test_a_cancelled_job_ends_as_cancelled_with_what_it_used(attempts: Attempts) -> None:
    async def chat(_: State) -> State:
        await OfflineChatModel().ainvoke("hello there")
        return {"x": 2}

    lease, task = await started(attempts, chain(chat, sleep))
    lease.end(EndReason.CANCEL)
    record = await task
    assert (record["status"], record["error"]) == ("cancelled", None)
    assert record["usage"]["calls"] == 1


async def test_a_stopping_worker_hands_the_job_back_and_that_costs_no_try(attempts: Attempts) -> None:
    lease, task = await started(attempts, chain(double, sleep))
    lease.end(EndReason.STOPPING)
    record = await task
    assert (record["status"], record["tries"], record["attempt"]) == ("queued", "0", "1")
    assert (await attempts.claim()).job.attempt == 2


async def test_a_job_that_was_just_claimed_is_handed_back_and_not_begun(attempts: Attempts) -> None:
    ran: list[int] = []

    def begin(_: State) -> State:
        ran.append(1)
        return {}

    await attempts.serve(chain(begin))
    await attempts.submit()
    lease = await attempts.claim()
    lease.end(EndReason.STOPPING)
    record = await attempts.run(lease)
    assert (record["status"], record["tries"], ran) == ("queued", "0", [])


async def test_an_attempt_that_lost_its_lease_writes_nothing_more(attempts: Attempts) -> None:
    lost = LEASE_LOST._value.get()
    lease, task = await started(attempts, chain(double, sleep))
    before = await attempts.record(), await attempts.events()
    lease.end(EndReason.GONE)
    await task
    assert (await attempts.record(), await attempts.events()) == before
    assert LEASE_LOST._value.get() == lost + 1


async def test_an_attempt_of_which_another_worker_has_taken_the_job_writes_nothing(
    attempts: Attempts, queue: JobQueue
) -> None:
    _, task = await started(attempts, chain(double, sleep), limits={"seconds": 0.2})
    await queue.lose_worker()
    other = await queue.take("w2")
    before = await attempts.record()
    await task  # it runs out of its time, and tries to say so
    assert await attempts.record() == before
    assert await queue.finish("w2", other, output=b"1") == "done"


@pytest.mark.parametrize(("reason", "status"), [(EndReason.CANCEL, "cancelled"), (EndReason.STOPPING, "queued")])
async def test_a_node_that_swallows_its_cancellation_is_ended_nevertheless(
    attempts: Attempts, reason: EndReason, status: str
) -> None:
    async def stubborn(_: State) -> State:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return {"x": "came to an end"}
        return {}

    lease, task = await started(attempts, chain(double, stubborn))
    lease.end(reason)
    assert (await task)["status"] == status


async def test_a_node_that_never_heeds_its_end_is_left_to_itself_and_writes_nothing_more(
    attempts: Attempts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stopping, "STOP_SECONDS", 0.05)
    go, done = asyncio.Event(), asyncio.Event()

    async def stubborn(_: State) -> State:
        while not go.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await go.wait()
        done.set()
        return {"x": "came to an end"}

    lease, task = await started(attempts, chain(double, stubborn))
    lease.end(EndReason.CANCEL)
    record = await asyncio.wait_for(task, 5)
    assert record["status"] == "cancelled"
    events = await attempts.events()
    go.set()
    await done.wait()
    await asyncio.sleep(0.05)
    assert await attempts.record() == record
    assert await attempts.events() == events


@pytest.mark.parametrize("returns", [True, False], ids=["and ends", "and goes on"])
async def test_the_time_limit_ends_a_node_that_swallows_its_cancellation(
    run: Run, monkeypatch: pytest.MonkeyPatch, returns: bool
) -> None:
    monkeypatch.setattr(stopping, "STOP_SECONDS", 0.05)
    release = asyncio.Event()

    async def stubborn(_: State) -> State:
        with contextlib.suppress(asyncio.CancelledError):
            await release.wait()
        while not returns and not release.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await release.wait()
        return {"x": "came to an end"}

    record = await asyncio.wait_for(run(chain(stubborn), limits={"seconds": 0.1}), 5)
    release.set()
    assert (record["status"], record["error"]["code"]) == ("failed", "timeout")


class SlowStore:
    """Holds up the calls that end an attempt until they are let go."""

    def __init__(self, queue: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self.go = asyncio.Event(), asyncio.Event()
        for name in ("finish", "release"):
            monkeypatch.setattr(queue.store, name, self._held_up(getattr(queue.store, name)))

    def _held_up(self, call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def held_up(*args: Any, **kwargs: Any) -> Any:
            self.reached.set()
            await self.go.wait()
            return await call(*args, **kwargs)

        return held_up


@pytest.mark.parametrize("reason", EndReason)
@pytest.mark.parametrize(("node", "status"), [(double, "succeeded"), (fail, "failed")], ids=["success", "failure"])
async def test_what_an_attempt_came_to_is_written_though_its_end_is_asked_for_meanwhile(
    attempts: Attempts, monkeypatch: pytest.MonkeyPatch, reason: EndReason, node: Any, status: str
) -> None:
    await attempts.serve(chain(node))
    await attempts.submit({"x": 1})
    lease = await attempts.claim()
    store = SlowStore(attempts.queue, monkeypatch)
    task = asyncio.create_task(attempts.run(lease))
    await asyncio.wait_for(store.reached.wait(), 5)
    lease.end(reason)
    await asyncio.sleep(0.01)
    store.go.set()
    assert (await task)["status"] == status


async def test_an_outcome_waits_for_a_redis_that_is_away(attempts: Attempts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "RETRY_SECONDS", 0.001)
    finish, asked = attempts.queue.store.finish, []

    async def away(*args: Any, **kwargs: Any) -> Any:
        asked.append(1)
        if len(asked) < 10:
            raise StoreUnavailable("away")
        return await finish(*args, **kwargs)

    monkeypatch.setattr(attempts.queue.store, "finish", away)
    await attempts.serve(chain(double))
    await attempts.submit({"x": 1})
    assert (await attempts.run())["status"] == "succeeded"
    assert len(asked) == 10


async def test_ended_rounds_are_counted(run: Run) -> None:
    def ended(status: str) -> float:
        return JOBS_ENDED.labels(GRAPH, status)._value.get()

    before = {status: ended(status) for status in ("succeeded", "failed", "interrupted")}
    await run(chain(double), {"x": 1})
    await run(chain(fail))
    await run(chain(ask_ann))
    assert {status: ended(status) - counted for status, counted in before.items()} == dict.fromkeys(before, 1)


# Usage and events


async def test_usage_is_kept_by_model_also_of_sync_nodes_and_of_a_failed_job(run: Run) -> None:
    def think(_: State) -> State:
        OfflineChatModel().invoke("one two three")
        return {}

    async def talk(_: State) -> State:
        await OfflineChatModel().ainvoke("one two")
        return {}

    usage = (await run(chain(think, talk)))["usage"]
    ((name, model),) = usage.pop("models").items()
    assert name == "offline"
    assert (model["calls"], model["input_tokens"]) == (2, 5)
    assert usage == {**model, "total_tokens": model["input_tokens"] + model["output_tokens"]}
    assert (await run(chain(think, fail)))["usage"]["calls"] == 1
    assert (await run(chain(double), {"x": 1}))["usage"] is None


async def speak(_: MessagesState) -> dict[str, Any]:
    get_stream_writer()({"progress": 50})
    return {"messages": [await OfflineChatModel().ainvoke("hello")]}


@pytest.mark.parametrize(
    "stream", [["updates"], ["values"], ["custom"], ["messages"], ["values", "updates", "custom", "messages"]], ids=str
)
async def test_the_events_are_those_that_the_job_asked_for(attempts: Attempts, run: Run, stream: list[str]) -> None:
    await run(chain(speak, state=MessagesState), {"messages": "hi"}, stream=stream)
    assert {event["type"] for event in await attempts.events()} == set(stream)


async def test_a_job_that_asks_for_no_events_gets_the_updates(attempts: Attempts, run: Run) -> None:
    await run(chain(speak, state=MessagesState), {"messages": "hi"})
    assert {event["type"] for event in await attempts.events()} == {"updates"}


async def test_events_come_in_order_and_as_json(attempts: Attempts, run: Run) -> None:
    await run(chain(speak, answer, state=MessagesState), {"messages": "hi"}, stream=["updates", "custom", "messages"])
    events = await attempts.events()
    assert [list(event["data"]) for event in events if event["type"] == "updates"] == [["speak"], ["answer"]]
    assert [event["data"] for event in events if event["type"] == "custom"] == [{"progress": 50}]
    chunk, metadata = next(event["data"] for event in events if event["type"] == "messages")
    assert chunk["type"] == "AIMessageChunk"
    assert metadata["langgraph_node"] == "speak"
    assert {event["attempt"] for event in events} == {1}
    assert [event["type"] for event in events].index("custom") < [event["type"] for event in events].index("updates")


async def test_events_show_a_thread_by_the_name_that_its_client_gave_it(attempts: Attempts, run: Run) -> None:
    await run(chain(speak, state=MessagesState), {"messages": "hi"}, stream=["messages"], thread_id="t1")
    for event in await attempts.events():
        assert event["data"][1]["thread_id"] == "t1"


async def test_events_of_a_subgraph_say_where_they_come_from(attempts: Attempts, run: Run) -> None:
    outer = StateGraph(State)
    outer.add_node("team", chain(double).compile())
    outer.add_edge(START, "team")
    record = await run(outer, {"x": 1})
    inner, top = [event["data"] for event in await attempts.events()]
    assert inner["namespace"][0].startswith("team:")
    assert inner["data"] == {"double": {"x": 2}}
    assert list(top) == ["team"]
    assert record["output"]["x"] == 2


# Threads


async def test_jobs_of_a_thread_share_memory_and_others_do_not(run: Run) -> None:
    graph = chain(answer, state=MessagesState)
    for thread_id, messages in (("t1", 2), ("t1", 3), ("t2", 2), (None, 2)):
        where = {"thread_id": thread_id} if thread_id else {}
        record = await run(graph, {"messages": [HumanMessage("hi").model_dump()]}, **where)
        assert len(record["output"]["messages"]) == messages  # the answer has an id, and takes its own place


async def test_a_second_attempt_goes_on_in_the_thread_and_does_not_put_its_input_in_twice(
    attempts: Attempts, queue: JobQueue
) -> None:
    ran: list[str] = []

    def first(_: State) -> State:
        ran.append("first")
        return {"log": ["first"]}

    def second(_: State) -> State:
        ran.append("second")
        if ran.count("second") == 1:
            raise ConnectionError("the provider hung up")
        return {"log": ["second"]}

    await attempts.serve(chain(first, second))
    await attempts.submit({"log": ["input"]}, thread_id="t1")
    assert (await attempts.run())["status"] == "queued"
    queue.pass_time(10)
    record = await attempts.run()
    assert record["output"]["log"] == ["input", "first", "second"]
    assert ran == ["first", "second", "second"]


async def test_a_second_attempt_after_the_last_step_gives_the_output_and_runs_nothing(
    attempts: Attempts, queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[int] = []

    def work(_: State) -> State:
        ran.append(1)
        return {"log": ["work"]}

    await attempts.serve(chain(work))
    await attempts.submit({"log": ["input"]}, thread_id="t1")
    store = SlowStore(queue, monkeypatch)
    task = asyncio.create_task(attempts.run())
    await asyncio.wait_for(store.reached.wait(), 5)
    await queue.lose_worker()  # between the last checkpoint and the end of the job
    store.go.set()
    await task
    record = await attempts.run()
    assert (record["status"], record["attempt"]) == ("succeeded", "2")
    assert record["output"]["log"] == ["input", "work"]
    assert ran == [1]


async def test_a_first_attempt_that_never_stored_its_input_is_followed_by_one_that_does(
    attempts: Attempts, queue: JobQueue
) -> None:
    await attempts.serve(chain(note))
    await attempts.submit({"x": 1}, thread_id="t1")
    assert (await attempts.run())["output"]["log"] == ["x is 1"]
    await attempts.submit({"x": 2}, thread_id="t1")
    lease = await attempts.claim()
    lease.end(EndReason.STOPPING)  # before it began
    await attempts.run(lease)
    record = await attempts.run()
    assert record["attempt"] == "2"
    assert record["output"]["log"] == ["x is 1", "x is 2"]
