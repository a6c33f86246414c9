"""The published schema of message fields, held against LangChain's own conversion."""

from __future__ import annotations

from typing import Annotated, Any

import jsonschema_rs
import orjson
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, AnyMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.graph.message import add_messages
from pydantic import BaseModel
from typing_extensions import TypedDict

from worker.encoding import to_json
from worker.graphs.messages import Convert, publish_message_fields

Published = tuple[dict[str, Any], Convert]
TOOL_CALL = {"name": "search", "args": {"q": "x"}, "id": "c1", "type": "tool_call"}
OPENAI_TOOL_CALL = {"id": "c1", "type": "function", "function": {"name": "search", "arguments": '{"q": "x"}'}}


def input_schema_of(state: type) -> dict[str, Any]:
    graph = StateGraph(state)
    graph.add_node("node", lambda _: {})
    graph.add_edge(START, "node")
    schema: dict[str, Any] = graph.compile().get_input_jsonschema()
    return schema


def publish(state: type) -> Published:
    return publish_message_fields(input_schema_of(state))


def accepts(published: Published, value: Any) -> bool:
    """Whether the schema accepts `value`, which then converts too, and is refused by the conversion otherwise."""
    schema, convert = published
    valid = bool(jsonschema_rs.validator_for(schema).is_valid(value))
    converts = True
    try:
        convert(value)
    except ValueError:
        converts = False
    assert valid == converts, f"{value}: the schema says {valid}, the conversion {converts}"
    return valid


MESSAGES_STATE = publish(MessagesState)

ACCEPTED = [
    "hi",
    "",
    ["user", "hi"],
    ["system", [{"type": "text", "text": "be kind"}]],
    {"role": "user", "content": "hi"},
    {"role": "user", "content": None},
    {"role": "developer", "content": "be brief"},
    {"type": "human", "content": "hi", "id": "m1", "name": "Ann"},
    {"type": "human", "content": "hi", "id": 5},
    {"role": "user", "content": ["a", {"type": "image_url", "image_url": {"url": "data:,"}}]},
    {"role": "user", "content": "hi", "type": "whatever", "extra": {"anything": 1}},
    {"role": "assistant", "content": "", "tool_calls": [TOOL_CALL]},
    {"role": "assistant", "content": "", "tool_calls": [OPENAI_TOOL_CALL]},
    {"role": "assistant", "content": None, "tool_calls": None},
    {"role": "tool", "content": "42", "tool_call_id": "c1"},
    {"type": "tool", "content": {"answer": 42}, "tool_call_id": "c1", "status": "error"},
    {"role": "function", "content": "42", "name": "search"},
    {"type": "remove", "content": "", "id": "m1"},
    {
        "lc": 1,
        "type": "constructor",
        "id": ["langchain_core", "messages", "HumanMessage"],
        "kwargs": {"content": "hi", "id": "m1"},
    },
]
REFUSED = [
    5,
    None,
    True,
    {},
    [],
    ["user"],
    ["user", "hi", "there"],
    ["boss", "hi"],
    ["user", None],
    ["user", 5],
    ["tool", "42"],
    {"role": "user"},
    {"content": "hi"},
    {"content": "hi", "id": "m1", "name": "search", "tool_call_id": "c1"},
    {"role": "boss", "content": "hi"},
    {"role": "boss", "type": "human", "content": "hi"},
    {"role": None, "content": "hi"},
    {"role": "user", "content": 5},
    {"role": "user", "content": {"text": "hi"}},
    {"role": "user", "content": [5]},
    {"role": "user", "content": "hi", "name": 5},
    {"role": "user", "content": "hi", "id": ["m1"]},
    {"role": "assistant", "content": "", "tool_calls": ["search"]},
    {"role": "assistant", "content": "", "tool_calls": [{"name": "search"}]},
    {"role": "assistant", "content": "", "tool_calls": [{**TOOL_CALL, "args": "x"}]},
    {"role": "assistant", "content": "", "tool_calls": [{**OPENAI_TOOL_CALL, "function": {"name": "search"}}]},
    {"role": "tool", "content": "42"},
    {"type": "tool", "content": "42", "tool_call_id": None},
    {"role": "function", "content": "42"},
    {"role": "remove", "content": ""},
    {"type": "constructor", "lc": 1, "id": ["x", "Nothing"], "kwargs": {"content": "hi"}},
    {"type": "constructor", "lc": 1, "id": ["x", "AIMessage"], "kwargs": {}},
]


