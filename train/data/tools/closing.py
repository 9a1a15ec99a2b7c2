"""From a schema that was read (`reading`) to one that a toolset can carry, every loss told.

What comes out is accepted by `router.toolset_load.from_openai` and can be decoded; there is a test that draws schemas.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from router.explain import ToolsetError, Where
from router.formats import FORMATS
from router.productions import productions
from router.schema_read import MAX_SCHEMA_DEPTH, SchemaReader
from router.toolset import Schema, Tool, Toolset
from router.validate import equal, value_errors
from router.wire_format import FUNCTIONGEMMA, WireError, check_number
from runtimes.errors import UserError
from train.data.tools.losses import Loss, Lost, clean_name, clean_text, distinct_name, summary
from train.data.tools.reading import NEVER, NULL

_MAX_PATH: Final = 2 * MAX_SCHEMA_DEPTH - 4
"""Steps that a schema's path may have, in `SchemaReader`'s way of counting, with some left for what stands around."""
_OF: Final[dict[str, tuple[str, ...]]] = {
    "string": ("pattern", "format", "minLength", "maxLength", "copy", "case_insensitive"),
    "integer": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
    "boolean": (),
    "array": ("minItems", "maxItems"),
    "object": (),
}
"""Type -> the keywords that say something about its values; others mean nothing there and go without a word."""
_HINTS: Final = {
    "object": ("properties", "additionalProperties", "required"),
    "array": ("items", "minItems", "maxItems"),
    "string": ("pattern", "format", "minLength", "maxLength", "copy", "case_insensitive"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
}
"""Type -> keywords by which it is recognised where it is not given."""


class UncallableError(ToolsetError):
    """A tool that no call fits."""


@dataclass(frozen=True)
class Level:
    """A place for people, and how many steps of a path lead there."""

    place: str
    steps: int = 4


def close_parameters(read: dict[str, Any], tool: str, lost: Lost) -> dict[str, Any]:
    """A tool's parameters: an object with the keys that it names. Raises `UncallableError`."""
    if not read.get("type"):
        read = {**read, "type": ["object"]}
    if "object" not in read["type"] or NEVER in read:
        raise UncallableError(f"its parameters are no object ({read.get(NEVER) or ', '.join(read['type'])})")
    if read.get("additionalProperties"):
        lost(Loss("open", tool, "only the parameters that it names can be given"))
    for key in ("default", "enum"):
        if key in read:
            lost(Loss(key, tool, f"{key!r} of all parameters together is dropped"))
    kept = {k: v for k, v in read.items() if k in ("properties", "required")}
    closed = _object(kept, Level(tool), lost, dropped_is_fatal=True)
    return {"type": "object", "properties": closed["properties"], "required": closed["required"]}


def close(read: dict[str, Any], level: Level, lost: Lost) -> dict[str, Any]:
    """One schema. The caller has looked for `NEVER`."""
    kind = _type(read, level, lost)
    out: dict[str, Any] = {"type": kind}
    if read.get("description"):
        text = summary(read["description"], level.place, lost)
        out |= {"description": text} if text else {}
    for key in _OF[kind]:
        if key in read:
            out[key] = read[key]
    if kind == "string":
        _lengths(out, "Length", level, lost)
        _spelling(out, level, lost)
    if kind in ("integer", "number"):
        _numbers(out, level, lost)
        if "format" in read:
            lost(Loss("format", level.place, f"{read['format']!r} of {kind}s is dropped"))
    if kind == "array":
        _lengths(out, "Items", level, lost)
        _items(read, out, level, lost)
    if kind == "object":
        out |= _object(read, level, lost)
    if "enum" in read:
        _enum(read["enum"], out, level, lost)
    if kind in ("string", "integer", "number") and len(out) > 1 and "enum" not in out:
        _decodable(out, level, lost)
    if "bind" in read:
        out["bind"] = read["bind"]
    if "default" in read and read["default"] is not None:
        _default(read["default"], out, level, lost)
    elif "default" in read and not read.get(NULL):
        lost(Loss("default", level.place, "null is dropped"))
    return out


