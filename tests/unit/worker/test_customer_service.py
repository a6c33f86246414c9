"""The customer service team on the offline model; tests/integration/worker/test_providers.py has it on providers."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.callbacks import UsageMetadataCallbackHandler
from langchain_core.messages import AIMessage
from langgraph.checkpoint.memory import InMemorySaver

from shared.settings import Settings
from worker.graphs.customer_service import SPECIALISTS, build, graph, read_decision
from worker.models import PROVIDERS, use_settings

REQUESTS = [
    ("My router blinks red. What now?", "support"),
    ("The internet is so slow today", "support"),
    ("I forgot my password and cannot log in", "support"),
    ("I keep getting an error message", "support"),
    ("How much is the 1 Gbit plan?", "sales"),
    ("I would like to upgrade my contract", "sales"),
    ("Do you have a discount for students?", "sales"),
    ("Please send a technician to install the new line", "field_service"),
    ("Can we move my appointment to Friday?", "field_service"),
    ("The cable in our cellar is damaged", "field_service"),
    ("I want a refund!", "manager"),
    ("This is a formal complaint", "manager"),
    ("Let me speak to your supervisor", "manager"),
    ("我的路由器一直闪红灯，怎么办？", "support"),
    ("忘记密码了，登录不上", "support"),
    ("一千兆的套餐多少钱？", "sales"),
    ("我想购买你们的服务，有优惠吗", "sales"),
    ("请安排师傅上门安装", "field_service"),
    ("我想改约到星期五", "field_service"),
    ("我要投诉你们", "manager"),
    ("账单错误，请退款", "manager"),
    ("Hello!", "support"),
    ("qwertz", "support"),
    ("", "support"),
]


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in PROVIDERS:
        monkeypatch.delenv(f"{name.upper()}_API_KEY", raising=False)
    use_settings(Settings(_env_file=None))
    yield
    use_settings(None)


def question(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


@pytest.mark.parametrize(("text", "specialist"), REQUESTS)
async def test_a_request_reaches_the_specialist_for_it_who_answers_and_is_named(text: str, specialist: str) -> None:
    result = await graph.ainvoke(question(text))
    assert result["handled_by"] == specialist
    assert len(result["messages"]) == 2
    answer = result["messages"][-1]
    assert isinstance(answer, AIMessage)
    assert answer.name == specialist
    assert text in answer.text


async def test_the_answer_comes_from_the_specialists_own_instructions() -> None:
    answer = (await graph.ainvoke(question("My router blinks red. What now?")))["messages"][-1].text
    assert "I am the technical support specialist" in answer
    assert "unplug it for thirty seconds" in answer
    chinese = (await graph.ainvoke(question("我的路由器一直闪红灯，怎么办？")))["messages"][-1].text
    assert "我是客服团队的技术支持专员" in chinese
    assert "断电三十秒" in chinese


async def test_the_intent_is_kept_as_the_coordinator_understood_it() -> None:
    assert (await graph.ainvoke(question("I want a refund!")))["intent"] == "I want a refund!"


async def test_a_thread_keeps_the_conversation_and_each_turn_is_routed_anew() -> None:
    team = build().compile(checkpointer=InMemorySaver())
    ada, bob = {"configurable": {"thread_id": "ada"}}, {"configurable": {"thread_id": "bob"}}
    await team.ainvoke(question("My router blinks red"), ada)
    await team.ainvoke(question("What does a plan cost?"), bob)
    result = await team.ainvoke(question("Then I want a refund"), ada)
    assert [message.name for message in result["messages"]] == [None, "support", None, "manager"]
    assert result["handled_by"] == "manager"
    assert "My router blinks red" in result["messages"][-1].text
    assert "plan" not in result["messages"][-1].text


async def test_many_at_once_do_not_mix() -> None:
    texts = [f"{text} (number {number})" for number in range(5) for text, _ in REQUESTS if text]
    results = await asyncio.gather(*(graph.ainvoke(question(text)) for text in texts))
    expected = [specialist for _ in range(5) for text, specialist in REQUESTS if text]
    assert [result["handled_by"] for result in results] == expected
    assert all(text in result["messages"][-1].text for text, result in zip(texts, results, strict=True))


async def test_the_answer_is_streamed_in_pieces_from_the_specialists_node() -> None:
    pieces: dict[str, list[str]] = {}
    async for message, metadata in graph.astream(question("I want a refund!"), stream_mode="messages"):
        pieces.setdefault(metadata["langgraph_node"], []).append(message.text)
    assert len(pieces["manager"]) > 10
    assert "I want a refund!" in "".join(pieces["manager"])
    assert set(pieces) <= {"coordinator", "manager"}


async def test_usage_counts_the_coordinator_as_well_as_the_answer() -> None:
    usage = UsageMetadataCallbackHandler()
    result = await graph.ainvoke(question("I want a refund!"), {"callbacks": [usage]})
    answer = result["messages"][-1].usage_metadata
    assert usage.usage_metadata["offline"]["total_tokens"] > answer["total_tokens"]


def test_the_drawing_shows_the_coordinator_and_its_four_specialists() -> None:
    edges = {(edge.source, edge.target) for edge in graph.get_graph().edges}
    assert {("coordinator", name) for name in SPECIALISTS} <= edges
    assert {(name, "__end__") for name in SPECIALISTS} <= edges


def test_the_input_asks_for_messages_only() -> None:
    assert list(graph.get_input_jsonschema()["properties"]) == ["messages"]
    assert set(graph.get_output_jsonschema()["properties"]) == {"messages", "intent", "handled_by"}


def call(name: str, **arguments: Any) -> AIMessage:
    return AIMessage("", tool_calls=[{"name": name, "args": arguments, "id": "call_1", "type": "tool_call"}])


@pytest.mark.parametrize(
    ("decision", "expected"),
    [
        (call("transfer_to_sales", intent="buy"), ("sales", "buy")),
        (call("manager", intent="rage"), ("manager", "rage")),
        (call("transfer_to_sales"), ("sales", "")),
        (call("transfer_to_sales", intent=["buy"]), ("sales", "")),
        (call("transfer_to_nobody", intent="buy"), ("support", "")),
        (AIMessage("Field service should take this."), ("field_service", "")),
        (AIMessage("sales or manager, I cannot say"), ("support", "")),
        (AIMessage("No idea"), ("support", "")),
        (AIMessage(""), ("support", "")),
    ],
)
def test_a_decision_that_names_nobody_goes_to_support(decision: AIMessage, expected: tuple[str, str]) -> None:
    assert read_decision(decision) == expected
