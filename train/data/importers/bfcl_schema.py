"""BFCL's function documents as toolsets, and its lists of accepted values as calls.

Documents name their types after Python, Java and JavaScript; ``constants/type_mappings.py`` of the leaderboard
(GORILLA_TO_OPENAPI) says what they are in JSON Schema. An answer gives every parameter the list of values that are
right, ``""`` among them where it may be left out; within objects the same holds for every key
(``eval_checker/ast_eval/ast_checker.py``).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from itertools import islice, product
from typing import Any, Final

from router.explain import ToolsetError
from router.toolset import MISSING, Schema, Tool, Toolset
from router.toolset_load import from_openai
from router.validate import equal, type_name, value_errors
from train.data.importers.base import RowError

LEFT_OUT: Final = object()
"""Stands for a parameter that is not given."""

TYPES: Final[dict[str, str]] = {
    **dict.fromkeys(("integer", "int", "byte", "short", "long", "bigint"), "integer"),
    **dict.fromkeys(("number", "float", "double"), "number"),
    **dict.fromkeys(("string", "str", "any", "char"), "string"),
    **dict.fromkeys(("boolean", "bool"), "boolean"),
    **dict.fromkeys(("array", "list", "tuple", "arraylist", "queue", "stack", "set"), "array"),
    **dict.fromkeys(("dict", "object", "hashmap", "hashtable"), "object"),
}
_MAX_VALUES: Final = 256
"""Values that one parameter may have, those of nested keys combined."""
_PYTHON: Final[dict[str, tuple[type, ...]]] = {
    "integer": (int,), "number": (int, float), "string": (str,), "boolean": (bool,), "array": (list,),
    "object": (dict,),
}  # fmt: skip


def toolset(functions: list[Any], max_calls: int) -> Toolset:
    """The functions of a question as a toolset named after its content.

    Raises `RowError` for what is no function document, and, without fault, for what a toolset cannot express.
    """
    tools = [_function(f) for f in functions]
    text = json.dumps([tools, max_calls], sort_keys=True)
    name = f"bfcl-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    try:
        return from_openai(tools, name=name, max_calls=max_calls, source="function")
    except ToolsetError as error:
        raise RowError("functions that a toolset cannot express", str(error), fault=False) from None


def arguments(tool: Tool, accepted: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Every set of arguments that is right, the one of all first values first."""
    properties = tool.parameters.properties
    for name in accepted:
        if name not in properties:
            raise RowError("a call breaks its schema", f"{tool.name}: unknown parameter {name!r}")
    for name in tool.parameters.required:
        if name not in accepted:
            raise RowError("a call breaks its schema", f"{tool.name}: no value for the required parameter {name!r}")
    return _combined(accepted, tool.parameters, tool.name)


def _combined(accepted: Mapping[str, Any], schema: Schema, path: str) -> Iterator[dict[str, Any]]:
    choices = {}
    for name, values in accepted.items():
        if not isinstance(values, list):
            raise RowError(
                "corrupt row", f"{path}.{name}: a list of accepted values is expected, not {type_name(values)}"
            )
        choices[name] = _choices(values, schema.properties.get(name), name in schema.required, f"{path}.{name}")
    for chosen in product(*choices.values()):
        yield {name: value for name, value in zip(choices, chosen, strict=True) if value is not LEFT_OUT}


def _choices(accepted: list[Any], schema: Schema | None, required: bool, path: str) -> list[Any]:
    """The different values of a parameter that its schema allows, `LEFT_OUT` among them where it may be left out."""
    out: list[Any] = []
    wrong = ""
    for value in accepted:
        if value == "" and isinstance(value, str) and not required:
            _add(out, LEFT_OUT, schema)
            continue
        if value is None:
            continue
        for one in islice(_values(value, schema, path), _MAX_VALUES):
            errors = value_errors(one, schema, path) if schema is not None else []
            if errors:
                wrong = wrong or errors[0]
            elif len(out) < _MAX_VALUES:
                _add(out, one, schema)
    if not out and not required and not wrong:
        return [LEFT_OUT]
    if not out:
        raise RowError("a call breaks its schema", wrong or f"{path}: no value is accepted")
    return out


