"""The offline model: a deterministic chat model that needs no key and no network.

It answers where no provider is configured, so that every graph runs, streams and calls tools on a fresh machine. It
understands nothing. Its replies are put together from the conversation alone: the role that the system prompt gives,
the question, what the tools returned, and the one sentence of the instructions that fits the question best, word for
word.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolCall,
    ToolMessage,
    UsageMetadata,
)
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool

MODEL_NAME = "offline"

Schema = Mapping[str, Any]

_CHINESE = "\u3400-\u9fff"
_RUN_OF_LETTERS = re.compile(rf"[{_CHINESE}]+|[^\W_{_CHINESE}]+")
_TOKEN = re.compile(rf"\s*(?:[{_CHINESE}]|[^\s{_CHINESE}]+)|\s+")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])|\n+")
_NUMBER = re.compile(r"-?\d{1,15}(?:\.\d{1,15})?")
_QUOTED = re.compile(r"[\"“「](.+?)[\"”」]")
_COMMONEST_WORDS = """
    a about after all an and any are as at be been but by can could did do does for from get give had has have he her
    his how i if in is it its just me my no not now of on one or our out please she should so some tell than that the
    their them then there they this to up us use want was we were what when where which who why will with would you
    your
"""
_STOP_WORDS = frozenset(_COMMONEST_WORDS.split())
_PHRASES = {
    "en": {
        "earlier": "Before that you wrote: “{text}”",
        "question": "You wrote: “{text}”",
        "result": "{tool} returned: {text}",
        "instruction": "My instructions for this: {text}",
        "nothing": "My instructions name nothing that fits; please tell me more.",
        "signature": "(Offline model: set a provider's API key for real answers.)",
    },
    "zh": {
        "earlier": "您之前写道：“{text}”",
        "question": "您写道：“{text}”",
        "result": "{tool} 返回：{text}",
        "instruction": "对此，我的说明是：{text}",
        "nothing": "我的说明里没有相符的内容，请再详细说说。",
        "signature": "（离线模型：设置任一模型服务的 API key 后可得到真正的回答。）",
    },
}
_LONGEST_QUOTE = 500


class OfflineChatModel(BaseChatModel):
    """A LangChain chat model whose output is a pure function of its input: no clock, no chance, no network.

    With tools bound it first calls each tool that shares words with the question (the forced one, where `tool_choice`
    forces one), once per question, best match first, and then answers from the results. A token of its usage is a word
    or a Chinese character.
    """

    model_name: str = MODEL_NAME

    @property
    def _llm_type(self) -> str:
        return MODEL_NAME

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | dict[str, Any] | bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Offer `tools`; `tool_choice` as in `ChatOpenAI`: `auto`, `none`, `any`, `required`, True or a name."""
        return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools], tool_choice=tool_choice, **kwargs)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        message = reply(messages, kwargs.get("tools") or [], kwargs.get("tool_choice"), stop or [])
        return ChatResult(generations=[ChatGeneration(message=message)])

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return self._generate(messages, stop, None, **kwargs)  # microseconds: not worth the default's thread

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        message = reply(messages, kwargs.get("tools") or [], kwargs.get("tool_choice"), stop or [])
        for token in _TOKEN.findall(message.text):
            yield ChatGenerationChunk(message=AIMessageChunk(content=token))
        calls = [
            tool_call_chunk(name=call["name"], args=json.dumps(call["args"]), id=call["id"], index=index)
            for index, call in enumerate(message.tool_calls)
        ]
        last = AIMessageChunk(
            content="",
            tool_call_chunks=calls,
            response_metadata=message.response_metadata,
            usage_metadata=message.usage_metadata,
            chunk_position="last",
        )
        yield ChatGenerationChunk(message=last)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        for chunk in self._stream(messages, stop, None, **kwargs):
            yield chunk


def reply(messages: Sequence[BaseMessage], tools: Sequence[Schema], tool_choice: Any, stop: Sequence[str]) -> AIMessage:
    """The next message: a tool call or a text. `tools` are in OpenAI's format; `stop` cuts the text short."""
    conversation = _Conversation.read(messages)
    call = _choose_call(conversation, tools, tool_choice)
    text = "" if call else _compose(conversation)
    for marker in stop:
        text = text.split(marker)[0]
    spent = _count_tokens(text) + (_count_tokens(json.dumps(call["args"])) if call else 0)
    read = sum(_count_tokens(message.text) for message in messages)
    return AIMessage(
        content=text,
        tool_calls=[call] if call else [],
        response_metadata={"model_name": MODEL_NAME, "finish_reason": "tool_calls" if call else "stop"},
        usage_metadata=UsageMetadata(input_tokens=read, output_tokens=spent, total_tokens=read + spent),
    )


