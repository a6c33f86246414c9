"""Where an attempt goes on: after a failure, a lost worker, a retry and an answer, with and without a thread."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt

from shared.store.keys import key
from tests.attempts import Attempts, State, chain
from tests.conditions import until
from tests.job_queue import TENANT, JobQueue
from worker.lease import EndReason

pytestmark = pytest.mark.parametrize("thread_id", [None, "t1"], ids=["job", "thread"])


class Nodes:
    """Three nodes that note when they run; `second` fails as long as there is something in `faults`."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.faults: list[Exception] = []

    def graph(self) -> StateGraph[Any, Any, Any, Any]:
        def first(_: State) -> State:
            self.ran.append("first")
            return {"log": ["first"]}

        def second(_: State) -> State:
            self.ran.append("second")
            if self.faults:
                raise self.faults.pop(0)
            return {"log": ["second"]}

        def third(_: State) -> State:
            self.ran.append("third")
            return {"log": ["third"]}

        return chain(first, second, third)


def given(thread_id: str | None) -> dict[str, Any]:
    return {"thread_id": thread_id} if thread_id else {}


async def test_a_retryable_failure_goes_on_at_the_node_that_failed(
    attempts: Attempts, queue: JobQueue, thread_id: str | None
) -> None:
    nodes = Nodes()
    nodes.faults = [ConnectionError("hung up"), ConnectionError("hung up")]
    await attempts.serve(nodes.graph())
    await attempts.submit({"log": ["input"]}, **given(thread_id))
    for _ in range(2):
        assert (await attempts.run())["status"] == "queued"
        queue.pass_time(10)
    record = await attempts.run()
    assert record["output"]["log"] == ["input", "first", "second", "third"]
    assert nodes.ran == ["first", "second", "second", "second", "third"]


async def test_a_retry_goes_on_at_the_node_that_failed(
    attempts: Attempts, queue: JobQueue, thread_id: str | None
) -> None:
    nodes = Nodes()
    nodes.faults = [ValueError("no")]
    await attempts.serve(nodes.graph())
    await attempts.submit({"log": ["input"]}, **given(thread_id))
    assert (await attempts.run())["status"] == "failed"
    assert await queue.store.retry(TENANT, attempts.id) == ("queued", "queued")
    record = await attempts.run()
    assert (record["status"], record["round"]) == ("succeeded", "2")
    assert record["output"]["log"] == ["input", "first", "second", "third"]
    assert nodes.ran == ["first", "second", "second", "third"]


async def test_a_retry_from_the_start_runs_all_again_on_what_the_job_found(
    attempts: Attempts, queue: JobQueue, thread_id: str | None
) -> None:
    nodes = Nodes()
    await attempts.serve(nodes.graph())
    before: list[str] = []
    if thread_id:
        await attempts.submit({"log": ["before"]}, **given(thread_id))
        before = (await attempts.run())["output"]["log"]
    nodes.ran.clear()
    nodes.faults = [ValueError("no"), ValueError("no")]
    await attempts.submit({"log": ["input"]}, **given(thread_id))
    for start in ("checkpoint", "start"):
        assert (await attempts.run())["status"] == "failed"
        await queue.store.retry(TENANT, attempts.id, start)  # type: ignore[arg-type]
    record = await attempts.run()
    assert record["output"]["log"] == [*before, "input", "first", "second", "third"]
    assert nodes.ran == ["first", "second", "second", "first", "second", "third"]


async def test_an_attempt_that_lost_its_lease_stops_before_the_next_node_and_stores_nothing(
    attempts: Attempts, queue: JobQueue, thread_id: str | None
) -> None:
    ran: list[str] = []
    inside, go = asyncio.Event(), asyncio.Event()

    async def first(_: State) -> State:
        ran.append("first")
        if len(ran) == 1:
            inside.set()
            await go.wait()
        return {"log": [f"first {len(ran)}"]}

    async def second(_: State) -> State:
        ran.append("second")
        return {"log": ["second"]}

    await attempts.serve(chain(first, second))
    await attempts.submit({"log": ["input"]}, **given(thread_id))
    stale = asyncio.create_task(attempts.run())
    await asyncio.wait_for(inside.wait(), 5)
    await queue.lose_worker()
    lease = await attempts.claim()  # another worker has it now
    go.set()
    await stale
    assert ran == ["first"]
    record = await attempts.run(lease)
    assert ran == ["first", "first", "second"]
    assert record["output"]["log"] == ["input", "first 2", "second"]