@pytest.mark.parametrize("message", ACCEPTED, ids=str)
def test_what_convert_to_messages_takes_is_accepted(message: Any) -> None:
    assert accepts(MESSAGES_STATE, {"messages": [message]})


@pytest.mark.parametrize("message", REFUSED, ids=str)
def test_what_convert_to_messages_refuses_is_refused(message: Any) -> None:
    assert not accepts(MESSAGES_STATE, {"messages": [message]})


roles = st.sampled_from(["user", "human", "ai", "assistant", "system", "developer", "tool", "function", "remove"])
odd = st.sampled_from(["boss", "", None, 5])
# An empty object, 0 and false pass convert_to_messages for an empty text: the schema refuses them on purpose.
contents = st.sampled_from(["hi", "", [], ["a"], [{"type": "text", "text": "x"}], [1], [None], {"a": 1}, 5, 1.5, None])
optional = {
    "role": roles | odd,
    "type": roles | odd,
    "content": contents,
    "id": st.sampled_from(["m1", 5, 1.5, None, ["m1"], {}]),
    "name": st.sampled_from(["Ann", None, 5, []]),
    "tool_call_id": st.sampled_from(["c1", 5, 1.5, None, []]),
    "tool_calls": st.sampled_from(
        [
            None,
            [],
            [TOOL_CALL],
            [OPENAI_TOOL_CALL],
            [TOOL_CALL, OPENAI_TOOL_CALL],
            [{}],
            [5],
            [{**TOOL_CALL, "index": 0}],
        ]
    ),
    "status": st.sampled_from(["success", "error", None]),
    "additional_kwargs": st.sampled_from([{}, {"a": 1}]),
    "response_metadata": st.sampled_from([{}, {"model_name": "m"}, None]),
    "usage_metadata": st.sampled_from([None, {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}]),
    "x": st.sampled_from([None, 5, "y"]),
}
objects = st.fixed_dictionaries({}, optional=optional)
likely = st.builds(lambda rest, role, content: {**rest, "role": role, "content": content}, objects, roles, contents)
pairs = st.lists(roles | odd | contents, max_size=3) | st.tuples(roles, contents).map(list)


@given(objects | likely | pairs | st.text() | st.none() | st.integers())
@settings(max_examples=300, deadline=None)
def test_schema_and_conversion_agree(message: Any) -> None:
    if isinstance(message, dict) and message.get("tool_calls"):
        assume(message.get("role", message.get("type")) in ("ai", "assistant"))  # others' are kept unread
    accepts(MESSAGES_STATE, {"messages": [message]})


@pytest.mark.parametrize("value", ["hi", {"role": "user", "content": "hi"}, ["hi"], [["user", "hi"]]])
def test_a_single_message_stands_for_a_list_of_one(value: Any) -> None:
    assert accepts(MESSAGES_STATE, {"messages": value})
    assert MESSAGES_STATE[1]({"messages": value}) == {"messages": [HumanMessage("hi")]}


def test_a_list_of_two_strings_is_two_messages_and_never_a_pair() -> None:
    assert accepts(MESSAGES_STATE, {"messages": ["user", "hi"]})
    assert MESSAGES_STATE[1]({"messages": ["user", "hi"]}) == {"messages": [HumanMessage("user"), HumanMessage("hi")]}
    assert not accepts(MESSAGES_STATE, {"messages": ["user", [{"type": "text", "text": "hi"}]]})


MESSAGES = [
    AIMessage("", tool_calls=[{"name": "search", "args": {"q": None}, "id": None}], id="m1"),
    AIMessage(
        [{"type": "text", "text": "x"}],
        response_metadata={"model_name": "m"},
        usage_metadata={"input_tokens": 1, "output_tokens": 2, "total_tokens": 3},
    ),
    AIMessage(
        "", invalid_tool_calls=[{"name": "f", "args": "{", "id": "1", "error": None, "type": "invalid_tool_call"}]
    ),
    HumanMessage("hi", name="Ann"),
    SystemMessage("be kind"),
    ToolMessage("42", tool_call_id="c1", artifact={"rows": [1]}, status="error"),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.type)
