"""What a toolset is: tools with JSON-Schema parameters, as immutable data.

Loading and validating (YAML, OpenAI JSON, Python functions) is `router.toolset_load`; how a toolset is declared to
the model is `router.wire`; what may be decoded from it is `router.grammar`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, Literal

SchemaType = Literal["string", "integer", "number", "boolean", "array", "object"]
Copying = Literal["span", "words", "snake_case", "date", "time", "datetime"]
MOMENTS: Final = ("date", "time", "datetime")
"""Ways to copy that are worked out from the request's words (`router.dates`)."""

DEFAULT_INSTRUCTION: Final = "You are a model that can do function calling with the following functions"
"""The developer turn's sentence that FunctionGemma was trained with."""


class _Missing:
    """No default given; `None` is a default that can be meant."""

    def __repr__(self) -> str:
        return "MISSING"

    def __reduce__(self) -> str:
        return "MISSING"  # there is one, also on the other side of a pickle


MISSING: Final = _Missing()


@dataclass(frozen=True)
class Schema:
    """One node of a parameter schema: the subset of JSON Schema that a router can declare and decode.

    `copy`, `also`, `bind` and `case_insensitive` are edgecall's own: a string that must be copied from the request, and
    what may stand besides; a value that the router fills from the request's context and the model never sees; a string
    compared without case.
    """

    type: SchemaType
    description: str | None = None
    enum: tuple[Any, ...] | None = None
    pattern: str | None = None
    format: str | None = None
    min_length: int | None = None
    max_length: int | None = None
    minimum: float | int | None = None
    maximum: float | int | None = None
    exclusive_minimum: float | int | None = None
    exclusive_maximum: float | int | None = None
    items: Schema | None = None
    min_items: int | None = None
    max_items: int | None = None
    properties: Mapping[str, Schema] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    additional: bool = False
    """Objects only: further keys with values of any kind may be given (a free-form object)."""
    max_properties: int | None = None
    """Objects only: how many keys there may be, declared and further ones."""
    default: Any = MISSING
    copy: Copying | None = None
    """Strings: ``span`` (``copy: true``) for a span of the request as it stands; ``words`` for words of the request in
    their order, of which some between may be left out; ``snake_case`` for a name, which is a span without white space
    as it stands, a capitalised word in lower case, or several words in lower case with underscores between them;
    ``date`` (YYYY-MM-DD), ``time`` (HH:MM:SS) and ``datetime`` (YYYY-MM-DDTHH:MM:SS) for what the request's words may
    mean by the calendar, counted from the ``date`` of its context. A request without such words, or days without that
    date, leave the string to the rest of its schema. Free-form objects: ``span`` for strings within that are copied, as
    spans or as names of several words in snake case."""
    also: tuple[str, ...] = ()
    """Copied strings only: values that may stand although the request does not have them."""
    bind: str | None = None
    """Name of the context key whose value is filled in, e.g. ``project_path``."""
    case_insensitive: bool = False


@dataclass(frozen=True)
class Tool:
    """A function that the model may call. `parameters` is an object schema, bound parameters included."""

    name: str
    description: str
    parameters: Schema

    @cached_property
    def visible(self) -> dict[str, Schema]:
        """The parameters that the model sees, in declaration order (bound ones left out)."""
        return {k: s for k, s in self.parameters.properties.items() if s.bind is None}

    @cached_property
    def bound(self) -> dict[str, str]:
        """Parameter name -> context key, for those filled in by the router."""
        return {k: s.bind for k, s in self.parameters.properties.items() if s.bind is not None}

    @cached_property
    def required(self) -> tuple[str, ...]:
        """Required parameters that the model must give, in declared order."""
        return tuple(k for k in self.parameters.required if self.parameters.properties[k].bind is None)


@dataclass(frozen=True)
class Toolset:
    """Tools that one router serves, and how many calls a request may need."""

    name: str
    tools: tuple[Tool, ...]
    description: str = ""
    """For people; not shown to the model."""
    instruction: str = DEFAULT_INSTRUCTION
    max_calls: int = 1
    shown: tuple[str, ...] = ()
    """Context keys (``show_context``) whose values the model reads: in the instruction where it has the key in braces
    (``{date}``), otherwise at the start of the user's turn, in this order."""

    def __iter__(self) -> Iterator[Tool]:
        return iter(self.tools)

    @cached_property
    def placed(self) -> tuple[str, ...]:
        """The shown keys that stand in the instruction. FunctionGemma was trained so; the prompt is then another for
        every value, and its declarations are read again (the user's turn keeps what stands before it constant)."""
        return tuple(key for key in self.shown if f"{{{key}}}" in self.instruction)

    def tool(self, name: str) -> Tool | None:
        """The tool called `name`, or None."""
        return next((t for t in self.tools if t.name == name), None)

    @cached_property
    def bound_keys(self) -> tuple[str, ...]:
        """Context keys that a request must bring, in order of first use."""
        return tuple(dict.fromkeys(k for t in self.tools for k in t.bound.values()))

    @property
    def sha256(self) -> str:
        """Names the toolset's content (its canonical JSON)."""
        text = json.dumps(to_dict(self), ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Call:
    """One tool call: what the model asked for (bound parameters only after the router filled them in)."""

    name: str
    arguments: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "arguments": self.arguments}


_KEYWORDS: Final = {
    "min_length": "minLength",
    "max_length": "maxLength",
    "exclusive_minimum": "exclusiveMinimum",
    "exclusive_maximum": "exclusiveMaximum",
    "min_items": "minItems",
    "max_items": "maxItems",
    "max_properties": "maxProperties",
}


def schema_to_dict(schema: Schema) -> dict[str, Any]:
    """The JSON-Schema form (camelCase keywords), the same that toolset files are written in."""
    out: dict[str, Any] = {"type": schema.type}
    for key in (
        "description", "pattern", "format", "min_length", "max_length", "minimum", "maximum",
        "exclusive_minimum", "exclusive_maximum", "min_items", "max_items", "max_properties", "bind",
    ):  # fmt: skip
        value = getattr(schema, key)
        if value is not None:
            out[_KEYWORDS.get(key, key)] = f"context.{value}" if key == "bind" else value
    if schema.enum is not None:
        out["enum"] = list(schema.enum)
    if schema.items is not None:
        out["items"] = schema_to_dict(schema.items)
    if schema.type == "object":
        out["properties"] = {k: schema_to_dict(s) for k, s in schema.properties.items()}
        out["required"] = list(schema.required)
        if schema.additional:
            out["additionalProperties"] = True
    if schema.default is not MISSING:
        out["default"] = schema.default
    if schema.copy:
        out["copy"] = True if schema.copy == "span" else schema.copy
    if schema.also:
        out["also"] = list(schema.also)
    if schema.case_insensitive:
        out["case_insensitive"] = True
    return out


def to_dict(toolset: Toolset) -> dict[str, Any]:
    """The toolset as plain data, the form of `toolset.json` and of ``configs/toolsets/*.yaml``."""
    return {
        "name": toolset.name,
        "description": toolset.description,
        "instruction": toolset.instruction,
        "max_calls": toolset.max_calls,
        **({"show_context": list(toolset.shown)} if toolset.shown else {}),
        "tools": [
            {"name": t.name, "description": t.description, "parameters": schema_to_dict(t.parameters)}
            for t in toolset.tools
        ],
    }