@dataclass(frozen=True)
class _Conversation:
    """What a reply is made of."""

    instructions: str
    question: str
    earlier: str
    results: list[tuple[str, str]]
    called: list[str]
    calls_so_far: int

    @classmethod
    def read(cls, messages: Sequence[BaseMessage]) -> _Conversation:
        instructions = "\n".join(message.text for message in messages if isinstance(message, SystemMessage))
        turns = [message for message in messages if not isinstance(message, SystemMessage)]
        asked = [index for index, message in enumerate(turns) if isinstance(message, HumanMessage)]
        since = turns[asked[-1] :] if asked else turns
        made = [call for message in turns if isinstance(message, AIMessage) for call in message.tool_calls]
        names = {call["id"]: call["name"] for call in made}
        return cls(
            instructions=instructions,
            question=since[0].text if since else "",
            earlier=turns[asked[-2]].text if len(asked) > 1 else "",
            results=[
                (message.name or names.get(message.tool_call_id, "tool"), message.text)
                for message in since
                if isinstance(message, ToolMessage)
            ],
            called=[call["name"] for message in since if isinstance(message, AIMessage) for call in message.tool_calls],
            calls_so_far=len(made),
        )


def _choose_call(conversation: _Conversation, tools: Sequence[Schema], tool_choice: Any) -> ToolCall | None:
    functions = [tool["function"] for tool in tools if "function" in tool]
    functions = [function for function in functions if function["name"] not in conversation.called]
    forced = tool_choice["function"]["name"] if isinstance(tool_choice, dict) else tool_choice
    if forced == "none" or not functions:
        return None
    if isinstance(forced, str) and forced not in ("auto", "any", "required"):
        chosen = next((function for function in functions if function["name"] == forced), None)
    else:
        asked = keywords(conversation.question)
        scores = [len(asked & keywords(f"{each['name']} {each.get('description', '')}")) for each in functions]
        best = max(scores)
        must_call = forced in ("any", "required", True) and not conversation.called
        chosen = functions[scores.index(best)] if best or must_call else None
    if chosen is None:
        return None
    numbers = iter(_NUMBER.findall(conversation.question))
    arguments = _fill(chosen.get("parameters") or {"type": "object"}, conversation.question, numbers)
    return ToolCall(name=chosen["name"], args=arguments, id=f"call_{conversation.calls_so_far + 1}", type="tool_call")


def _fill(schema: Schema, question: str, numbers: Iterator[str]) -> Any:
    """A value that fits the JSON schema, taken from the question where it can be."""
    for alternatives in ("anyOf", "oneOf"):
        if alternatives in schema:
            filled = [each for each in schema[alternatives] if each.get("type") != "null"]
            return _fill(filled[0] if filled else {}, question, numbers)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        asked = keywords(question)
        return max(schema["enum"], key=lambda option: len(asked & keywords(str(option))))
    kinds = schema.get("type")
    match next((kind for kind in kinds if kind != "null"), "null") if isinstance(kinds, list) else kinds:
        case "object":
            properties = schema.get("properties", {})
            return {name: _fill(properties.get(name, {}), question, numbers) for name in schema.get("required", [])}
        case "array":
            return [_fill(schema.get("items", {}), question, numbers)]
        case "integer":
            return int(float(next(numbers, schema.get("minimum", 0))))
        case "number":
            return float(next(numbers, schema.get("minimum", 0)))
        case "boolean":
            return False
        case "null":
            return None
        case _:
            quoted = _QUOTED.search(question)
            return (quoted[1] if quoted else question)[: schema.get("maxLength")]


def _compose(conversation: _Conversation) -> str:
    chinese = _is_chinese(conversation.question)
    phrases = _PHRASES["zh" if chinese else "en"]
    sentences = [part.strip(" -*\t") for part in _SENTENCE_END.split(conversation.instructions)]
    sentences = [part for part in sentences if part]
    in_language = [part for part in sentences if _is_chinese(part) == chinese]

    parts = []
    if sentences:
        role = in_language[0] if in_language else sentences[0]
        parts.append(re.sub(r"^You are\b", "I am", role).replace("你是", "我是", 1))
    if conversation.earlier:
        parts.append(phrases["earlier"].format(text=_quote(conversation.earlier)))
    parts.append(phrases["question"].format(text=_quote(conversation.question)))
    parts += [phrases["result"].format(tool=tool, text=_quote(text)) for tool, text in conversation.results]
    asked = keywords(conversation.question)
    fitting = max(in_language[1:], key=lambda part: len(asked & keywords(part)), default="")
    if asked & keywords(fitting):
        parts.append(phrases["instruction"].format(text=fitting))
    elif not conversation.results:
        parts.append(phrases["nothing"])
    parts.append(phrases["signature"])
    return " ".join(parts)


def keywords(text: str) -> set[str]:
    """What texts are compared by: stems of all but the commonest words; pairs of neighbouring Chinese characters."""
    found: set[str] = set()
    for run in _RUN_OF_LETTERS.findall(text.lower()):
        if _is_chinese(run):
            found.update(run[index : index + 2] for index in range(max(1, len(run) - 1)))
        elif run not in _STOP_WORDS:
            found.add(_stem(run))
    return found


def _stem(word: str) -> str:
    for suffix in ("ing", "ed", "s"):
        if word.endswith(suffix) and len(word) - len(suffix) >= 3:
            word = word.removesuffix(suffix)
            break
    return word.removesuffix("e") if len(word) > 3 else word


def _is_chinese(text: str) -> bool:
    return re.search(rf"[{_CHINESE}]", text) is not None


def _quote(text: str) -> str:
    text = text.strip()
    return text if len(text) <= _LONGEST_QUOTE else text[:_LONGEST_QUOTE] + "…"


def _count_tokens(text: str) -> int:
    return sum(not token.isspace() for token in _TOKEN.findall(text))
