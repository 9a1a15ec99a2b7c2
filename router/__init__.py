"""What a router is, on no particular runtime: toolsets, cases, wire format, grammar, decoding, the Router itself.

Every name is imported when it is first used, so that ``import router`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from router.cases import Case, CaseError, correct, load_cases, normalise, same_calls
    from router.core import Router
    from router.explain import ToolsetError
    from router.grammar import Grammar
    from router.parse import parse_completion
    from router.render import render_completion, render_prefix, render_prompt, render_response, render_suffix
    from router.result import RouteResult, RouteStats
    from router.tokenizer import RouterTokenizer
    from router.toolset import Call, Schema, Tool, Toolset
    from router.toolset_load import from_dict, from_functions, from_openai, load_json, load_toolset
    from router.validate import schema_errors
    from router.wire_format import FUNCTIONGEMMA, GEMMA4, WIRES, WireError, WireFormat

_HOME = {
    "cases": ("Case", "CaseError", "correct", "load_cases", "normalise", "same_calls"),
    "core": ("Router",),
    "result": ("RouteResult", "RouteStats"),
    "grammar": ("Grammar",),
    "parse": ("parse_completion",),
    "render": ("render_completion", "render_prefix", "render_prompt", "render_response", "render_suffix", "user_turn"),
    "tokenizer": ("RouterTokenizer",),
    "toolset": ("Call", "Schema", "Tool", "Toolset"),
    "toolset_load": ("from_dict", "from_functions", "from_openai", "load_json", "load_toolset"),
    "explain": ("ToolsetError",),
    "validate": ("schema_errors",),
    "wire_format": ("FUNCTIONGEMMA", "GEMMA4", "WIRES", "WireError", "WireFormat"),
}
_MODULES = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "FUNCTIONGEMMA",
    "GEMMA4",
    "WIRES",
    "Call",
    "Case",
    "CaseError",
    "Grammar",
    "RouteResult",
    "RouteStats",
    "Router",
    "RouterTokenizer",
    "Schema",
    "Tool",
    "Toolset",
    "ToolsetError",
    "WireError",
    "WireFormat",
    "correct",
    "from_dict",
    "from_functions",
    "from_openai",
    "load_cases",
    "load_json",
    "load_toolset",
    "normalise",
    "parse_completion",
    "render_completion",
    "render_prefix",
    "render_prompt",
    "render_response",
    "render_suffix",
    "same_calls",
    "schema_errors",
    "user_turn",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'router' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"router.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
