"""The models against a server that speaks the providers' protocol: what is sent and read, who answers in a failure."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from langchain_core.callbacks import UsageMetadataCallbackHandler
from langchain_core.exceptions import ModelAuthenticationError, ModelConnectionError, ModelError, ModelRateLimitError
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessageChunk, HumanMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from pydantic import BaseModel
from structlog.testing import capture_logs

from shared.settings import Settings
from tests.providers import Call, Drop, Fail, Hang, ModelServer, Say
from worker import models
from worker.graphs.customer_service import build
from worker.models import PROVIDERS, chat_model, close_models, use_settings


@pytest.fixture(autouse=True)
def _only_these_providers(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", *(f"{name}_api_key" for name in PROVIDERS)):
        monkeypatch.delenv(name.upper(), raising=False)
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
async def _closed() -> AsyncIterator[None]:
    yield
    use_settings(None)
    await close_models()


@pytest.fixture
def first() -> Iterator[ModelServer]:
    with ModelServer() as server:
        yield server


@pytest.fixture
def second() -> Iterator[ModelServer]:
    with ModelServer() as server:
        yield server


def settings_for(**servers: ModelServer | str) -> Settings:
    """Settings in which each named provider has the key `<name>-key` and the address of its server."""
    values = {f"{name}_api_key": f"{name}-key" for name in servers}
    urls = {f"{name}_base_url": each if isinstance(each, str) else each.url for name, each in servers.items()}
    return Settings(_env_file=None, **values, **urls)


def model_for(**servers: ModelServer | str) -> BaseChatModel:
    return chat_model(settings=settings_for(**servers))


@tool
def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"rain in {city}"


async def collect(model: Any, text: str) -> tuple[AIMessageChunk, list[str]]:
    total: AIMessageChunk | None = None
    pieces = []
    async for chunk in model.astream(text):
        pieces.append(chunk.text)
        total = chunk if total is None else total + chunk
    assert total is not None
    return total, [piece for piece in pieces if piece]


@pytest.mark.parametrize("name", PROVIDERS)
async def test_each_provider_is_asked_at_its_address_with_its_key_and_model(name: str, first: ModelServer) -> None:
    answer = await model_for(**{name: first}).ainvoke("Hello")
    assert answer.text == "You said: Hello"
    request = first.requests[0]
    assert request.path == "/v1/chat/completions"
    assert request.api_key == f"{name}-key"
    assert request.model == PROVIDERS[name].models["strong"]
    assert request.messages == [{"role": "user", "content": "Hello"}]
    assert "temperature" not in request.body


@pytest.mark.parametrize("name", PROVIDERS)
async def test_each_provider_streams_text_in_pieces_and_then_its_usage(name: str, first: ModelServer) -> None:
    first.script(Say("one two 三 four"))
    total, pieces = await collect(model_for(**{name: first}), "Count")
    assert pieces == ["one", " two", " 三", " four"]
    assert total.usage_metadata is not None
    assert (total.usage_metadata["input_tokens"], total.usage_metadata["output_tokens"]) == (1, 4)
    assert total.response_metadata["model_name"] == PROVIDERS[name].models["strong"]
    assert first.requests[0].body["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize("name", PROVIDERS)
@pytest.mark.parametrize("streamed", [False, True])
async def test_each_provider_calls_tools_and_reads_their_results(name: str, streamed: bool, first: ModelServer) -> None:
    model = model_for(**{name: first}).bind_tools([get_weather])
    first.script(Call("get_weather", {"city": "北京 and “Oslo”"}), Say("It rains."))
    question = HumanMessage("The weather?")
    call: Any = (await collect(model, "The weather?"))[0] if streamed else await model.ainvoke([question])
    assert [each["args"] for each in call.tool_calls] == [{"city": "北京 and “Oslo”"}]
    assert first.requests[0].tools == ["get_weather"]

    answer = await model.ainvoke([question, call, get_weather.invoke(call.tool_calls[0])])
    assert answer.text == "It rains."
    assert [message["role"] for message in first.requests[1].messages] == ["user", "assistant", "tool"]
    assert first.requests[1].messages[2]["content"] == "rain in 北京 and “Oslo”"


@pytest.mark.parametrize(
    ("name", "sent"),
    [
        ("qwen", {"enable_thinking": False}),
        ("deepseek", {"thinking": {"type": "disabled"}}),
        ("glm", {"thinking": {"type": "disabled"}}),
        ("openai", {"reasoning_effort": "none"}),
    ],
)
async def test_thinking_is_switched_off_in_each_providers_own_way(
    name: str, sent: dict[str, Any], first: ModelServer
) -> None:
    await model_for(**{name: first}).ainvoke("Hello")
    assert first.requests[0].body.items() >= sent.items()


async def test_temperature_and_model_class_are_passed_on(first: ModelServer) -> None:
    model = chat_model("fast", temperature=0.3, settings=settings_for(qwen=first))
    await model.ainvoke("Hello")
    assert (first.requests[0].model, first.requests[0].body["temperature"]) == ("qwen-flash", 0.3)


async def test_the_first_of_the_order_answers_and_the_others_are_not_asked(
    first: ModelServer, second: ModelServer
) -> None:
    both = settings_for(qwen=first, openai=second)
    await chat_model(settings=both).ainvoke("Hello")
    assert (len(first.requests), len(second.requests)) == (1, 0)
    await chat_model(settings=both.model_copy(update={"model_order": ["openai", "qwen"]})).ainvoke("Hello")
    assert (len(first.requests), len(second.requests)) == (1, 1)


@pytest.mark.parametrize("status", [429, 500, 502, 503, 529])
@pytest.mark.parametrize("streamed", [False, True])
async def test_a_provider_that_keeps_failing_is_left_for_the_next(
    status: int, streamed: bool, first: ModelServer, second: ModelServer
) -> None:
    first.otherwise = Fail(status, retry_after=0.01)
    model = model_for(qwen=first, deepseek=second)
    answer: Any = (await collect(model, "Hello"))[0] if streamed else await model.ainvoke("Hello")
    assert answer.text == "You said: Hello"
    assert answer.response_metadata["model_name"] == "deepseek-v4-pro"
    assert second.requests[0].api_key == "deepseek-key"
    assert len(first.requests) == 1 + models.RETRIES_PER_PROVIDER


async def test_retry_after_is_waited_for_before_the_same_provider_is_asked_again(
    first: ModelServer, second: ModelServer
) -> None:
    first.script(Fail(429, retry_after=0.4))
    answer = await model_for(qwen=first, deepseek=second).ainvoke("Hello")
    assert answer.response_metadata["model_name"] == "qwen-plus"
    assert first.requests[1].at - first.requests[0].at >= 0.4
    assert second.requests == []


async def test_a_dropped_connection_is_left_for_the_next(first: ModelServer, second: ModelServer) -> None:
    first.otherwise = Drop()
    assert (await model_for(qwen=first, glm=second).ainvoke("Hello")).text == "You said: Hello"
    assert len(second.requests) == 1


async def test_a_provider_that_nobody_listens_for_is_left_for_the_next(second: ModelServer) -> None:
    with ModelServer() as gone:
        address = gone.url
    assert (await model_for(qwen=address, glm=second).ainvoke("Hello")).text == "You said: Hello"


async def test_a_silent_provider_is_left_for_the_next_when_its_time_is_up(
    first: ModelServer, second: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "READ_TIMEOUT_SECONDS", 0.2)
    first.otherwise = Hang(30)
    async with asyncio.timeout(10):
        answer = await model_for(qwen=first, glm=second).ainvoke("Hello")
    assert answer.response_metadata["model_name"] == "glm-5.2"


async def test_bound_tools_are_offered_to_the_next_provider_too(first: ModelServer, second: ModelServer) -> None:
    first.otherwise = Fail(503, retry_after=0.01)
    second.script(Call("get_weather", {"city": "Oslo"}))
    answer = await model_for(qwen=first, openai=second).bind_tools([get_weather]).ainvoke("The weather?")
    assert answer.tool_calls[0]["args"] == {"city": "Oslo"}
    assert second.requests[0].tools == ["get_weather"]


class City(BaseModel):
    """A city."""

    name: str


async def test_structured_output_by_tool_call_fails_over_too(first: ModelServer, second: ModelServer) -> None:
    first.otherwise = Fail(503, retry_after=0.01)
    second.script(Call("City", {"name": "Oslo"}))
    model = model_for(qwen=first, glm=second).with_structured_output(City, method="function_calling")
    assert await model.ainvoke("Which city?") == City(name="Oslo")


async def test_when_all_fail_the_first_ones_error_says_that_a_later_try_may_succeed(
    first: ModelServer, second: ModelServer
) -> None:
    first.otherwise, second.otherwise = Fail(429, retry_after=0.01), Drop()
    with pytest.raises(ModelRateLimitError) as raised:
        await model_for(qwen=first, glm=second).ainvoke("Hello")
    assert raised.value.is_retryable
    assert isinstance(raised.value, ModelError)


@pytest.mark.parametrize("status", [400, 401, 403, 404])
async def test_a_refused_request_is_an_error_and_the_next_is_not_asked(
    status: int, first: ModelServer, second: ModelServer
) -> None:
    first.otherwise = Fail(status)
    with pytest.raises(ModelError) as raised:
        await model_for(qwen=first, glm=second).ainvoke("Hello")
    assert not raised.value.is_retryable
    assert (len(first.requests), len(second.requests)) == (1, 0)


async def test_a_failed_provider_is_named_in_the_log_without_key_or_content(
    first: ModelServer, second: ModelServer
) -> None:
    first.otherwise = Fail(500, retry_after=0.01, message="bad: private words")
    with capture_logs() as lines:
        await model_for(qwen=first, glm=second).ainvoke("private words")
    assert [(line["event"], line["provider"], line["status_code"]) for line in lines] == [
        ("model_call_failed", "qwen", 500)
    ]
    assert "private words" not in str(lines)
    assert "qwen-key" not in str(lines)


async def test_an_error_does_not_tell_the_key(first: ModelServer) -> None:
    first.otherwise = Fail(401, message="Incorrect API key provided.")
    with pytest.raises(ModelAuthenticationError) as raised:
        await model_for(qwen=first).ainvoke("Hello")
    assert "qwen-key" not in f"{raised.value} {raised.value!r}"


async def test_a_direct_stream_cut_in_the_middle_raises_what_a_retry_can_act_on(
    first: ModelServer, second: ModelServer
) -> None:
    first.otherwise = Drop(after_words=2)
    with pytest.raises(ModelConnectionError) as raised:
        await collect(model_for(qwen=first, glm=second), "Hello")
    assert raised.value.is_retryable


async def test_usage_is_told_by_model_whoever_answers(first: ModelServer, second: ModelServer) -> None:
    usage = UsageMetadataCallbackHandler()
    model = model_for(qwen=first, glm=second)
    await model.ainvoke("one two", {"callbacks": [usage]})
    first.otherwise = Fail(503, retry_after=0.01)
    await model.ainvoke("one two three", {"callbacks": [usage]})
    counted = {name: (used["input_tokens"], used["output_tokens"]) for name, used in usage.usage_metadata.items()}
    assert counted == {"qwen-plus": (2, 4), "glm-5.2": (3, 5)}


def test_sync_nodes_get_the_same_models(first: ModelServer, second: ModelServer) -> None:
    first.otherwise = Fail(503, retry_after=0.01)
    model = model_for(qwen=first, glm=second)
    assert model.invoke("Hello").text == "You said: Hello"
    assert "".join(chunk.text for chunk in model.stream("Hello")) == "You said: Hello"


QUESTION = {"messages": [{"role": "user", "content": "What does a plan cost?"}]}


@pytest.mark.parametrize("name", PROVIDERS)
async def test_the_team_runs_on_each_provider(name: str, first: ModelServer) -> None:
    use_settings(settings_for(**{name: first}))
    first.script(Call("transfer_to_sales", {"intent": "to know the price"}), Say("Ten a month."))
    result = await build().compile().ainvoke(QUESTION)
    assert (result["handled_by"], result["intent"]) == ("sales", "to know the price")
    assert (result["messages"][-1].text, result["messages"][-1].name) == ("Ten a month.", "sales")

    routing, answering = first.requests
    assert routing.model == PROVIDERS[name].models["fast"]
    assert routing.tools == [f"transfer_to_{each}" for each in ("sales", "support", "field_service", "manager")]
    assert "tool_choice" not in routing.body
    assert answering.model == PROVIDERS[name].models["strong"]
    assert answering.messages[0]["content"].strip().startswith("You are the sales specialist")


@pytest.mark.parametrize(
    "decision", [Say("Bananas."), Call("open_the_door", {}), Call("transfer_to_sales", "{not json"), Say("")]
)
async def test_a_coordinator_that_talks_nonsense_leaves_the_customer_with_support(
    decision: Say | Call, first: ModelServer
) -> None:
    use_settings(settings_for(qwen=first))
    first.script(decision, Say("How can I help?"))
    result = await build().compile().ainvoke(QUESTION)
    assert (result["handled_by"], result["messages"][-1].text) == ("support", "How can I help?")


async def test_a_second_turn_sends_the_first_without_names_or_tool_calls(first: ModelServer) -> None:
    use_settings(settings_for(glm=first))
    team = build().compile(checkpointer=InMemorySaver())
    thread = {"configurable": {"thread_id": "ada"}}
    first.script(Call("transfer_to_sales", {"intent": "price"}), Say("Ten a month."))
    await team.ainvoke(QUESTION, thread)
    first.script(Call("transfer_to_manager", {"intent": "anger"}), Say("Sorry."))
    result = await team.ainvoke({"messages": [{"role": "user", "content": "Too much!"}]}, thread)
    assert [message.name for message in result["messages"]] == [None, "sales", None, "manager"]
    assert first.requests[-1].messages[1:] == [
        {"role": "user", "content": "What does a plan cost?"},
        {"role": "assistant", "content": "Ten a month."},
        {"role": "user", "content": "Too much!"},
    ]


async def test_the_teams_tokens_arrive_as_the_provider_sends_them(first: ModelServer) -> None:
    use_settings(settings_for(openai=first))
    first.script(Call("transfer_to_sales", {"intent": "price"}), Say("Ten a month."))
    pieces = [
        message.text
        async for message, metadata in build().compile().astream(QUESTION, stream_mode="messages")
        if metadata["langgraph_node"] == "sales" and message.text
    ]
    assert pieces == ["Ten", " a", " month."]


async def test_an_answer_cut_in_the_middle_is_given_again_by_the_next_provider(
    first: ModelServer, second: ModelServer
) -> None:
    use_settings(settings_for(qwen=first, deepseek=second))
    first.script(Call("transfer_to_sales", {"intent": "price"}), Drop(after_words=2))
    second.script(Say("Ten a month."))
    states = [
        payload
        async for mode, payload in build().compile().astream(QUESTION, stream_mode=["messages", "values"])
        if mode == "values"
    ]
    assert states[-1]["messages"][-1].text == "Ten a month."
    assert states[-1]["messages"][-1].response_metadata["model_name"] == "deepseek-v4-pro"