def _type(read: dict[str, Any], level: Level, lost: Lost) -> str:
    kinds: list[str] = list(read.get("type", ()))
    values = read.get("enum") or []
    if not kinds and values:
        return next(k for k in _OF if not value_errors(values[0], Schema(k)) or k == "object")  # type: ignore[arg-type]
    if not kinds:
        found = next((kind for kind, words in _HINTS.items() if any(word in read for word in words)), "string")
        if found == "string":
            lost(Loss("untyped", level.place, "has no type; taken to be a string"))
        return found
    if set(kinds) == {"integer", "number"}:
        return "number"
    if values:
        fitting = [k for k in kinds if not value_errors(values[0], Schema(k))]  # type: ignore[arg-type]
        kinds = fitting or kinds
    elif len(kinds) > 1:
        lost(Loss("choice", level.place, f"of the types {', '.join(kinds)} only {kinds[0]} is kept"))
    return kinds[0]


def _spelling(out: dict[str, Any], level: Level, lost: Lost) -> None:
    form = out.get("format")
    if "format" in out and (not isinstance(form, str) or form not in FORMATS):
        lost(Loss("format", level.place, f"{out.pop('format')!r} of strings is dropped"))
    if "pattern" in out:
        try:
            SchemaReader(Where()).pattern(out["pattern"], ())
        except UserError as error:
            why = str(error).removeprefix("toolset: ")
            lost(Loss("pattern", level.place, f"dropped: {why}"))
            del out["pattern"]
    for flag in ("copy", "case_insensitive"):
        if flag in out and not isinstance(out[flag], bool):
            lost(Loss("keyword", level.place, f"{flag} {out.pop(flag)!r} is dropped"))


def _lengths(out: dict[str, Any], what: str, level: Level, lost: Lost) -> None:
    low, high = f"min{what}", f"max{what}"
    for key in (low, high):
        value = out.get(key)
        if isinstance(value, float) and value.is_integer():
            value = out[key] = int(value)
        if key in out and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
            lost(Loss("bound", level.place, f"{key} {out.pop(key)!r} is dropped"))
    if low in out and high in out and out[low] > out[high]:
        lost(Loss("bound", level.place, f"{low} {out.pop(low)} above {high} {out.pop(high)}: both are dropped"))


def _numbers(out: dict[str, Any], level: Level, lost: Lost) -> None:
    keys = ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum")
    for key in keys:
        value = out.get(key)
        finite = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")
        if key in out and not finite:
            lost(Loss("bound", level.place, f"{key} {out.pop(key)!r} is dropped"))
    for low in keys[:2]:
        for high in keys[2:]:
            if low in out and high in out:
                touching = out[low] == out[high] and (low, high) != ("minimum", "maximum")
                if out[low] > out[high] or touching:
                    message = f"{low} {out.pop(low)!r} and {high} {out.pop(high)!r} leave nothing: both are dropped"
                    lost(Loss("bound", level.place, message))


def _items(read: dict[str, Any], out: dict[str, Any], level: Level, lost: Lost) -> None:
    items = read.get("items")
    if items is None or not items:
        return
    if level.steps + 1 > _MAX_PATH:
        lost(Loss("depth", level.place, "nested too deep: any items are allowed"))
        return
    if NEVER in items:
        lost(Loss("never", level.place, f"no items: {items[NEVER]}; the list stays empty"))
        out["maxItems"] = 0
        if out.pop("minItems", 0):
            lost(Loss("bound", level.place, "minItems is dropped"))
        return
    inner = Level(f"{level.place}[]", level.steps + 1)
    if items.get(NULL):
        lost(Loss("null", inner.place, "null among the items cannot be given"))
    out["items"] = close(items, inner, lost)
    if out["items"].pop("default", None) is not None:
        lost(Loss("default", inner.place, "items have no defaults"))


