"""Graphs that leave a line for each node that starts, and whose nodes wait, fail or ask where their input says so."""

import asyncio
import operator
import os
import signal
import time
from pathlib import Path
from typing import Annotated, Any

import httpx
from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt
from typing_extensions import TypedDict


class Traced(TypedDict, total=False):
    """A step is a node, or a turn of the loop.

    `file` gets a line "<step> <pid>" for each start of a step. A step in `hold` then waits for a file `<file>.<step>`,
    or `<file>.<step>.<pid>`. One in `fail` raises: {"times": its first so many starts, "error": which, "retry_after":
    seconds}. `trail` has the steps that have ended, as their lines are. `turns` are the loop's, `seconds` what an async
    step takes; a sync step leaves the file `returned` at its end.
    """

    file: str
    hold: list[str]
    fail: dict[str, dict[str, Any]]
    turns: int
    seconds: float
    returned: str
    trail: Annotated[list[str], operator.add]


def _start(step: str, state: Traced) -> list[Path]:
    """Leave the line; gives the files of which the step must wait for one, if it must."""
    path = Path(state["file"])
    with path.open("a") as lines:
        lines.write(f"{step} {os.getpid()}\n")
    _fail(state.get("fail", {}).get(step), path.read_text().count(f"{step} "))
    gates = [Path(f"{path}.{step}"), Path(f"{path}.{step}.{os.getpid()}")]
    return gates if step in state.get("hold", []) else []


def _open(gates: list[Path]) -> bool:
    return not gates or any(gate.exists() for gate in gates)


def _fail(how: dict[str, Any] | None, starts: int) -> None:
    if how is None or starts > how.get("times", 1):
        return
    if how["error"] == "connection":
        raise ConnectionError("the provider hung up")
    if how["error"] == "final":
        raise ValueError("no try would help")
    request = httpx.Request("POST", "http://provider.test/")
    response = httpx.Response(int(how["error"]), headers={"retry-after": str(how["retry_after"])}, request=request)
    raise httpx.HTTPStatusError("the provider is busy", request=request, response=response)


def _end(step: str) -> dict:
    return {"trail": [f"{step} {os.getpid()}"]}


def _node(step: str) -> Any:
    async def run(state: Traced) -> dict:
        gates = _start(step, state)
        while not _open(gates):  # noqa: ASYNC110 - the test is another process
            await asyncio.sleep(0.01)
        await asyncio.sleep(state.get("seconds", 0))
        return _end(step)

    return run


def _sync_node(step: str) -> Any:
    def run(state: Traced) -> dict:
        gates = _start(step, state)
        while not _open(gates):
            time.sleep(0.01)
        if "returned" in state:
            Path(state["returned"]).touch()
        return _end(step)

    return run


async def _turn(state: Traced) -> dict:
    return await _node(f"turn-{len(state.get('trail', [])) + 1}")(state)


def _ask(state: Traced) -> dict:
    _start("ask", state)
    answer = interrupt({"question": "go on?"})
    return {"trail": [f"answered {answer}"]}


def _chain(**nodes: Any) -> StateGraph:
    return StateGraph(Traced).add_sequence(list(nodes.items())).add_edge(START, next(iter(nodes)))


traced = _chain(first=_node("first"), second=_node("second"))
traced_sync = _chain(first=_sync_node("first"), second=_sync_node("second"))
traced_asking = _chain(first=_node("first"), ask=_ask, last=_node("last"))
traced_subgraph = _chain(
    first=_node("first"), inner=_chain(one=_node("one"), two=_node("two")).compile(), last=_node("last")
)
traced_branches = (
    StateGraph(Traced)
    .add_node("left", _node("left"))
    .add_node("right", _node("right"))
    .add_node("join", _node("join"))
    .add_edge(START, "left")
    .add_edge(START, "right")
    .add_edge(["left", "right"], "join")
    .add_edge("join", END)
)
traced_loop = (
    StateGraph(Traced)
    .add_node("turn", _turn)
    .add_edge(START, "turn")
    .add_conditional_edges("turn", lambda state: "turn" if len(state["trail"]) < state["turns"] else END)
)


class Killer(TypedDict, total=False):
    how: str


async def _die(state: Killer) -> dict:
    """Leave at once, or be killed as by a kernel that is out of memory."""
    await asyncio.sleep(0.2)
    if state["how"] == "exit":
        os._exit(1)
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


killer = StateGraph(Killer).add_node("die", _die).add_edge(START, "die").add_edge("die", END)
