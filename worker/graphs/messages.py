"""Message fields: what clients may send for them, and what their graphs get.

LangGraph's own schema of `MessagesState` wants LangChain's serialized messages and refuses `{"role": "user", "content": "hi"}`, which
its reducer takes. The published schema says what `convert_to_messages` accepts: role/content objects, pairs, plain strings.
"""

from __future__ import annotations

from typing import Any

from langchain_core.messages import convert_to_messages

_ROLES = ["user", "human", "assistant", "ai", "system", "developer", "tool", "function", "remove"]
_CONTENT = {
    "anyOf": [
        {"type": "string"},
        {"type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "object"}]}},
        {"type": "null"},
    ]
}
_OPTIONAL = {
    "id": {"type": ["string", "null"]},
    "name": {"type": ["string", "null"]},
    "tool_calls": {"type": ["array", "null"], "items": {"type": "object"}},
    "tool_call_id": {"type": ["string", "null"]},
}
_TOOL_NEEDS_ID = {
    "if": {"anyOf": [{"properties": {name: {"const": "tool"}}, "required": [name]} for name in ("role", "type")]},
    "then": {"required": ["tool_call_id"], "properties": {"tool_call_id": {"type": "string"}}},
}
MESSAGE_SCHEMA: dict[str, Any] = {
    "title": "Message",
    "description": "A role/content object, a [role, content] pair, or a plain string (from the user).",
    "anyOf": [
        {"type": "string"},
        {
            "type": "array",
            "prefixItems": [{"enum": [role for role in _ROLES if role not in ("tool", "function", "remove")]}, _CONTENT],
            "items": False,
            "minItems": 2,
        },
        {
            "type": "object",
            "properties": {"role": {"enum": _ROLES}, "content": _CONTENT, **_OPTIONAL},
            "required": ["role", "content"],
            **_TOOL_NEEDS_ID,
        },
        {
            "type": "object",
            "properties": {"type": {"enum": _ROLES}, "content": _CONTENT, **_OPTIONAL},
            "required": ["type", "content"],
            **_TOOL_NEEDS_ID,
        },
    ],
    "examples": [{"role": "user", "content": "My router blinks red. What now?"}],
}
_MESSAGE_DEFS = ("AIMessage", "HumanMessage", "BaseMessage")


def publish_message_fields(schema: dict[str, Any]) -> tuple[dict[str, Any], frozenset[str]]:
    """A JSON schema with its message unions replaced, and the names of the top-level fields that hold messages."""
    names = frozenset(
        name for name, field in schema.get("properties", {}).items() if _is_list_of_messages(field) or _is_message(field)
    )
    replaced = _replace(schema)
    if not _mentions(replaced, "Message"):
        return schema, names
    definitions = replaced.pop("$defs", {})
    definitions["Message"] = MESSAGE_SCHEMA
    return _with_used_definitions(replaced, definitions), names


def coerce_messages(values: Any, fields: frozenset[str]) -> Any:
    """An input with its message fields as LangChain messages. Raises ValueError for what is none."""
    if not fields or not isinstance(values, dict):
        return values
    return {name: _to_messages(value) if name in fields else value for name, value in values.items()}


def _to_messages(value: Any) -> Any:
    if value is None:
        return None
    return convert_to_messages(value if isinstance(value, list) else [value])


def _is_message(node: Any) -> bool:
    if not isinstance(node, dict):
        return False
    if node.get("$ref") == "#/$defs/BaseMessage":
        return True
    refs = {option.get("$ref", "") for option in node.get("anyOf", node.get("oneOf", [])) if isinstance(option, dict)}
    return {f"#/$defs/{name}" for name in _MESSAGE_DEFS[:2]} <= refs


def _is_list_of_messages(node: Any) -> bool:
    return isinstance(node, dict) and node.get("type") == "array" and _is_message(node.get("items"))


def _replace(node: Any) -> Any:
    if _is_list_of_messages(node):
        one, rest = {"$ref": "#/$defs/Message"}, {k: v for k, v in node.items() if k not in ("type", "items")}
        return {**rest, "anyOf": [{"type": "array", "items": one}, one]}
    if _is_message(node):
        return {"$ref": "#/$defs/Message"}
    if isinstance(node, dict):
        return {name: _replace(value) for name, value in node.items()}
    if isinstance(node, list):
        return [_replace(value) for value in node]
    return node


def _mentions(node: Any, definition: str) -> bool:
    if isinstance(node, dict):
        return node.get("$ref") == f"#/$defs/{definition}" or any(_mentions(value, definition) for value in node.values())
    return isinstance(node, list) and any(_mentions(value, definition) for value in node)


def _with_used_definitions(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """The schema with those definitions that it still reaches."""
    used: dict[str, Any] = {}
    frontier: list[Any] = [schema]
    while frontier:
        node = frontier.pop()
        for name, definition in definitions.items():
            if name not in used and _mentions(node, name):
                used[name] = definition
                frontier.append(definition)
    return {**schema, "$defs": used}
