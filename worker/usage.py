"""Tokens by model, counted as the answers of models come in."""

from __future__ import annotations

import threading
from collections import defaultdict
from typing import Any

import orjson
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, LLMResult


class UsageCounter(BaseCallbackHandler):
    """Sums the usage that models report. `ignore_*` keeps LangChain from calling it for anything but a model's end."""

    run_inline = True
    ignore_chain = True
    ignore_chat_model = True
    ignore_agent = True
    ignore_retriever = True
    ignore_retry = True
    ignore_custom_event = True

    def __init__(self) -> None:
        self.models: dict[str, dict[str, int]] = defaultdict(
            lambda: {"input_tokens": 0, "output_tokens": 0, "calls": 0}
        )
        self._lock = threading.Lock()  # sync nodes call models from the threads of a pool

    def on_llm_end(self, response: LLMResult, **_: Any) -> None:
        for generations in response.generations:
            for generation in generations:
                if isinstance(generation, ChatGeneration) and isinstance(generation.message, AIMessage):
                    self._add(generation.message)

    def fields(self) -> dict[str, bytes]:
        """The record's `usage` field, absent where no model was called: totals, and the same by model."""
        with self._lock:
            if not self.models:
                return {}
            names = ("input_tokens", "output_tokens", "calls")
            total = {name: sum(model[name] for model in self.models.values()) for name in names}
            total["total_tokens"] = total["input_tokens"] + total["output_tokens"]
            return {"usage": orjson.dumps({**total, "models": self.models})}

    def _add(self, message: AIMessage) -> None:
        name = message.response_metadata.get("model_name") or message.response_metadata.get("model") or "unknown"
        with self._lock:
            model = self.models[str(name)]
            model["calls"] += 1
            if message.usage_metadata is not None:
                model["input_tokens"] += message.usage_metadata["input_tokens"]
                model["output_tokens"] += message.usage_metadata["output_tokens"]
