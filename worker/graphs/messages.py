"""Message fields: what clients may send for them, and what their graphs get.

LangGraph's own schema of `MessagesState` wants LangChain's serialized messages and refuses `{"role": "user",
"content": "hi"}`, which its reducer takes. The published schema says what `convert_to_messages` accepts: role/content
objects, pairs, plain strings. It leaves out only that an empty object, 0 and false pass there for an empty text, and
malformed tool calls for a part of messages that make none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from langchain_core.messages import convert_to_messages

Convert = Callable[[Any], Any]
_PLAIN_ROLES = ["user", "human", "assistant", "ai", "system", "developer"]
_ROLES = [*_PLAIN_ROLES, "tool", "function", "remove"]
_CLASSES = [
    f"{kind}Message{chunk}" for kind in ("Human", "AI", "System", "Tool", "Function") for chunk in ("", "Chunk")
] + ["RemoveMessage"]  # fmt: skip
_CONTENT = {"type": ["string", "array"], "items": {"type": ["string", "object"]}}
_CONTENT_OR_NULL = {**_CONTENT, "type": ["string", "array", "null"]}
_TOOL_CALL = {
    "anyOf": [
        {
            "properties": {"name": {"type": "string"}, "args": {"type": "object"}, "id": {"type": ["string", "null"]}},
            "required": ["name", "args", "id"],
            "propertyNames": {"enum": ["name", "args", "id", "type", "extras"]},
        },
        {
            "properties": {
                "id": {"type": ["string", "null"]},
                "function": {
                    "type": "object",
                    "properties": {
                        "name": {"type": "string"},
                        "arguments": {"type": ["string", "object"], "pattern": r"^\s*\{"},
                    },
                    "required": ["name", "arguments"],
                },
            },
            "required": ["id", "function"],
        },
    ],
    "type": "object",
}
_OPTIONAL = {
    "id": {"type": ["string", "number", "null"]},
    "name": {"type": ["string", "null"]},
    "tool_calls": {"type": ["array", "null"], "items": _TOOL_CALL},
    "additional_kwargs": {"type": "object"},
    "response_metadata": {"type": ["object", "null"]},
}


def _of_kind(*kinds: str) -> dict[str, Any]:
    """Matches an object of these kinds: `role` says which, and `type` where there is no role."""
    enum = {"enum": list(kinds)}
    return {
        "if": {"required": ["role"]},
        "then": {"properties": {"role": enum}},
        "else": {"properties": {"type": enum}, "required": ["type"]},
    }


MESSAGE_SCHEMA: dict[str, Any] = {
    "title": "Message",
    "description": "A role/content object, a [role, content] pair, or a plain string (from the user).",
    "anyOf": [
        {"type": "string"},
        {"type": "array", "prefixItems": [{"enum": _PLAIN_ROLES}, _CONTENT], "items": False, "minItems": 2},
        {
            "type": "object",
            "properties": _OPTIONAL,
            "required": ["content"],
            "allOf": [
                _of_kind(*_ROLES),
                {"if": _of_kind(*_PLAIN_ROLES, "function"), "then": {"properties": {"content": _CONTENT_OR_NULL}}},
                {
                    "if": _of_kind("tool"),
                    "then": {
                        "required": ["tool_call_id"],
                        "properties": {
                            "tool_call_id": {"type": ["string", "number"]},
                            "status": {"enum": ["success", "error", None]},
                        },
                    },
                },
                {
                    "if": _of_kind("function"),
                    "then": {"required": ["name"], "properties": {"name": {"type": "string"}}},
                },
                {
                    "if": _of_kind("remove"),
                    "then": {"required": ["id"], "properties": {"id": {"type": ["string", "number"]}}},
                },
            ],
        },
        {
            "description": "LangChain's own serialization.",
            "type": "object",
            "properties": {
                "lc": {"const": 1},
                "type": {"const": "constructor"},
                "id": {"type": "array", "contains": {"enum": _CLASSES}},
                "kwargs": {"type": "object", "required": ["content"]},
            },
            "required": ["lc", "type", "id", "kwargs"],
        },
    ],
    "examples": [{"role": "user", "content": "My router blinks red. What now?"}],
}
_NAME = "MessageLike"
_MESSAGE = {"$ref": f"#/$defs/{_NAME}"}
# A pair is a message only within a list: a list of two strings is two messages.
_MESSAGES = {"anyOf": [{"type": "array", "items": _MESSAGE}, {"type": ["string", "object"], **_MESSAGE}]}


def publish_message_fields(schema: dict[str, Any]) -> tuple[dict[str, Any], Convert]:
    """A JSON schema with its message unions replaced, and what turns a value that fits it into what the graph takes.

    The conversion raises ValueError for what is no message.
    """
    definitions = dict(schema.get("$defs", {}))
    convert = _conversion(schema, definitions, ())
    if convert is None:
        return schema, _as_it_is
    replaced = _replace(schema)
    definitions = {**replaced.pop("$defs", {}), _NAME: MESSAGE_SCHEMA}
    return _with_used_definitions(replaced, definitions), convert


def _as_it_is(value: Any) -> Any:
    return value


def _to_message(value: Any) -> Any:
    return None if value is None else _to_messages([value])[0]


def _to_messages(value: Any) -> Any:
    if value is None:
        return None
    try:
        return convert_to_messages(value if isinstance(value, list) else [value])
    except (AttributeError, KeyError, NotImplementedError, TypeError, ValueError) as error:
        raise ValueError(f"not a message: {error!r}") from error


def _conversion(node: Any, definitions: dict[str, Any], within: tuple[str, ...]) -> Convert | None:
    """What to do with a value of this schema; None where there is nothing to do. `within` holds the types around it."""
    if _is_list_of_messages(node):
        return _to_messages
    if _is_message(node):
        return _to_message
    if not isinstance(node, dict):
        return None
    if "$ref" in node:
        name = node["$ref"].rpartition("/")[2]
        return None if name in within else _conversion(definitions.get(name), definitions, (*within, name))
    options = [option for option in node.get("anyOf", ()) if option != {"type": "null"}]
    if len(options) == 1:
        return _conversion(options[0], definitions, within)
    fields = {name: _conversion(field, definitions, within) for name, field in node.get("properties", {}).items()}
    each_item = _conversion(node.get("items"), definitions, within)
    each_value = _conversion(node.get("additionalProperties"), definitions, within)
    if each_item is None and each_value is None and not any(fields.values()):
        return None

    def convert(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: (fields.get(name) or each_value or _as_it_is)(part) for name, part in value.items()}
        return [each_item(part) for part in value] if isinstance(value, list) and each_item else value

    return convert


def _is_message(node: Any) -> bool:
    if not isinstance(node, dict):
        return False
    if node.get("$ref") == "#/$defs/BaseMessage":
        return True
    options = node.get("anyOf", node.get("oneOf"))
    if not isinstance(options, list):
        return False
    refs = {option.get("$ref") for option in options if isinstance(option, dict)}
    return {"#/$defs/AIMessage", "#/$defs/HumanMessage"} <= refs


def _is_list_of_messages(node: Any) -> bool:
    return isinstance(node, dict) and node.get("type") == "array" and _is_message(node.get("items"))


def _replace(node: Any) -> Any:
    if _is_list_of_messages(node):
        return {**{name: value for name, value in node.items() if name not in ("type", "items")}, **_MESSAGES}
    if _is_message(node):
        return _MESSAGE
    if isinstance(node, dict):
        return {name: _replace(value) for name, value in node.items()}
    if isinstance(node, list):
        return [_replace(value) for value in node]
    return node


def _mentions(node: Any, definition: str) -> bool:
    if isinstance(node, dict):
        refers = node.get("$ref") == f"#/$defs/{definition}"
        return refers or any(_mentions(value, definition) for value in node.values())
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
