"""Parameters that the context fills in and the model never sees (``bind`` in a toolset)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from router.toolset import Call, Toolset
from router.validate import value_errors
from runtimes.errors import UserError

Bound = Mapping[str, Mapping[str, Any]]
"""Per tool, the values of its bound parameters."""


def bound_values(toolset: Toolset, context: Mapping[str, Any]) -> Bound:
    """What `context` gives the tools' bound parameters. Raises `UserError` for what is missing or breaks its schema."""
    for key in toolset.bound_keys:
        users = [tool.name for tool in toolset if key in tool.bound.values()]
        if key not in context:
            raise UserError(f"context: no {key!r}, which {_names(users)} {_need(users)}; give it with the request")
    filled: dict[str, dict[str, Any]] = {}
    for tool in toolset:
        if not tool.bound:
            continue
        filled[tool.name] = {name: context[key] for name, key in tool.bound.items()}
        for name, value in filled[tool.name].items():
            wrong = value_errors(value, tool.parameters.properties[name], tool.bound[name])
            if wrong:
                raise UserError(f"context: {wrong[0]} (tool {tool.name}, parameter {name})")
    return filled


def fill(call: Call, bound: Bound) -> Call:
    """`call` with its bound parameters; the context's values win over any that the model made up."""
    return Call(call.name, {**call.arguments, **bound.get(call.name, {})})


def _names(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _need(names: list[str]) -> str:
    return "needs" if len(names) == 1 else "need"
