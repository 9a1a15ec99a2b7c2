"""From plain data (YAML or JSON, already read) to a `Toolset`, with an explanation for whatever is wrong.

An error names the file, the line where the reader knew it, the key's path, what is wrong and what is allowed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from router.explain import KeyPath, ToolsetError, Where
from router.schema_read import SchemaReader
from router.toolset import DEFAULT_INSTRUCTION, Schema, Tool, Toolset
from router.validate import type_name

MAX_CALLS: Final = 8

_TOOLSET_KEYS: Final = ("name", "description", "instruction", "max_calls", "show_context", "tools")
_TOOL_KEYS: Final = ("name", "description", "parameters")

__all__ = ["MAX_CALLS", "KeyPath", "ToolsetError", "Where", "build", "build_tools"]


def build(data: Any, where: Where) -> Toolset:
    """A toolset from its own form (that of `to_dict` and of the YAML files)."""
    return _toolset(SchemaReader(where), data)


def build_tools(tools: Iterable[tuple[Any, KeyPath]], where: Where, **toolset: Any) -> Toolset:
    """A toolset from single tools as (data, path), read leniently: what only documents a schema is passed over."""
    reader = SchemaReader(where, lenient=True)
    entries = list(tools)
    built = tuple(_tool(reader, data, path) for data, path in entries)
    _distinct(reader, [(tool.name, (*path, "name")) for tool, (_, path) in zip(built, entries, strict=True)])
    return _finish(reader, built, toolset)


def _toolset(reader: SchemaReader, data: Any) -> Toolset:
    keys = reader.mapping(data, (), "a toolset")
    reader.known(keys, _TOOLSET_KEYS, (), "a toolset")
    for key in ("name", "tools"):
        if key not in keys:
            reader.fail((), f"{key!r} is missing; a toolset needs a name and tools")
    tools = keys["tools"]
    if not isinstance(tools, list):
        reader.fail(("tools",), f"must be a list of tools, not {type_name(tools)}")
    built = tuple(_tool(reader, tool, ("tools", i)) for i, tool in enumerate(tools))
    _distinct(reader, [(tool.name, ("tools", i, "name")) for i, tool in enumerate(built)])
    return _finish(reader, built, {k: keys[k] for k in keys if k != "tools"})


def _finish(reader: SchemaReader, tools: tuple[Tool, ...], keys: Mapping[str, Any]) -> Toolset:
    if not tools:
        reader.fail(("tools",), "is empty; a toolset needs at least one tool")
    max_calls = keys.get("max_calls", 1)
    if not isinstance(max_calls, int) or isinstance(max_calls, bool) or not 1 <= max_calls <= MAX_CALLS:
        reader.fail(("max_calls",), f"{max_calls!r} is not a number of calls; allowed are 1 to {MAX_CALLS}")
    return Toolset(
        shown=_shown(reader, keys.get("show_context", [])),
        name=reader.name(keys["name"], ("name",)),
        tools=tools,
        description=reader.text(keys.get("description", ""), ("description",)),
        instruction=reader.text(keys.get("instruction", DEFAULT_INSTRUCTION), ("instruction",)),
        max_calls=max_calls,
    )


def _tool(reader: SchemaReader, data: Any, path: KeyPath) -> Tool:
    keys = reader.mapping(data, path, "a tool")
    reader.known(keys, _TOOL_KEYS, path, "a tool")
    if "name" not in keys:
        reader.fail(path, "'name' is missing; a tool needs one")
    name = reader.name(keys["name"], (*path, "name"))
    if "description" not in keys and not reader.lenient:
        reader.fail(path, f"'description' is missing; the model chooses {name!r} by it")
    description = reader.text(keys.get("description") or "", (*path, "description"))
    parameters = keys.get("parameters")
    if parameters is None or (reader.lenient and parameters == {}):
        return Tool(name, description, Schema("object"))
    where = (*path, "parameters")
    schema = reader.schema(parameters, where, top=True)
    if schema.type != "object":
        reader.fail((*where, "type"), f"must be 'object', not {schema.type!r}: a call's arguments have names")
    if schema.additional:
        reader.fail((*where, "additionalProperties"), "a tool takes only the parameters that it names; leave it out")
    return Tool(name, description, schema)


def _shown(reader: SchemaReader, keys: Any) -> tuple[str, ...]:
    where = ("show_context",)
    if not isinstance(keys, list):
        reader.fail(where, f"must be a list of context keys, not {type_name(keys)}")
    for i, key in enumerate(keys):
        reader.name(key, (*where, i))
        if key in keys[:i]:
            reader.fail((*where, i), f"{key!r} is listed twice")
    return tuple(keys)


def _distinct(reader: SchemaReader, names: list[tuple[str, KeyPath]]) -> None:
    seen: set[str] = set()
    for name, path in names:
        if name in seen:
            reader.fail(path, f"there is already a tool called {name!r}; names must differ")
        seen.add(name)
