"""Writing a toolset as YAML for people to edit; `router.toolset_load.load_yaml` reads an equal toolset back."""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

from router.toolset import DEFAULT_INSTRUCTION, Schema, Toolset, schema_to_dict

WIDTH: Final = 120
_BREAKS: Final = re.compile("[\x85\u2028\u2029\ufeff]")
"""Ends of lines to YAML that PyYAML escapes between double quotes only."""


def dump_yaml(toolset: Toolset, *, comments: Mapping[str, Sequence[str]] | None = None) -> str:
    """The toolset as the text of a file: a parameter on one line where it fits.

    `comments` gives lines to write before a tool, by its name, and at the top, under ``""``.
    """
    said = comments or {}
    head: dict[str, Any] = {"name": toolset.name}
    if toolset.description:
        head["description"] = toolset.description
    if toolset.instruction != DEFAULT_INSTRUCTION:
        head["instruction"] = toolset.instruction
    head["max_calls"] = toolset.max_calls
    parts = [_comment(said.get("", ())) + _dump(head) + "tools:\n"]
    for tool in toolset:
        entry = {"name": tool.name, "description": tool.description, "parameters": _parameters(tool.parameters)}
        parts.append(textwrap.indent(_comment(said.get(tool.name, ())) + _dump([entry]), "  ", _written))
    return parts[0] + "\n".join(parts[1:])


def write_yaml(toolset: Toolset, path: Path, *, comments: Mapping[str, Sequence[str]] | None = None) -> None:
    """Write `dump_yaml`'s text to a file, by way of a temporary one beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(dump_yaml(toolset, comments=comments), encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


class _Line(dict[str, Any]):
    """A mapping that is written on one line."""


def _parameters(schema: Schema) -> dict[str, Any]:
    out = schema_to_dict(schema)
    out["properties"] = {name: _short(value) for name, value in out["properties"].items()}
    if not out["required"]:
        del out["required"]
    return out


def _short(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema as one line where it fits; else its properties and items each so."""
    line = _Line(_trimmed(schema))
    text = _dump(line).strip()
    if len(text) <= WIDTH - 12 and "\n" not in text:
        return line
    out = dict(line)
    if "properties" in out:
        out["properties"] = {name: _short(value) for name, value in out["properties"].items()}
    if "items" in out:
        out["items"] = _short(out["items"])
    return out


def _trimmed(schema: dict[str, Any]) -> dict[str, Any]:
    """Without the keys that say nothing. ``properties: {}`` stays: without it an object is open."""
    out = {key: value for key, value in schema.items() if not (key == "required" and not value)}
    if schema.get("additionalProperties") and not schema.get("properties"):
        out.pop("properties", None)
    if out.get("properties"):
        out["properties"] = {name: _trimmed(value) for name, value in out["properties"].items()}
    if "items" in out:
        out["items"] = _trimmed(out["items"])
    return out


def _dump(data: Any) -> str:
    import yaml

    return str(
        yaml.dump(data, Dumper=_dumper(), sort_keys=False, allow_unicode=True, width=100_000, default_flow_style=False)
    )


@cache
def _dumper() -> Any:
    import yaml

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

        def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
            super().increase_indent(flow, False)

    Dumper.add_representer(
        _Line, lambda dumper, data: dumper.represent_mapping("tag:yaml.org,2002:map", data.items(), flow_style=True)
    )
    Dumper.add_representer(
        list, lambda dumper, data: dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=_plain(data))
    )
    Dumper.add_representer(
        str,
        lambda dumper, data: dumper.represent_scalar(
            "tag:yaml.org,2002:str", data, style='"' if _BREAKS.search(data) else None
        ),
    )
    return Dumper


def _plain(values: list[Any]) -> bool:
    return not any(isinstance(value, dict | list) for value in values)


def _comment(lines: Sequence[str]) -> str:
    out = []
    for line in lines:
        # What counts as the end of a line differs; a comment may hold none of them.
        text = " ".join("".join(c if c.isprintable() else " " for c in line).split())
        out += textwrap.wrap(text, WIDTH - 4, break_long_words=False, break_on_hyphens=False) or [""]
    return "".join(f"# {line}".rstrip() + "\n" for line in out)


def _written(line: str) -> bool:
    return bool(line.strip())