def _add(out: list[Any], value: Any, schema: Schema | None) -> None:
    """Add a value unless one that compares the same is there: a default is filled in, case may not matter."""
    if not any(_same(value, other, schema) for other in out):
        out.append(value)


def _same(a: Any, b: Any, schema: Schema | None) -> bool:
    default = schema.default if schema is not None else MISSING
    a, b = (default if value is LEFT_OUT else value for value in (a, b))
    if a is MISSING or b is MISSING:
        return a is b
    if schema is not None and schema.case_insensitive and isinstance(a, str) and isinstance(b, str):
        return a.casefold() == b.casefold()
    return equal(a, b)


def _values(value: Any, schema: Schema | None, path: str) -> Iterator[Any]:
    """A value as it stands, or every value that an object of accepted lists stands for."""
    kind = schema.type if schema is not None else None
    if kind == "integer" and isinstance(value, float) and value.is_integer():
        yield int(value)
    elif isinstance(value, dict) and value and all(isinstance(v, list) for v in value.values()):
        yield from _combined(value, schema or Schema("object", additional=True), path)
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        inner = schema.items if schema is not None else None
        yield from (list(items) for items in product(*(list(islice(_values(v, inner, path), 16)) for v in value)))
    elif kind == "array" and isinstance(value, list) and schema is not None and schema.items is not None:
        yield [next(_values(item, schema.items, path)) for item in value]
    else:
        yield value


def _function(data: Any) -> dict[str, Any]:
    if not isinstance(data, dict) or not isinstance(data.get("name"), str):
        raise RowError("corrupt row", "a function with a name is expected")
    parameters = _schema(data.get("parameters") or {"type": "dict"}, data["name"])
    if parameters["type"] != "object":
        raise RowError("corrupt row", f"{data['name']}: its parameters are no object")
    parameters.pop("additionalProperties", None)
    return {"name": data["name"], "description": str(data.get("description") or ""), "parameters": parameters}


def _schema(data: Any, path: str) -> dict[str, Any]:
    """One schema in JSON Schema's types, with what a toolset can hold; formats and bounds only document."""
    if not isinstance(data, dict):
        raise RowError("corrupt row", f"{path}: a schema is expected, not {type_name(data)}")
    kind = TYPES.get(str(data.get("type")).lower())
    if kind is None:
        raise RowError("functions that a toolset cannot express", f"{path}: type {data.get('type')!r}", fault=False)
    out: dict[str, Any] = {"type": kind}
    if isinstance(data.get("description"), str):
        out["description"] = data["description"]
    enum = data.get("enum")
    if kind in ("string", "integer", "number") and isinstance(enum, list):
        values = [v for i, v in enumerate(enum) if _fits(v, kind) and not any(equal(v, w) for w in enum[:i])]
        if values:
            out["enum"] = values
    if kind == "string" and "enum" not in out:
        out["case_insensitive"] = True
    if kind == "array" and isinstance(data.get("items"), dict) and data["items"].get("type"):
        out["items"] = _schema(data["items"], f"{path}[]")
    if kind == "object":
        properties = data.get("properties")
        if isinstance(properties, dict) and properties:
            out["properties"] = {name: _schema(s, f"{path}.{name}") for name, s in properties.items()}
            names = data.get("required") if isinstance(data.get("required"), list) else []
            out["required"] = list(dict.fromkeys(n for n in names or [] if n in properties))
        else:
            out["additionalProperties"] = True
    default = data.get("default")
    if _fits(default, kind) and kind not in ("array", "object") and default in out.get("enum", [default]):
        out["default"] = default
    return out


def _fits(value: Any, kind: str) -> bool:
    return isinstance(value, _PYTHON[kind]) and (kind == "boolean" or not isinstance(value, bool))
