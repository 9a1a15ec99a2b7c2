"""OpenAI-style tool definitions, as people and libraries write them, in the plain form of a tool.

Local references (``$ref: "#/$defs/…"``, as pydantic writes enums and nested models) are put in place, and
``anyOf: [X, null]`` becomes X that may be null; the rest is for `router.schema_read` to accept or refuse.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from router.explain import KeyPath, Where
from router.schema_read import MAX_SCHEMA_DEPTH

_BESIDE: Final = frozenset(("type", "strict", "return", "returns"))
"""Keys of a function that do not concern the call."""


def function_of(tool: Any, index: int, where: Where) -> tuple[Any, KeyPath]:
    """The function's plain form, and the path to it for messages."""
    data: Any = tool
    path: KeyPath = (index,)
    if isinstance(tool, dict) and tool.get("type", "function") != "function":
        raise where.error((index, "type"), f"{tool['type']!r} is not a function; only functions can be called here")
    if isinstance(tool, dict) and "function" in tool:
        data, path = tool["function"], (index, "function")
    if not isinstance(data, dict):
        return data, path
    data = {key: value for key, value in data.items() if key not in _BESIDE}
    parameters = data.get("parameters")
    if isinstance(parameters, dict):
        defined = {f"#/{key}/": parameters[key] for key in ("$defs", "definitions") if key in parameters}
        plain = {key: value for key, value in parameters.items() if f"#/{key}/" not in defined}
        data["parameters"] = _simple(plain, defined, (*path, "parameters"), where)
    return data, path


def _simple(schema: Any, defined: Mapping[str, Any], path: KeyPath, where: Where) -> Any:
    if len(path) > 4 * MAX_SCHEMA_DEPTH:
        raise where.error(path[:12], "schemas refer to each other or are nested too deep; write them out")
    if not isinstance(schema, dict):
        return schema
    out = dict(schema)
    if "$ref" in out:
        target = _find(out.pop("$ref"), defined, path, where)
        return _simple({**target, **out}, defined, (*path, "$ref"), where)
    for choice in ("anyOf", "oneOf"):
        kinds = out.get(choice)
        if isinstance(kinds, list) and len(kinds) == 2 and {"type": "null"} in kinds:
            del out[choice]
            kind = _simple(next(k for k in kinds if k != {"type": "null"}), defined, (*path, choice), where)
            if not isinstance(kind, dict) or not isinstance(kind.get("type"), str):
                raise where.error((*path, choice), "must be a choice of one schema with a type and null")
            return {**kind, **out, "type": [kind["type"], "null"]}
    if isinstance(out.get("properties"), dict):
        inner = out["properties"].items()
        out["properties"] = {k: _simple(v, defined, (*path, "properties", k), where) for k, v in inner}
    if "items" in out:
        out["items"] = _simple(out["items"], defined, (*path, "items"), where)
    return out


def _find(reference: Any, defined: Mapping[str, Any], path: KeyPath, where: Where) -> dict[str, Any]:
    if isinstance(reference, str):
        for prefix, schemas in defined.items():
            found = schemas.get(reference.removeprefix(prefix)) if isinstance(schemas, dict) else None
            if reference.startswith(prefix) and isinstance(found, dict):
                return found
    raise where.error(
        (*path, "$ref"), f"{reference!r} leads nowhere; only #/$defs/NAME of the same parameters is known"
    )