async def test_what_a_stale_attempt_stored_late_is_never_gone_on_from(
    attempts: Attempts, queue: JobQueue, thread_id: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It passes its last look at the lease, and its checkpoint arrives when another attempt has gone on."""
    ran: list[str] = []

    async def first(_: State) -> State:
        ran.append("first")
        return {"log": [f"first of attempt {len(ran)}"]}

    async def second(_: State) -> State:
        ran.append("second")
        if ran.count("second") == 1:
            raise ConnectionError("hung up")
        return {"log": ["second"]}

    await attempts.serve(chain(first, second))
    await attempts.submit({"log": ["input"]}, **given(thread_id))
    name = "pin" if thread_id else "checkpoint"
    write, calls = getattr(queue.store, name), 0
    late, go = asyncio.Event(), asyncio.Event()

    async def held_up(*args: Any, **options: Any) -> bool:
        nonlocal calls
        calls += 1
        if ran and not go.is_set() and not late.is_set():
            late.set()
            await go.wait()
        return bool(await write(*args, **options))

    monkeypatch.setattr(queue.store, name, held_up)
    stale = asyncio.create_task(attempts.run())
    await asyncio.wait_for(late.wait(), 5)
    await queue.lose_worker()
    record = await attempts.run()
    assert record["status"] == "queued"  # its second node failed
    go.set()
    await stale
    queue.pass_time(10)
    record = await attempts.run()
    assert record["output"]["log"] == ["input", "first of attempt 2", "second"]
    assert ran == ["first", "first", "second", "second"]


async def test_an_answer_is_given_to_the_question_and_the_job_goes_on(
    attempts: Attempts, queue: JobQueue, thread_id: str | None
) -> None:
    ran: list[str] = []

    def first(_: State) -> State:
        ran.append("first")
        return {"log": ["first"]}

    def ask(_: State) -> State:
        return {"log": [f"answer is {interrupt({'question': 'go on?'})}"]}

    await attempts.serve(chain(first, ask))
    await attempts.submit({"log": ["input"]}, **given(thread_id))
    record = await attempts.run()
    assert record["status"] == "interrupted"
    assert await queue.store.resume(TENANT, attempts.id, b'{"yes": true}') == ("queued", "queued")
    record = await attempts.run()
    assert (record["status"], record["round"]) == ("succeeded", "2")
    assert record["output"]["log"] == ["input", "first", "answer is {'yes': True}"]
    assert ran == ["first"]


async def test_an_answer_is_given_once_whatever_happens_on_the_way(
    attempts: Attempts, queue: JobQueue, thread_id: str | None
) -> None:
    """The node asks twice. Lost attempts and retries give it the first answer again, never to the second question."""
    heard: list[list[Any]] = []
    faults: list[Exception] = []

    def ask(_: State) -> State:
        one = interrupt("one?")
        heard.append([one])
        if faults:
            raise faults.pop(0)
        two = interrupt("two?")
        heard[-1].append(two)
        return {"log": [f"{one} {two}"]}

    def last(_: State) -> State:
        if faults:
            raise faults.pop(0)
        return {"log": ["last"]}

    await attempts.serve(chain(ask, last))
    await attempts.submit({"log": []}, **given(thread_id))
    assert (await attempts.run())["interrupts"][0]["value"] == "one?"
    await queue.store.resume(TENANT, attempts.id, b'"A"')
    await attempts.claim()
    await queue.lose_worker()  # before it began
    faults.append(ConnectionError("hung up"))  # after it was answered
    assert (await attempts.run())["status"] == "queued"
    queue.pass_time(10)
    faults.append(ValueError("no"))
    assert (await attempts.run())["status"] == "failed"
    await queue.store.retry(TENANT, attempts.id)
    record = await attempts.run()
    assert (record["status"], record["interrupts"][0]["value"]) == ("interrupted", "two?")
    await queue.store.resume(TENANT, attempts.id, b'"B"')
    faults.append(ConnectionError("hung up"))  # before `two?`
    assert (await attempts.run())["status"] == "queued"
    queue.pass_time(10)
    faults.clear()
    record = await attempts.run()
    assert record["output"]["log"] == ["A B", "last"]
    assert heard[-1] == ["A", "B"]
    assert all(said[0] == "A" for said in heard)


async def test_an_interrupted_attempt_whose_end_was_not_written_asks_the_same_again(
    attempts: Attempts, queue: JobQueue, thread_id: str | None
) -> None:
    """It was answered, and asked the next question; then its worker died before it could say so."""

    def ask(_: State) -> State:
        return {"log": [f"{interrupt('one?')} {interrupt('two?')}"]}

    await attempts.serve(chain(ask))
    await attempts.submit({"log": []}, **given(thread_id))
    await attempts.run()
    await queue.store.resume(TENANT, attempts.id, b'"A"')
    lease = await attempts.claim()
    finish = queue.store.finish

    async def die(*_: Any, **__: Any) -> str:
        return "gone"

    queue.store.finish = die  # type: ignore[method-assign, assignment]
    await attempts.run(lease)
    queue.store.finish = finish  # type: ignore[method-assign]
    await queue.lose_worker()
    record = await attempts.run()
    assert (record["status"], record["interrupts"][0]["value"]) == ("interrupted", "two?")
    await queue.store.resume(TENANT, attempts.id, b'"B"')
    assert (await attempts.run())["output"]["log"] == ["A B"]


async def test_one_answer_goes_to_all_questions_that_are_open(
    attempts: Attempts, queue: JobQueue, thread_id: str | None
) -> None:
    def ask_a(_: State) -> State:
        return {"log": [f"a {interrupt('a?')}"]}

    def ask_b(_: State) -> State:
        return {"log": [f"b {interrupt('b?')}"]}

    graph = StateGraph(State)
    for node in (ask_a, ask_b):
        graph.add_node(node.__name__, node)
        graph.add_edge(START, node.__name__)
    await attempts.serve(graph)
    await attempts.submit({"log": []}, **given(thread_id))
    assert len((await attempts.run())["interrupts"]) == 2
    await queue.store.resume(TENANT, attempts.id, b'"yes"')
    assert (await attempts.run())["output"]["log"] == ["a yes", "b yes"]


async def test_an_answer_reaches_a_subgraph(attempts: Attempts, queue: JobQueue, thread_id: str | None) -> None:
    ran: list[str] = []

    def before(_: State) -> State:
        ran.append("before")
        return {"log": ["before"]}

    def ask(_: State) -> State:
        return {"log": [f"heard {interrupt('well?')}"]}

    inner = chain(before, ask).compile()
    graph = StateGraph(State)
    graph.add_node("inner", inner)
    graph.add_edge(START, "inner")
    await attempts.serve(graph)
    await attempts.submit({"x": 1}, **given(thread_id))
    assert (await attempts.run())["status"] == "interrupted"
    await queue.store.resume(TENANT, attempts.id, b'"yes"')
    assert (await attempts.run())["output"]["log"] == ["before", "heard yes"]
    assert ran == ["before"]


async def test_a_breakpoint_is_passed_by_any_answer(attempts: Attempts, queue: JobQueue, thread_id: str | None) -> None:
    nodes = Nodes()
    await attempts.serve(nodes.graph().compile(interrupt_before=["second"]))
    await attempts.submit({"log": []}, **given(thread_id))
    assert (await attempts.run())["status"] == "interrupted"
    assert nodes.ran == ["first"]
    await queue.store.resume(TENANT, attempts.id, b"null")
    assert (await attempts.run())["output"]["log"] == ["first", "second", "third"]


async def test_a_job_handed_back_goes_on_after_its_last_finished_step(
    attempts: Attempts, queue: JobQueue, thread_id: str | None
) -> None:
    ran: list[str] = []

    async def first(_: State) -> State:
        ran.append("first")
        return {"log": ["first"]}

    async def second(_: State) -> State:
        ran.append("second")
        await asyncio.sleep(0 if len(ran) > 2 else 60)
        return {"log": ["second"]}

    await attempts.serve(chain(first, second))
    await attempts.submit({"log": []}, **given(thread_id))
    lease = await attempts.claim()
    running = asyncio.create_task(attempts.run(lease))
    await until(lambda: ran == ["first", "second"])
    lease.end(EndReason.STOPPING)
    assert (await running)["tries"] == "0"
    assert (await attempts.run())["output"]["log"] == ["first", "second"]
    assert ran == ["first", "second", "second"]


async def test_the_jobs_checkpoints_are_gone_once_it_has_succeeded(
    attempts: Attempts, queue: JobQueue, thread_id: str | None
) -> None:
    nodes = Nodes()
    nodes.faults = [ValueError("no")]
    await attempts.serve(nodes.graph())
    await attempts.submit({"log": []}, **given(thread_id))
    await attempts.run()
    place = key("checkpoints", f"{TENANT}:{attempts.id}")
    assert await queue.redis.exists(place) == (0 if thread_id else 1)
    await queue.store.retry(TENANT, attempts.id)
    await attempts.run()
    assert await queue.redis.exists(place) == 0


async def test_a_retry_from_the_start_that_had_to_wait_its_turn_begins_with_its_input(
    attempts: Attempts, queue: JobQueue, thread_id: str | None
) -> None:
    """Another job held the thread by then, so the thread was left as it was; that job never ran."""
    nodes = Nodes()
    nodes.faults = [ValueError("no")]
    await attempts.serve(nodes.graph())
    await attempts.submit({"log": ["input"]}, **given(thread_id))
    failed = attempts.id
    await attempts.run()
    await attempts.submit({"log": ["other"]}, **given(thread_id))
    other, attempts.id = attempts.id, failed
    await queue.store.retry(TENANT, failed, "start")
    await queue.store.cancel(TENANT, other)
    nodes.ran.clear()
    record = await attempts.run()
    assert nodes.ran == ["first", "second", "third"]
    assert record["output"]["log"][-4:] == ["input", "first", "second", "third"]


async def test_a_subgraph_with_a_memory_of_its_own_keeps_it_over_steps_and_attempts(
    attempts: Attempts, queue: JobQueue, thread_id: str | None
) -> None:
    faults = [ConnectionError("hung up")]

    def again(state: State) -> State:
        if len(state["log"]) == 2 and faults:
            raise faults.pop()
        return {"log": ["again"]}

    inner = chain(again).compile(checkpointer=True)
    graph = StateGraph(State)

    async def outer(state: State) -> State:
        said = await inner.ainvoke({"log": ["in"]})
        return {"x": state["x"] + 1, "log": [f"inner has {len(said['log'])}"]}

    graph.add_node("outer", outer)
    graph.add_edge(START, "outer")
    graph.add_conditional_edges("outer", lambda state: "outer" if state["x"] < 3 else END)
    await attempts.serve(graph)
    await attempts.submit({"x": 0, "log": []}, **given(thread_id))
    record = await attempts.run()
    while record["status"] == "queued":
        queue.pass_time(10)
        record = await attempts.run()
    assert record["output"]["log"] == ["inner has 2", "inner has 4", "inner has 6"]


async def test_what_is_kept_of_a_thread_or_job_does_not_grow_with_the_subgraphs_it_has_called(
    attempts: Attempts, queue: JobQueue, thread_id: str | None
) -> None:
    fields: list[int] = []

    def inside(_: State) -> State:
        return {"log": ["inside"]}

    graph = StateGraph(State)
    graph.add_node("inner", chain(inside).compile())
    graph.add_node("count", lambda state: {"x": state["x"] + 1})
    graph.add_node("ask", lambda _: {"log": [interrupt("well?")]})
    graph.add_edge(START, "inner")
    graph.add_edge("inner", "count")
    graph.add_conditional_edges("count", lambda state: "inner" if state["x"] < state.get("rounds", 9) else "ask")
    await attempts.serve(graph)
    for x in (7, 0):
        await attempts.submit({"x": x}, **given(thread_id))
        assert (await attempts.run())["status"] == "interrupted"
        names = ["head", "checkpoints"]
        found = [name async for name in queue.redis.scan_iter("*") if name.split(b":")[1].decode() in names]
        fields.append(sum([await queue.redis.hlen(name) for name in found]))  # type: ignore[misc]
        await queue.store.cancel(TENANT, attempts.id)
        await queue.store.erase(TENANT, attempts.id)
    assert fields[0] == fields[1] > 0


async def test_what_is_being_stored_is_stored_before_the_job_is_handed_back(
    attempts: Attempts, queue: JobQueue, thread_id: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    name = "pin" if thread_id else "checkpoint"
    write, release = getattr(queue.store, name), queue.store.release

    async def slow_write(*args: Any, **options: Any) -> bool:
        await asyncio.sleep(0.02)
        written = bool(await write(*args, **options))
        calls.append("stored")
        return written

    async def noted_release(*args: Any, **options: Any) -> str:
        calls.append("released")
        return await release(*args, **options)

    monkeypatch.setattr(queue.store, name, slow_write)
    monkeypatch.setattr(queue.store, "release", noted_release)
    ran: list[str] = []

    async def first(_: State) -> State:
        ran.append("first")
        return {"log": ["first"]}

    async def second(_: State) -> State:
        ran.append("second")
        return {"log": ["second"]}

    await attempts.serve(chain(first, second))
    await attempts.submit({"log": []}, **given(thread_id))
    lease = await attempts.claim()
    running = asyncio.create_task(attempts.run(lease))
    await until(lambda: bool(ran))
    lease.end(EndReason.STOPPING)
    await running
    assert "stored" in calls
    assert calls[-1] == "released"
    assert (await attempts.run())["output"]["log"] == ["first", "second"]
