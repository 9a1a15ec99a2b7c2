"""Whether values and calls hold to their schemas, with a reason for each that does not."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from router.formats import FORMATS, format_pattern
from router.toolset import Call, Schema, Toolset


def schema_errors(call: Call, toolset: Toolset) -> list[str]:
    """What is wrong with a call; empty when the tool exists and every argument holds.

    Bound parameters are the router's to fill in: they may be missing, and are checked where they are given.
    """
    tool = toolset.tool(call.name)
    if tool is None:
        return [f"unknown tool {call.name!r}; there are {', '.join(t.name for t in toolset)}"]
    bound = tool.bound
    errors = [f"{name}: required, but missing" for name in tool.required if name not in call.arguments]
    for name, value in call.arguments.items():
        schema = tool.parameters.properties.get(name)
        if schema is None:
            errors.append(f"{name}: unknown parameter of {tool.name}; there are {', '.join(tool.visible) or 'none'}")
        elif name not in bound or value is not None:
            errors += value_errors(value, schema, name)
    return errors


def value_errors(value: Any, schema: Schema, path: str = "value") -> list[str]:
    """What is wrong with `value` under `schema`, each with the path to where it is."""
    return list(_errors(value, schema, path))


def equal(a: Any, b: Any) -> bool:
    """Equality of JSON values: 10 is 10.0, but True is not 1; the order of keys does not matter."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, int | float) and isinstance(b, int | float):
        return a == b
    return type(a) is type(b) and bool(a == b)


def type_name(value: Any) -> str:
    """The JSON name of a value's type."""
    for kind, name in _TYPES:
        if isinstance(value, kind):
            return name
    return type(value).__name__


_TYPES: tuple[tuple[Any, str], ...] = (
    (bool, "boolean"), (int, "integer"), (float, "number"), (str, "string"), ((list, tuple), "array"),
    (Mapping, "object"), (type(None), "null"),
)  # fmt: skip


def _errors(value: Any, schema: Schema, path: str) -> Iterator[str]:
    if not _has_type(value, schema):
        article = "an" if schema.type[0] in "aeiou" else "a"
        yield f"{path}: {_show(value)} is {type_name(value)}, not {article} {schema.type}"
        return
    if schema.enum is not None and not any(equal(value, allowed) for allowed in schema.enum):
        yield f"{path}: {_show(value)} is not one of {', '.join(_show(v) for v in schema.enum)}"
    if schema.type == "string":
        yield from _string_errors(value, schema, path)
    elif schema.type in ("integer", "number"):
        yield from _number_errors(value, schema, path)
    elif schema.type == "array":
        yield from _array_errors(value, schema, path)
    elif schema.type == "object":
        yield from _object_errors(value, schema, path)


def _has_type(value: Any, schema: Schema) -> bool:
    match schema.type:
        case "string":
            return isinstance(value, str)
        case "boolean":
            return isinstance(value, bool)
        case "integer":
            whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
            return whole and not isinstance(value, bool)
        case "number":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case "array":
            return isinstance(value, list | tuple)
        case "object":
            return isinstance(value, Mapping)


def _string_errors(value: str, schema: Schema, path: str) -> Iterator[str]:
    if schema.min_length is not None and len(value) < schema.min_length:
        yield f"{path}: {_show(value)} is shorter than {schema.min_length} characters"
    if schema.max_length is not None and len(value) > schema.max_length:
        yield f"{path}: {_show(value)} is longer than {schema.max_length} characters"
    if schema.pattern is not None and not re.search(schema.pattern, value):
        yield f"{path}: {_show(value)} does not match the pattern {schema.pattern}"
    if schema.format in FORMATS and not format_pattern(schema.format).fullmatch(value):
        yield f"{path}: {_show(value)} is not in the format {schema.format}"


def _number_errors(value: float, schema: Schema, path: str) -> Iterator[str]:
    if schema.minimum is not None and value < schema.minimum:
        yield f"{path}: {value} is below the minimum {schema.minimum}"
    if schema.maximum is not None and value > schema.maximum:
        yield f"{path}: {value} is above the maximum {schema.maximum}"
    if schema.exclusive_minimum is not None and value <= schema.exclusive_minimum:
        yield f"{path}: {value} is not above {schema.exclusive_minimum}"
    if schema.exclusive_maximum is not None and value >= schema.exclusive_maximum:
        yield f"{path}: {value} is not below {schema.exclusive_maximum}"


def _array_errors(value: Any, schema: Schema, path: str) -> Iterator[str]:
    if schema.min_items is not None and len(value) < schema.min_items:
        yield f"{path}: {len(value)} items are fewer than {schema.min_items}"
    if schema.max_items is not None and len(value) > schema.max_items:
        yield f"{path}: {len(value)} items are more than {schema.max_items}"
    if schema.items is not None:
        for i, item in enumerate(value):
            yield from _errors(item, schema.items, f"{path}[{i}]")


def _object_errors(value: Mapping[str, Any], schema: Schema, path: str) -> Iterator[str]:
    for name in schema.required:
        if name not in value:
            yield f"{path}.{name}: required, but missing"
    if schema.max_properties is not None and len(value) > schema.max_properties:
        yield f"{path}: {len(value)} keys are more than {schema.max_properties}"
    for name, item in value.items():
        if name in schema.properties:
            yield from _errors(item, schema.properties[name], f"{path}.{name}")
        elif not schema.additional:
            yield f"{path}.{name}: unknown; there are {', '.join(schema.properties) or 'none'}"


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