def test_messages_of_an_output_are_accepted_as_input_again(message: BaseMessage) -> None:
    sent = {"messages": orjson.loads(to_json([message]))}
    assert accepts(MESSAGES_STATE, sent)
    (again,) = MESSAGES_STATE[1](sent)["messages"]
    assert type(again) is type(message)
    assert (again.content, again.id, again.name) == (message.content, message.id, message.name)
    assert getattr(again, "tool_calls", None) == getattr(message, "tool_calls", None)


def test_the_published_schema_is_compact_and_has_no_unused_definitions() -> None:
    schema, _ = MESSAGES_STATE
    assert len(orjson.dumps(schema)) < 4096 < len(orjson.dumps(input_schema_of(MessagesState)))
    assert set(schema["$defs"]) == {"MessageLike"}


class Item(BaseModel):
    sku: str
    count: int = 1


class Shop(MessagesState):
    item: Item
    tags: list[str]


def test_other_fields_and_their_definitions_are_untouched() -> None:
    before, (schema, convert) = input_schema_of(Shop), publish(Shop)
    for name in ("item", "tags"):
        assert schema["properties"][name] == before["properties"][name]
    assert schema["required"] == before["required"]
    assert schema["$defs"]["Item"] == before["$defs"]["Item"]
    value = {"messages": "hi", "item": {"sku": "a"}, "tags": ["user", "hi"]}
    assert convert(value) == {**value, "messages": [HumanMessage("hi")]}


def test_a_schema_without_messages_is_published_as_it_is() -> None:
    class Plain(TypedDict):
        text: str

    schema, convert = publish(Plain)
    assert schema == input_schema_of(Plain)
    value = {"text": "user"}
    assert convert(value) is value
    assert convert(None) is None


class Message(BaseModel):
    """An author's own class of that name."""

    subject: str


class Mail(MessagesState):
    mail: Message


def test_an_authors_own_message_type_keeps_its_meaning() -> None:
    assert accepts(publish(Mail), {"messages": [], "mail": {"subject": "x"}})
    assert not jsonschema_rs.validator_for(publish(Mail)[0]).is_valid({"messages": [], "mail": "hi"})


class Chat(BaseModel):
    history: list[AnyMessage]
    title: str = ""


class Nested(TypedDict, total=False):
    chat: Chat
    chats: list[Chat]
    by_name: dict[str, Chat]
    base: Annotated[list[BaseMessage], add_messages]
    maybe: list[AnyMessage] | None
    last: AnyMessage


ONE = {"role": "user", "content": "hi"}


@pytest.mark.parametrize(
    ("value", "converted"),
    [
        ({"base": [ONE]}, {"base": [HumanMessage("hi")]}),
        ({"maybe": [ONE]}, {"maybe": [HumanMessage("hi")]}),
        ({"maybe": None}, {"maybe": None}),
        ({"last": ONE}, {"last": HumanMessage("hi")}),
        ({"last": ["user", "hi"]}, {"last": HumanMessage("hi")}),
        ({"chat": {"history": [ONE], "title": "t"}}, {"chat": {"history": [HumanMessage("hi")], "title": "t"}}),
        ({"chats": [{"history": "hi"}]}, {"chats": [{"history": [HumanMessage("hi")]}]}),
        ({"by_name": {"a": {"history": [ONE]}}}, {"by_name": {"a": {"history": [HumanMessage("hi")]}}}),
    ],
    ids=str,
)
def test_messages_are_found_wherever_the_state_has_them(value: Any, converted: Any) -> None:
    published = publish(Nested)
    assert accepts(published, value)
    assert published[1](value) == converted


@pytest.mark.parametrize(
    "value", [{"base": [5]}, {"last": {"role": "boss", "content": ""}}, {"chat": {"history": [{}]}}]
)
def test_what_is_no_message_is_refused_wherever_it_stands(value: Any) -> None:
    assert not accepts(publish(Nested), value)
