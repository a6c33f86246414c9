"""The offline model answers from the conversation alone, and behaves as a chat model should."""

from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.callbacks import UsageMetadataCallbackHandler
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from pydantic import BaseModel

from worker.offline import OfflineChatModel, keywords

SYSTEM = SystemMessage("""
You are a baker.
Bread is baked at 240 degrees. Cakes need butter.
你是面包师。面包要烤四十分钟。
""")


@tool
def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"rain in {city}"


@tool
def multiply(factor: int, times: float) -> float:
    """Multiply two numbers."""
    return factor * times


texts = st.text(alphabet=st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=80)
conversations = st.lists(
    st.one_of(
        st.builds(HumanMessage, texts),
        st.builds(AIMessage, texts),
        st.builds(SystemMessage, texts),
        st.builds(lambda text: ToolMessage(text, tool_call_id="call_1"), texts),
    ),
    min_size=1,
    max_size=6,
)


@given(conversations)
def test_the_same_conversation_gives_the_same_reply(messages: list[BaseMessage]) -> None:
    model = OfflineChatModel().bind_tools([get_weather, multiply])
    first, second = model.invoke(messages), model.invoke(list(messages))
    assert (first.content, first.tool_calls, first.usage_metadata) == (
        second.content,
        second.tool_calls,
        second.usage_metadata,
    )
    assert first.content or first.tool_calls


@given(conversations)
def test_what_is_streamed_adds_up_to_the_reply(messages: list[BaseMessage]) -> None:
    model = OfflineChatModel().bind_tools([get_weather, multiply])
    whole = model.invoke(messages)
    chunks = list(model.stream(messages))
    total = chunks[0]
    for chunk in chunks[1:]:
        total = total + chunk
    assert (total.content, total.tool_calls) == (whole.content, whole.tool_calls)
    assert total.usage_metadata == whole.usage_metadata
    assert total.response_metadata["model_name"] == "offline"


async def test_a_reply_is_streamed_word_by_word_and_chinese_character_by_character() -> None:
    model = OfflineChatModel()
    english = [chunk.text async for chunk in model.astream("Hello there")]
    assert {"Hello", " there", "“Hello", " there”"} & set(english)
    assert max(len(piece.split()) for piece in english) == 1
    chinese = [chunk.text async for chunk in model.astream("你好")]
    assert "你" in "".join(chinese)
    assert len(chinese) > 10


def test_a_reply_names_the_role_the_question_and_the_sentence_of_the_prompt_that_fits_it() -> None:
    answer = OfflineChatModel().invoke([SYSTEM, HumanMessage("How hot is the oven for bread?")]).text
    assert "I am a baker." in answer
    assert "How hot is the oven for bread?" in answer
    assert "Bread is baked at 240 degrees." in answer
    assert "butter" not in answer


def test_a_chinese_question_is_answered_in_chinese_from_the_chinese_sentences() -> None:
    answer = OfflineChatModel().invoke([SYSTEM, HumanMessage("面包烤多久？")]).text
    assert "我是面包师。" in answer
    assert "面包烤多久？" in answer
    assert "面包要烤四十分钟。" in answer
    assert "You wrote" not in answer


def test_an_earlier_question_of_the_conversation_is_remembered() -> None:
    history = [HumanMessage("My name is Ada."), AIMessage("Hello Ada."), HumanMessage("What is my name?")]
    assert "My name is Ada." in OfflineChatModel().invoke(history).text


def test_a_question_that_fits_a_tool_is_first_a_call_and_then_an_answer_with_its_result() -> None:
    model = OfflineChatModel().bind_tools([multiply, get_weather])
    question = HumanMessage("What is the weather in “Oslo”?")
    call = model.invoke([question])
    assert [(each["name"], each["args"]) for each in call.tool_calls] == [("get_weather", {"city": "Oslo"})]
    assert call.content == ""

    result = get_weather.invoke(call.tool_calls[0])
    answer = model.invoke([question, call, result])
    assert answer.tool_calls == []
    assert "get_weather returned: rain in Oslo" in answer.text


def test_arguments_are_filled_by_the_tools_schema() -> None:
    model = OfflineChatModel().bind_tools([get_weather, multiply])
    call = model.invoke("Please multiply 6 by 7.5").tool_calls[0]
    assert call["args"] == {"factor": 6, "times": 7.5}
    assert multiply.invoke(call["args"]) == 45


