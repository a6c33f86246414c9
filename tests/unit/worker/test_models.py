"""Which model is built from which settings. What goes over the wire: tests/integration/worker/test_providers.py."""

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from shared.settings import Settings
from worker import models
from worker.models import PROVIDERS, chat_model, close_models, use_settings
from worker.offline import OfflineChatModel


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in PROVIDERS:
        monkeypatch.delenv(f"{name.upper()}_API_KEY", raising=False)
        monkeypatch.delenv(f"{name.upper()}_BASE_URL", raising=False)
    monkeypatch.delenv("MODEL_ORDER", raising=False)
    use_settings(None)
    yield
    use_settings(None)


@pytest.fixture(autouse=True)
async def _closed() -> AsyncIterator[None]:
    yield
    await close_models()


def settings(**values: Any) -> Settings:
    return Settings(_env_file=None, **values)


def names(model: Any) -> list[str]:
    """The models that are asked, in order."""
    return [each.model_name for each in getattr(model, "runnables", [model])]


def test_without_any_key_the_offline_model_answers() -> None:
    assert isinstance(chat_model(settings=settings()), OfflineChatModel)
    assert isinstance(chat_model(settings=settings(qwen_api_key="")), OfflineChatModel)


@pytest.mark.parametrize("name", PROVIDERS)
@pytest.mark.parametrize("model_class", ["fast", "strong"])
def test_a_key_is_all_that_a_provider_needs(name: str, model_class: Any) -> None:
    model: Any = chat_model(model_class, settings=settings(**{f"{name}_api_key": "secret"}))
    assert names(model) == [PROVIDERS[name].models[model_class]]
    assert str(model.root_async_client.base_url).startswith("https://")
    assert "secret" not in repr(model)


def test_every_provider_of_the_settings_is_known_here() -> None:
    assert set(settings().model_order) == set(PROVIDERS)


def test_providers_are_asked_in_the_order_of_model_order_and_only_those_with_a_key() -> None:
    keys = {"openai_api_key": "a", "qwen_api_key": "b", "glm_api_key": "c"}
    assert names(chat_model(settings=settings(**keys))) == ["qwen-plus", "glm-5.2", "gpt-6-sol"]
    reordered = settings(model_order="openai,deepseek,qwen", **keys)
    assert names(chat_model(settings=reordered)) == ["gpt-6-sol", "qwen-plus"]


def test_the_settings_of_the_process_are_read_at_first_use_or_given(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)  # away from the developer's .env
    monkeypatch.setenv("GLM_API_KEY", "from-the-environment")
    assert names(chat_model()) == ["glm-5.2"]
    use_settings(settings(glm_api_key=None, deepseek_api_key="given"))
    assert names(chat_model()) == ["deepseek-v4-pro"]


def test_a_model_is_built_once_and_its_connections_shared() -> None:
    keyed = settings(qwen_api_key="a")
    assert chat_model("fast", settings=keyed) is chat_model("fast", settings=keyed)
    assert chat_model("fast", settings=keyed) is not chat_model("strong", settings=keyed)
    assert chat_model("fast", settings=keyed) is not chat_model("fast", temperature=0, settings=keyed)
    assert chat_model("fast", settings=keyed) is not chat_model("fast", settings=settings(qwen_api_key="b"))


async def test_closed_models_are_built_anew() -> None:
    keyed = settings(qwen_api_key="a")
    before: Any = chat_model(settings=keyed)
    await close_models()
    assert before.root_async_client.is_closed()
    assert before.root_client.is_closed()
    after: Any = chat_model(settings=keyed)
    assert not after.root_async_client.is_closed()


def test_time_limits_and_retries_are_set() -> None:
    model: Any = chat_model(settings=settings(qwen_api_key="a"))
    timeout = model.root_async_client.timeout
    assert (timeout.connect, timeout.read) == (models.CONNECT_TIMEOUT_SECONDS, models.READ_TIMEOUT_SECONDS)
    assert model.root_async_client.max_retries == models.RETRIES_PER_PROVIDER


@pytest.mark.parametrize("module", ["worker.models", "worker.graphs.customer_service"])
def test_importing_the_models_does_not_import_the_providers_client(module: str) -> None:
    program = f"import sys, {module}; print(*{{'openai', 'langchain_openai', 'tiktoken'}} & set(sys.modules))"
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_the_offline_answer_does_not_import_the_providers_client() -> None:
    program = (
        "import sys; from shared.settings import Settings; from worker.models import chat_model\n"
        "print(chat_model(settings=Settings(_env_file=None)).invoke('Hello').text, 'openai' in sys.modules)"
    )
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert "Hello" in done.stdout
    assert done.stdout.strip().endswith("False")
