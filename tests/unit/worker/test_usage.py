"""Tokens by model, as models report them."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableLambda

from worker.offline import OfflineChatModel
from worker.usage import UsageCounter


def used(counter: UsageCounter) -> Any:
    return orjson.loads(counter.fields()["usage"])


def answer(model: str | None, tokens: tuple[int, int] | None) -> AIMessage:
    metadata = (
        None if tokens is None else {"input_tokens": tokens[0], "output_tokens": tokens[1], "total_tokens": sum(tokens)}
    )
    return AIMessage("hi", response_metadata={"model_name": model} if model else {}, usage_metadata=metadata)  # type: ignore[arg-type]


def test_no_model_no_usage() -> None:
    assert UsageCounter().fields() == {}


async def test_tokens_and_calls_are_summed_by_model() -> None:
    counter = UsageCounter()
    answers = [answer("a", (1, 2)), answer("a", (3, 4)), answer("b", (5, 6)), answer("b", None), answer(None, (7, 8))]
    model = GenericFakeChatModel(messages=iter(answers), disable_streaming=True)
    for _ in answers:
        await model.ainvoke("hi", {"callbacks": [counter]})
    assert used(counter) == {
        "input_tokens": 16,
        "output_tokens": 20,
        "total_tokens": 36,
        "calls": 5,
        "models": {
            "a": {"input_tokens": 4, "output_tokens": 6, "calls": 2},
            "b": {"input_tokens": 5, "output_tokens": 6, "calls": 2},
            "unknown": {"input_tokens": 7, "output_tokens": 8, "calls": 1},
        },
    }


@pytest.mark.parametrize("way", ["invoke", "ainvoke", "stream", "astream", "in a chain", "in a thread"])
async def test_a_call_counts_once_whichever_way_it_is_made(way: str) -> None:
    counter = UsageCounter()
    config: Any = {"callbacks": [counter]}
    model = OfflineChatModel()
    if way == "invoke":
        model.invoke("hello there", config)
    elif way == "ainvoke":
        await model.ainvoke("hello there", config)
    elif way == "stream":
        list(model.stream("hello there", config))
    elif way == "astream":
        [chunk async for chunk in model.astream("hello there", config)]
    elif way == "in a chain":
        await (RunnableLambda(lambda text: text) | model).ainvoke("hello there", config)
    else:
        await asyncio.to_thread(model.invoke, "hello there", config)
    (counted,) = used(counter)["models"].values()
    assert counted["calls"] == 1
    assert counted["input_tokens"] == 2
    assert counted["output_tokens"] > 0