def _object(read: dict[str, Any], level: Level, lost: Lost, *, dropped_is_fatal: bool = False) -> dict[str, Any]:
    properties: dict[str, Any] = read.get("properties", {})
    if properties and level.steps + 2 > _MAX_PATH:
        lost(Loss("depth", level.place, "nested too deep: any keys are allowed"))
        return {"additionalProperties": True}
    wanted = read.get("required", [])
    closed: dict[str, Any] = {}
    required: list[str] = []
    taken: set[str] = set()
    for key, schema in properties.items():
        place = f"{level.place}.{key}"
        if NEVER in schema:
            if key in wanted and dropped_is_fatal and "read-only" not in schema[NEVER]:
                raise UncallableError(f"{place} is required, but {schema[NEVER]}")
            lost(Loss("never", place, f"left out: {schema[NEVER]}"))
            continue
        name = distinct_name(clean_name(key, place, lost), taken, place, lost)
        closed[name] = close(schema, Level(place, level.steps + 2), lost)
        if key in wanted and "default" in closed[name]:
            lost(Loss("default", place, "required, but has a default: it may be left out"))
        elif key in wanted and schema.get(NULL):
            lost(Loss("null", place, "required, but may be null: it may be left out instead"))
        elif key in wanted:
            required.append(name)
        elif schema.get(NULL) and ("default" not in schema or schema["default"] is not None):
            lost(Loss("null", place, "may be null: it can only be left out instead"))
    for key in wanted:
        if key not in properties:
            lost(Loss("required", level.place, f"{key!r} is required, but has no schema; it is dropped"))
    further = read.get("additionalProperties", not properties)
    return {"properties": closed, "required": required} | ({"additionalProperties": True} if further else {})


def _enum(values: list[Any], out: dict[str, Any], level: Level, lost: Lost) -> None:
    kind = out["type"]
    if kind in ("boolean", "array", "object"):
        everything = kind == "boolean" and {True, False} <= {v for v in values if isinstance(v, bool)}
        if not everything:
            lost(Loss("enum", level.place, f"the values of a {kind} cannot be listed: any is allowed"))
        return
    held = {k: v for k, v in out.items() if k != "description"}
    schema = SchemaReader(Where(level.place), lenient=True).schema(held, ())
    kept: list[Any] = []
    for value in values:
        if value_errors(value, schema) or not _writable(value):
            lost(Loss("enum", level.place, f"{value!r} is left out: it is no such {kind}, or cannot be written"))
        elif not any(equal(value, other) for other in kept):
            kept.append(value)
    if not kept:
        lost(Loss("enum", level.place, "none of the values is left: any is allowed"))
        return
    for key in _OF[kind]:  # every value that is left holds to them
        if key != "case_insensitive":
            out.pop(key, None)
    out["enum"] = kept


def _decodable(out: dict[str, Any], level: Level, lost: Lost) -> None:
    """Bounds and patterns that contradict each other, or make too large an automaton, go one by one."""
    why = _undecodable(out, level)
    for key in (k for k in ("pattern", "format", *_OF["number"], "minLength", "maxLength") if k in out):
        if why is None:
            return
        lost(Loss(key if key in ("pattern", "format") else "bound", level.place, f"{key} {out.pop(key)!r}: {why}"))
        why = _undecodable(out, level)


def _undecodable(out: dict[str, Any], level: Level) -> str | None:
    """Why no grammar can hold the schema, if none can."""
    schema = SchemaReader(Where(level.place), lenient=True).schema(out, ())
    parameters = Schema("object", properties={"value": schema}, required=("value",))
    try:
        productions(Toolset("one", (Tool("one", "", parameters),)), FUNCTIONGEMMA)
    except UserError as error:
        return re.sub(r"^tool one: value: ", "", str(error))
    return None


def _default(value: Any, out: dict[str, Any], level: Level, lost: Lost) -> None:
    schema = SchemaReader(Where(level.place), lenient=True).schema(out, ())
    errors = value_errors(value, schema, "it")
    if errors or not _writable(value):
        lost(Loss("default", level.place, f"{value!r} is dropped: {errors[0] if errors else 'it cannot be written'}"))
    elif "bind" in out:
        lost(Loss("default", level.place, f"{value!r} is dropped: the parameter is filled from the context"))
    else:
        out["default"] = value


def _writable(value: Any) -> bool:
    """Whether a schema may name this value; strings within lists and objects count."""
    if isinstance(value, str):
        quiet: list[Loss] = []
        return clean_text(value, "", quiet.append) == value and "▁" not in value
    if isinstance(value, list):
        return all(map(_writable, value))
    if isinstance(value, dict):
        return all(isinstance(k, str) and _writable(k) and _writable(v) for k, v in value.items())
    try:
        return value is None or isinstance(value, bool) or bool(check_number(value))
    except (WireError, OverflowError):
        return False
