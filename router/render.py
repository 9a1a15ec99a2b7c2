"""Writing the wire format: prompts, declarations, calls and responses, byte for byte as FunctionGemma's template.

The prompt is cut in two around the request, because the first part is the same for every request of a toolset and
stays in the KV cache: ``render_prefix(toolset) + user.strip() + render_suffix()``. Only where the instruction shows
context (`Toolset.placed`) does the first part depend on the request: ``render_prefix(placed(toolset, context))``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from router.toolset import Call, Schema, Tool, Toolset
from router.wire_format import (
    FUNCTIONGEMMA,
    MAX_CHARACTERS,
    MAX_DEPTH,
    WireError,
    WireFormat,
    check_key,
    check_name,
    check_number,
    check_text,
)


def render_prefix(toolset: Toolset, wire: WireFormat = FUNCTIONGEMMA) -> str:
    """The prompt up to the user's words: bos, the developer turn with every declaration, and the turn's opening."""
    w = wire
    instruction = check_text(toolset.instruction.strip(), "the toolset's instruction", w)
    declarations = "".join(render_declaration(tool, w) for tool in toolset)
    return (
        f"{w.bos}{w.start_turn}{w.developer}\n{instruction}{declarations}{w.end_turn}\n"
        f"{w.start_turn}{w.user}\n"
    )  # fmt: skip


def placed(toolset: Toolset, context: Mapping[str, Any]) -> Toolset:
    """`toolset` with the context's values in its instruction; itself where the instruction shows none.

    Raises `WireError` for a value that is missing or no single line.
    """
    if not toolset.placed:
        return toolset
    instruction = toolset.instruction
    for key in toolset.placed:
        instruction = instruction.replace(f"{{{key}}}", str(_shown(toolset, key, context)))
    return replace(toolset, instruction=instruction)


def user_turn(toolset: Toolset, user: str, context: Mapping[str, Any]) -> str:
    """What the user's turn says: a line with the context that the toolset shows there, if any, and the request.

    The line reads ``date: 2026-03-11, weekday: Wednesday``. It stands here, not before the declarations, so that the
    prompt's prefix stays the same for every request. Raises `WireError` for a value that is missing or no single line.
    """
    parts = [f"{key}: {_shown(toolset, key, context)}" for key in toolset.shown if key not in toolset.placed]
    return (", ".join(parts) + "\n" if parts else "") + user.strip()


def _shown(toolset: Toolset, key: str, context: Mapping[str, Any]) -> str | int | float:
    value = context.get(key)
    if value is None:
        raise WireError(f"context: no {key!r}, which toolset {toolset.name} shows the model; give it with the request")
    if not isinstance(value, str | int | float) or len(str(value).splitlines()) != 1:
        raise WireError(f"context: {key}: {_shorten(repr(value))} is not text or a number on one line")
    return value


def render_suffix(wire: WireFormat = FUNCTIONGEMMA) -> str:
    """What follows the user's words, up to where the model speaks."""
    return f"{wire.end_turn}\n{wire.start_turn}{wire.model}\n"


def render_prompt(toolset: Toolset, user: str, wire: WireFormat = FUNCTIONGEMMA) -> str:
    """The whole prompt as text. Raises `WireError` where the request spells a control token.

    Such a request can be encoded (`RouterTokenizer.prompt_ids` keeps it text) but not written down without becoming
    another prompt.
    """
    return render_prefix(toolset, wire) + check_text(user.strip(), "the request", wire) + render_suffix(wire)


def render_declaration(tool: Tool, wire: WireFormat = FUNCTIONGEMMA) -> str:
    """One tool as the model sees it, without its bound parameters."""
    parts = _object_parts(tool.visible, tool.required, wire)
    parts.append(f"type:{_string('OBJECT', wire)}")
    name = check_name(tool.name, "tool name")
    description = _string(tool.description, wire)
    body = f"declaration:{name}{{description:{description},parameters:{{{','.join(parts)}}}}}"
    return f"{wire.start_declaration}{body}{wire.end_declaration}"


def render_call(call: Call, wire: WireFormat = FUNCTIONGEMMA) -> str:
    """One call with its control tokens, keys in `dictsort` order."""
    name = check_name(call.name, "tool name")
    return f"{wire.start_call}call:{name}{render_value(call.arguments, wire)}{wire.end_call}"


def render_completion(calls: Iterable[Call], wire: WireFormat = FUNCTIONGEMMA) -> str:
    """The calls one after another and the stop that ends them; without calls, the end of the turn."""
    text = "".join(render_call(call, wire) for call in calls)
    if len(text) > MAX_CHARACTERS:
        raise WireError(f"the calls take {len(text)} characters; at most {MAX_CHARACTERS} can be written")
    return text + wire.start_response if text else wire.end_turn


def render_response(name: str, value: Any, wire: WireFormat = FUNCTIONGEMMA) -> str:
    """What a tool returned, as it follows the completion's stop. A value that is no object stands under ``value``."""
    body = value if isinstance(value, Mapping) else {"value": value}
    return f"response:{check_name(name, 'tool name')}{render_value(body, wire)}{wire.end_response}"


def render_responses(responses: Sequence[tuple[str, Any]], wire: WireFormat = FUNCTIONGEMMA) -> str:
    """Several responses, in the order of the calls. The completion's stop opens the first one."""
    return wire.start_response.join(render_response(name, value, wire) for name, value in responses)


def render_value(value: Any, wire: WireFormat = FUNCTIONGEMMA, depth: int = 1) -> str:
    """Any JSON value. Raises `WireError` for what cannot be written."""
    if value is None:
        return "null"
    if value is True or value is False:
        return "true" if value else "false"
    if isinstance(value, str):
        return _string(value, wire)
    if isinstance(value, int | float):
        return check_number(value)
    if depth > MAX_DEPTH:
        raise WireError(f"a value is nested more than {MAX_DEPTH} deep; it cannot be written")
    if isinstance(value, Mapping):
        keys = sorted((check_key(key, wire) for key in value), key=str.lower)
        return "{" + ",".join(f"{key}:{render_value(value[key], wire, depth + 1)}" for key in keys) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(render_value(item, wire, depth + 1) for item in value) + "]"
    raise WireError(f"a value of type {type(value).__name__} cannot be written; JSON values can")


def _string(text: str, wire: WireFormat) -> str:
    return f"{wire.escape}{check_text(text, f'the string {_shorten(text)!r}', wire)}{wire.escape}"


def _shorten(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


def _object_parts(properties: Mapping[str, Schema], required: Sequence[str], wire: WireFormat) -> list[str]:
    parts = []
    if properties:
        names = sorted((check_key(name, wire) for name in properties), key=str.lower)
        inner = ",".join(f"{name}:{_schema(properties[name], wire)}" for name in names)
        parts.append(f"properties:{{{inner}}}")
    if required:
        parts.append(f"required:[{','.join(_string(name, wire) for name in required)}]")
    return parts


def _schema(schema: Schema, wire: WireFormat) -> str:
    parts = []
    if schema.description:
        parts.append(f"description:{_string(schema.description, wire)}")
    if schema.type == "string" and schema.enum:
        parts.append(f"enum:{render_value(list(schema.enum), wire)}")
    if schema.type == "object":
        parts += _object_parts(schema.properties, schema.required, wire)
    if schema.type == "array" and schema.items is not None:
        parts.append(f"items:{_schema(schema.items, wire)}")
    parts.append(f"type:{_string(schema.type.upper(), wire)}")
    return "{" + ",".join(parts) + "}"
