"""From the tools that a source lists to a toolset."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from router.explain import ToolsetError, near
from router.toolset import Toolset
from router.toolset_load import from_openai
from router.validate import type_name
from train.data.tools.closing import UncallableError, close_parameters
from train.data.tools.documents import Documents
from train.data.tools.losses import Loss, Lost, clean_name, distinct_name, summary
from train.data.tools.reading import Reader, Spot


@dataclass(frozen=True)
class Wish:
    """What the user wants of a source. Patterns are those of file names (``pets_*``)."""

    only: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    name: str | None = None
    max_calls: int = 1


@dataclass(frozen=True)
class Listed:
    """A tool as its source lists it."""

    name: str
    description: object
    read: Callable[[Reader, str], dict[str, Any]]
    """Reads the schema of its parameters; the text is the place for messages. Called for tools that are wished for."""
    place: str
    """Where the source lists it, for messages: ``POST /pets``, ``[3]``."""


def assemble(
    tools: Iterable[Listed], documents: Documents, *, name: str, wish: Wish, lost: Lost, request: bool = False
) -> Toolset:
    """The toolset of the tools that are wished for. Raises `ToolsetError` where none is left, and for recursion."""
    taken: set[str] = set()
    named = []
    for tool in tools:
        own: list[Loss] = []
        clean = distinct_name(clean_name(tool.name, tool.place, own.append), taken, tool.place, own.append)
        named.append((clean, tool, own))
    wanted = chosen([clean for clean, _, _ in named], wish, documents.root)
    entries = []
    for clean, tool, own in named:
        if clean not in wanted:
            continue
        for loss in own:
            lost(Loss(loss.kind, clean, loss.message))
        description = summary(tool.description, clean, lost) if tool.description is not None else ""
        if not description:
            lost(Loss("description", clean, "has no description, and the model chooses by it; write one"))
        reader = Reader(documents, lost, request=request)
        try:
            parameters = close_parameters(tool.read(reader, clean), clean, lost)
        except UncallableError as error:
            lost(Loss("tool", clean, f"left out: {error}"))
            continue
        entries.append({"name": clean, "description": description, "parameters": parameters})
    if not entries:
        raise ToolsetError(f"{documents.root}: no tool is left; a toolset needs at least one")
    called = wish.name or toolset_name(name)
    return from_openai(entries, name=called, max_calls=wish.max_calls, source=documents.root)


def chosen(names: Sequence[str], wish: Wish, source: str) -> set[str]:
    """The names that are wished for. Raises `ToolsetError` for a wish that no name fulfils."""
    for pattern in (*wish.only, *wish.without):
        if not any(fnmatchcase(name, pattern) for name in names):
            shown = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
            raise ToolsetError(f"{source}: no tool is called {pattern!r}; there are {shown}{near(pattern, names)}")
    out = set()
    for name in names:
        within = not wish.only or any(fnmatchcase(name, pattern) for pattern in wish.only)
        if within and not any(fnmatchcase(name, pattern) for pattern in wish.without):
            out.add(name)
    return out


def toolset_name(text: str) -> str:
    """A name for a toolset out of a title or a file's name."""
    plain = re.sub(r"[^A-Za-z0-9]+", "_", text).strip("_").lower()
    return plain if plain and not plain[0].isdecimal() else f"tools_{plain}".rstrip("_")


def tools_of_list(data: Sequence[Any], documents: Documents, lost: Lost) -> list[Listed]:
    """A list of tools in the form of OpenAI (both APIs), Anthropic or MCP (a saved answer to ``tools/list``)."""
    tools = []
    for number, entry in enumerate(data):
        place = f"[{number}]"
        if isinstance(entry, dict) and entry.get("type", "function") not in ("function", "custom"):
            lost(Loss("tool", place, f"left out: a {entry['type']!r} is not a function"))
            continue
        function = entry.get("function", entry) if isinstance(entry, dict) else entry
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            what = "has no name" if isinstance(function, dict) else f"is {type_name(function)}"
            raise ToolsetError(f"{documents.root}: {place}: {what}; a tool is an object with a name, and parameters")
        keys = [key for key in ("parameters", "input_schema", "inputSchema") if function.get(key) is not None]
        schema = function[keys[0]] if keys else {}
        # References in a schema (#/$defs/...) begin at the schema, not at the list.
        base = f"{documents.root}{place}"
        documents.add(base, schema)
        tools.append(Listed(function["name"], function.get("description"), _whole(schema, base), place))
    return tools


def _whole(schema: Any, base: str) -> Callable[[Reader, str], dict[str, Any]]:
    return lambda reader, place: reader.read(schema, Spot(base, place, place))


def from_list(data: Sequence[Any], source: str, *, wish: Wish, lost: Lost, name: str | None = None) -> Toolset:
    """The toolset of a list of tools, each with a schema of its own."""
    documents = Documents(source, list(data))
    tools = tools_of_list(data, documents, lost)
    return assemble(tools, documents, name=name or Path(source).stem, wish=wish, lost=lost)