def test_each_tool_that_fits_is_called_once_the_best_match_first() -> None:
    model = OfflineChatModel().bind_tools([multiply, get_weather])
    conversation: list[BaseMessage] = [HumanMessage("Multiply the two numbers 3 and 4, then the weather please")]
    called = []
    while (message := model.invoke(conversation)).tool_calls:
        called.append(message.tool_calls[0]["name"])
        conversation += [message, ToolMessage("done", tool_call_id=message.tool_calls[0]["id"])]
    assert called == ["multiply", "get_weather"]
    assert "multiply returned: done" in message.text
    assert "get_weather returned: done" in message.text


def test_call_ids_are_unique_within_a_conversation() -> None:
    model = OfflineChatModel().bind_tools([get_weather])
    first = model.invoke("weather in Oslo?")
    history = [HumanMessage("weather in Oslo?"), first, ToolMessage("rain", tool_call_id=first.tool_calls[0]["id"])]
    second = model.invoke([*history, AIMessage("Rain."), HumanMessage("weather in Rome?")])
    assert second.tool_calls[0]["id"] != first.tool_calls[0]["id"]


@pytest.mark.parametrize(
    ("tool_choice", "called"),
    [
        (None, []),
        ("auto", []),
        ("none", []),
        ("any", ["multiply"]),
        ("required", ["multiply"]),
        (True, ["multiply"]),
        ("get_weather", ["get_weather"]),
        ({"type": "function", "function": {"name": "get_weather"}}, ["get_weather"]),
    ],
)
def test_tool_choice_is_obeyed_where_no_tool_fits(tool_choice: object, called: list[str]) -> None:
    model = OfflineChatModel().bind_tools([multiply, get_weather], tool_choice=tool_choice)
    assert [call["name"] for call in model.invoke("Good morning").tool_calls] == called


def test_a_forbidden_tool_is_not_called_even_where_it_fits() -> None:
    model = OfflineChatModel().bind_tools([get_weather], tool_choice="none")
    assert model.invoke("What is the weather?").tool_calls == []


class Order(BaseModel):
    """An order for the kitchen."""

    dish: Literal["soup", "pizza", "salad"]
    portions: int
    guest: str
    extras: list[str]
    note: str | None
    table: int = 4


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": ["null", "integer"]}, 7),
        ({"type": "integer", "minimum": 3}, 7),
        ({"anyOf": [{"type": "null"}, {"type": "boolean"}]}, False),
        ({"anyOf": [{"type": "null"}]}, "Call 7 times"),
        ({"const": "x"}, "x"),
        ({"type": "null"}, None),
        ({"type": "string", "maxLength": 4}, "Call"),
        ({}, "Call 7 times"),
    ],
)
def test_every_kind_of_argument_gets_a_value_that_fits(schema: dict[str, Any], value: object) -> None:
    parameters = {"type": "object", "properties": {"value": schema}, "required": ["value"]}
    function = {"type": "function", "function": {"name": "call", "parameters": parameters}}
    model = OfflineChatModel().bind_tools([function])
    assert model.invoke("Call 7 times").tool_calls[0]["args"] == {"value": value}


def test_a_number_of_any_length_does_no_harm() -> None:
    call = OfflineChatModel().bind_tools([multiply]).invoke("multiply " + "9" * 5000).tool_calls[0]
    assert isinstance(call["args"]["factor"], int)


def test_structured_output_is_an_object_of_the_schema() -> None:
    order = OfflineChatModel().with_structured_output(Order).invoke('Two guests, 3 portions of pizza for "Ada"')
    assert order == Order(dish="pizza", portions=3, guest="Ada", extras=["Ada"], note="Ada")


def test_usage_counts_words_under_the_models_name() -> None:
    usage = UsageMetadataCallbackHandler()
    answer = OfflineChatModel().invoke([SystemMessage("one two"), HumanMessage("three")], {"callbacks": [usage]})
    counted = usage.usage_metadata["offline"]
    assert counted["input_tokens"] == 3
    assert counted["output_tokens"] == len(answer.text.split())
    assert counted["total_tokens"] == counted["input_tokens"] + counted["output_tokens"]
    chinese = OfflineChatModel().invoke("请退款 now").usage_metadata
    assert chinese is not None
    assert chinese["input_tokens"] == 4


def test_a_stop_sequence_ends_the_reply_before_it() -> None:
    assert OfflineChatModel().invoke("Hello world", stop=["world"]).text == "You wrote: “Hello "


def test_a_long_text_is_quoted_in_part() -> None:
    assert len(OfflineChatModel().invoke("word " * 100_000).text) < 1000


def test_words_match_across_their_endings_and_chinese_by_pairs() -> None:
    assert keywords("The prices of upgrading") & keywords("upgrade price") == {"pric", "upgrad"}
    assert keywords("请退款") & keywords("我要退款吗") == {"退款"}
    assert keywords("what is the") == set()
