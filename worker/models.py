"""The chat models: the one place that builds them.

Four providers, all over OpenAI's chat-completions protocol, are asked in the order of `MODEL_ORDER`; one takes part
when its `<PROVIDER>_API_KEY` is set. Where a provider is down, slow or over its limit, the next one answers. With no
key at all, the offline model does.

    from worker.models import chat_model

    answer = await chat_model("fast").ainvoke("Hello")
    agent = chat_model().bind_tools([search])
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, cast

import structlog
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.exceptions import ModelAPIError, ModelConnectionError, ModelRateLimitError, ModelTimeoutError
from langchain_core.language_models import BaseChatModel

from shared.settings import Settings, load_settings
from worker.offline import OfflineChatModel

if TYPE_CHECKING:
    from langchain_openai import ChatOpenAI  # importing it costs a second: only when a provider is used
    from pydantic import SecretStr

ModelClass = Literal["fast", "strong"]

CONNECT_TIMEOUT_SECONDS = 10.0
READ_TIMEOUT_SECONDS = 120.0
RETRIES_PER_PROVIDER = 1
"""In the call, after `Retry-After` or a short backoff; then the next provider's turn, at last the job's own retry."""

FAIL_OVER_ON = (ModelConnectionError, ModelTimeoutError, ModelRateLimitError, ModelAPIError, TimeoutError)
"""Not reached, too slow, 429, 5xx. A wrong key or a refused request is raised: the next provider would only hide it."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Provider:
    """What is particular to a provider: its model of each class, and options of `ChatOpenAI` that it needs.

    Thinking is off everywhere: chat completions, as LangChain speaks them, do not carry a model's reasoning from a tool
    call to its result. DeepSeek then answers 400, and OpenAI refuses tools beside a reasoning effort.
    """

    models: dict[ModelClass, str]
    options: dict[str, Any] = field(default_factory=dict)


PROVIDERS: dict[str, Provider] = {
    "qwen": Provider(
        models={"strong": "qwen-plus", "fast": "qwen-flash"},
        options={"extra_body": {"enable_thinking": False}},
    ),
    "deepseek": Provider(
        models={"strong": "deepseek-v4-pro", "fast": "deepseek-flash"},
        options={"extra_body": {"thinking": {"type": "disabled"}}},
    ),
    "glm": Provider(
        models={"strong": "glm-5.2", "fast": "glm-4.7-flash"},
        options={"extra_body": {"thinking": {"type": "disabled"}}},
    ),
    "openai": Provider(
        models={"strong": "gpt-6-sol", "fast": "gpt-6-luna"},
        options={"reasoning_effort": "none"},
    ),
}


def chat_model(
    model_class: ModelClass = "strong", *, temperature: float | None = None, settings: Settings | None = None
) -> BaseChatModel:
    """The chat model to use now. Models are kept and shared: ask for one where it is needed, as often as it is.

    `temperature` None leaves the provider's own default; `settings` None takes those of the process. A call raises
    LangChain's `ModelError`s, whose `is_retryable` says whether a later try may succeed; where all providers fail, the
    first one's.
    """
    settings = settings or _process_settings()
    models = [
        _provider_model(name, key, getattr(settings, f"{name}_base_url"), model_class, temperature)
        for name in settings.model_order
        if (key := getattr(settings, f"{name}_api_key"))
    ]
    if not models:
        return OfflineChatModel()
    if len(models) == 1:
        return models[0]
    # It behaves as the model it is said to be: bind_tools and with_structured_output apply to all of them.
    return cast(BaseChatModel, models[0].with_fallbacks(models[1:], exceptions_to_handle=FAIL_OVER_ON))


_settings: Settings | None = None


def use_settings(settings: Settings | None) -> None:
    """Build models from `settings` from now on; None goes back to the environment, read at the next use."""
    global _settings
    _settings = settings


def _process_settings() -> Settings:
    global _settings
    if _settings is None:
        _settings = load_settings()
    return _settings


_built: dict[tuple[object, ...], ChatOpenAI] = {}  # each has its own connections, so they are kept


def _provider_model(
    name: str, api_key: SecretStr, base_url: str, model_class: ModelClass, temperature: float | None
) -> ChatOpenAI:
    key = (name, api_key, base_url, model_class, temperature)
    if key not in _built:
        _built[key] = _build(*key)
    return _built[key]


async def close_models() -> None:
    """Close the connections to all providers; a model that is asked for later is built anew."""
    models = list(_built.values())
    _built.clear()
    for model in models:
        model.root_client.close()
        await model.root_async_client.close()


def _build(
    name: str, api_key: SecretStr, base_url: str, model_class: ModelClass, temperature: float | None
) -> ChatOpenAI:
    import httpx
    from langchain_openai import ChatOpenAI

    provider = PROVIDERS[name]
    model = provider.models[model_class]
    return ChatOpenAI(
        model=model,
        api_key=api_key,
        base_url=base_url,
        temperature=temperature,
        timeout=httpx.Timeout(READ_TIMEOUT_SECONDS, connect=CONNECT_TIMEOUT_SECONDS),
        stream_chunk_timeout=READ_TIMEOUT_SECONDS,
        max_retries=RETRIES_PER_PROVIDER,
        stream_usage=True,
        use_responses_api=False,
        callbacks=[_FailureLog(name, model)],
        **provider.options,
    )


class _FailureLog(BaseCallbackHandler):
    """Says in the log which provider failed; a fail-over would hide it."""

    run_inline = True

    def __init__(self, provider: str, model: str) -> None:
        self._model = {"provider": provider, "model": model}

    def on_llm_error(self, error: BaseException, **_: Any) -> None:
        if isinstance(error, Exception):  # a cancelled job is no failure of its provider
            status = getattr(error, "status_code", None)
            _log.warning("model_call_failed", **self._model, error=type(error).__name__, status_code=status)
