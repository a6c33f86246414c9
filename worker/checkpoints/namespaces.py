"""What LangGraph calls things: namespaces are `parent|node:task`, or `parent|node` for a subgraph with memory."""

from __future__ import annotations

START_TASK = "~__pregel_pull, __start__"  # LangGraph's own, which takes the input in


def is_of_a_task(namespace: str, parent: str) -> bool:
    """Whether this namespace belongs to one task of `parent`, or lies below one: when the parent takes a step, that
    task is done, and nothing goes on from its namespace any more."""
    prefix = f"{parent}|" if parent else ""
    if namespace == parent or not namespace.startswith(prefix):
        return False
    return ":" in namespace.removeprefix(prefix).partition("|")[0]
