"""The graph that everything is measured with: two nodes, each adds a message, no model."""

from langchain_core.messages import AIMessage
from langgraph.graph import END, START, MessagesState, StateGraph


def _first(state: MessagesState) -> dict[str, list[AIMessage]]:
    return {"messages": [AIMessage("first")]}


def _second(state: MessagesState) -> dict[str, list[AIMessage]]:
    return {"messages": [AIMessage("second")]}


def build() -> StateGraph:
    builder = StateGraph(MessagesState)
    builder.add_node("first", _first)
    builder.add_node("second", _second)
    builder.add_edge(START, "first")
    builder.add_edge("first", "second")
    builder.add_edge("second", END)
    return builder


two_nodes = build().compile()
INPUT = {"messages": [{"role": "user", "content": "hi"}]}
