"""Reading one schema from plain data, with an explanation for whatever is wrong."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, NoReturn, cast, get_args

from router.explain import KeyPath, Where, near
from router.formats import FORMATS
from router.toolset import MISSING, Copying, Schema, SchemaType
from router.validate import equal, type_name, value_errors
from router.wire_format import NAME, WIRES, WireError, check_text

MAX_SCHEMA_DEPTH: Final = 16

_COMMON: Final = ("type", "description", "default", "bind")
_NUMBER: Final = ("enum", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_KEYWORDS: Final[dict[SchemaType, tuple[str, ...]]] = {
    "string": (*_COMMON, "enum", "pattern", "format", "minLength", "maxLength", "copy", "also", "case_insensitive"),
    "integer": (*_COMMON, *_NUMBER),
    "number": (*_COMMON, *_NUMBER),
    "boolean": _COMMON,
    "array": (*_COMMON, "items", "minItems", "maxItems"),
    "object": (*_COMMON, "properties", "required", "additionalProperties", "maxProperties", "copy"),
}
_DOCUMENTATION: Final = frozenset(
    ("title", "$schema", "$id", "$comment", "examples", "example", "deprecated", "readOnly", "strict")
)
_COMBINERS: Final = frozenset(("anyOf", "oneOf", "allOf", "not", "if", "$ref", "const", "patternProperties"))
_BIND: Final = re.compile(r"context\.([A-Za-z_][A-Za-z0-9_]*)")


class SchemaReader:
    """Where the data came from, and whether what only documents a schema is passed over (`lenient`)."""

    def __init__(self, where: Where, *, lenient: bool = False) -> None:
        self.where = where
        self.lenient = lenient

    def fail(self, path: KeyPath, message: str) -> NoReturn:
        raise self.where.error(path, message)

    def schema(self, data: Any, path: KeyPath, *, top: bool = False, parameter: bool = False) -> Schema:
        if len(path) > 2 * MAX_SCHEMA_DEPTH:
            self.fail(path, f"schemas are nested more than {MAX_SCHEMA_DEPTH} deep")
        keys = self.mapping(data, path, "a schema")
        if self.lenient:
            keys = {k: v for k, v in keys.items() if k not in _DOCUMENTATION and not (k == "default" and v is None)}
        kind = self.kind(keys, path)
        self.known(keys, _KEYWORDS[kind], path, f"{'an' if kind[0] in 'aio' else 'a'} {kind}")
        out: dict[str, Any] = {"type": kind}
        if "description" in keys:
            out["description"] = self.text(keys["description"], (*path, "description"))
        if kind == "string":
            self.string(keys, path, out)
        if kind in ("integer", "number"):
            self.number(keys, path, out)
        if kind == "array":
            self.bounds(keys, path, out, "Items")
            if "items" in keys:
                out["items"] = self.schema(keys["items"], (*path, "items"))
        if kind == "object":
            self.object(keys, path, out, top=top)
        if "enum" in keys:
            out["enum"] = self.enum(keys["enum"], (*path, "enum"), Schema(**out))
        if "bind" in keys:
            out["bind"] = self.bind(keys, path, parameter=parameter)
        if "default" in keys:
            out["default"] = self.default(keys["default"], (*path, "default"), Schema(**out), top=top)
        return Schema(**out)

    def kind(self, keys: Mapping[str, Any], path: KeyPath) -> SchemaType:
        kinds = get_args(SchemaType)
        found = keys.get("type")
        if "type" not in keys:
            combiner = next((k for k in keys if k in _COMBINERS), None)
            if combiner:
                self.fail((*path, combiner), f"{combiner!r} is not supported; write one type out, or one tool per case")
            self.fail(path, f"'type' is missing; allowed are {', '.join(kinds)}")
        if self.lenient and isinstance(found, list) and "null" in found and len(found) == 2:
            found = next(k for k in found if k != "null")
        if self.lenient and isinstance(found, str):
            found = found.lower()
        if not isinstance(found, str) or found not in kinds:
            hint = near(found, kinds)
            self.fail((*path, "type"), f"{found!r} is not a type; allowed are {', '.join(kinds)}{hint}")
        kind: SchemaType = found  # type: ignore[assignment]  # one of get_args
        return kind

    def string(self, keys: Mapping[str, Any], path: KeyPath, out: dict[str, Any]) -> None:
        self.bounds(keys, path, out, "Length")
        if "pattern" in keys:
            out["pattern"] = self.pattern(keys["pattern"], (*path, "pattern"))
        if "format" in keys:
            form = keys["format"]
            if not isinstance(form, str) or form not in FORMATS:
                hint = near(form, FORMATS)
                self.fail((*path, "format"), f"{form!r} is not a format; allowed are {', '.join(FORMATS)}{hint}")
            out["format"] = form
        if "case_insensitive" in keys:
            if not isinstance(keys["case_insensitive"], bool):
                self.fail((*path, "case_insensitive"), f"{keys['case_insensitive']!r} is neither true nor false")
            out["case_insensitive"] = keys["case_insensitive"]
        if "copy" in keys:
            out["copy"] = self.copying(keys["copy"], (*path, "copy"))
            if out["copy"] and "enum" in keys:
                self.fail((*path, "copy"), "a span of the request cannot also be held to an 'enum'; drop one")
        if "also" in keys:
            if not out.get("copy"):
                self.fail((*path, "also"), "goes with 'copy': it names what may stand besides the request's own words")
            out["also"] = self.also(keys["also"], (*path, "also"), Schema(**out))

    def copying(self, copy: Any, path: KeyPath) -> Copying | None:
        if isinstance(copy, bool):
            return "span" if copy else None
        if copy not in get_args(Copying):
            self.fail(
                path,
                f"{copy!r} is no way to copy; allowed are true (a span as it stands), "
                "words, snake_case, date, time and datetime",
            )
        return cast(Copying, copy)

    def also(self, values: Any, path: KeyPath, schema: Schema) -> tuple[str, ...]:
        if not isinstance(values, list) or not values:
            self.fail(path, f"must be a list of strings, not {type_name(values) if values != [] else 'empty'}")
        for i, value in enumerate(values):
            self.value(value, (*path, i), schema)
            if value != value.strip() or not value:
                self.fail((*path, i), f"{value!r} is empty or has white space at its ends")
        return tuple(values)

    def pattern(self, pattern: Any, path: KeyPath) -> str:
        from router.patterns import PatternError, search

        if not isinstance(pattern, str):
            self.fail(path, f"must be a regular expression, not {type_name(pattern)}")
        try:
            re.compile(pattern)
            search(pattern)
        except (re.error, RecursionError, OverflowError) as error:
            self.fail(path, f"{pattern!r} is not a regular expression: {error}")
        except PatternError as error:
            self.fail(path, f"no grammar can hold it: {error}")
        return pattern

    def number(self, keys: Mapping[str, Any], path: KeyPath, out: dict[str, Any]) -> None:
        kinds = {"minimum": "minimum", "maximum": "maximum", "exclusiveMinimum": "exclusive_minimum",
                 "exclusiveMaximum": "exclusive_maximum"}  # fmt: skip
        for key, name in kinds.items():
            if key in keys:
                value = keys[key]
                finite = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")
                if not finite:
                    self.fail((*path, key), f"{value!r} is not a number")
                out[name] = value
        for low_key in ("minimum", "exclusiveMinimum"):
            for high_key in ("maximum", "exclusiveMaximum"):
                if low_key in keys and high_key in keys:
                    low, high = keys[low_key], keys[high_key]
                    touching = low == high and (low_key, high_key) != ("minimum", "maximum")
                    if low > high or touching:
                        self.fail((*path, high_key), f"{high!r} leaves nothing above {low_key} {low!r}")

    def bounds(self, keys: Mapping[str, Any], path: KeyPath, out: dict[str, Any], what: str) -> None:
        low, high = f"min{what}", f"max{what}"
        for key, name in ((low, f"min_{what.lower()}"), (high, f"max_{what.lower()}")):
            if key in keys:
                value = keys[key]
                if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                    self.fail((*path, key), f"{value!r} is not a whole number from 0 on")
                out[name] = value
        if low in keys and high in keys and keys[low] > keys[high]:
            self.fail((*path, high), f"{keys[high]} is below {low} {keys[low]}")

    def object(self, keys: Mapping[str, Any], path: KeyPath, out: dict[str, Any], *, top: bool) -> None:
        properties = self.mapping(keys.get("properties", {}), (*path, "properties"), "'properties'")
        built: dict[str, Schema] = {}
        optional: set[str] = set()
        for name, data in properties.items():
            where = (*path, "properties", name)
            self.name(name, where)
            built[name] = self.schema(data, where, parameter=top)
            if self.lenient and (built[name].default is not MISSING or "null" in _types(data)):
                optional.add(name)
        required = keys.get("required", [])
        if not isinstance(required, list):
            self.fail((*path, "required"), f"must be a list of parameter names, not {type_name(required)}")
        for i, name in enumerate(required):
            where = (*path, "required", i)
            if not isinstance(name, str) or name not in built:
                known = ", ".join(built) or "none"
                self.fail(where, f"{name!r} is not among the properties; there are {known}{near(name, built)}")
            if name in required[:i]:
                self.fail(where, f"{name!r} is listed twice")
            if built[name].default is not MISSING and not self.lenient:
                self.fail(where, f"{name!r} has a default and so cannot be required; drop one")
        additional = keys.get("additionalProperties", not top and "properties" not in keys)
        if not isinstance(additional, bool):
            where = (*path, "additionalProperties")
            self.fail(where, "must be true or false; schemas for further keys are not supported")
        out["properties"] = built
        out["required"] = tuple(name for name in required if name not in optional)
        out["additional"] = additional
        if "copy" in keys:
            if not additional or not isinstance(keys["copy"], bool):
                self.fail((*path, "copy"), "of an object is true or false, and goes with 'additionalProperties: true'")
            out["copy"] = "span" if keys["copy"] else None
        if "maxProperties" in keys:
            where, most = (*path, "maxProperties"), keys["maxProperties"]
            if top:
                self.fail(where, "a tool takes the parameters that it names; leave it out")
            if not isinstance(most, int) or isinstance(most, bool) or most < len(out["required"]):
                least = len(out["required"])
                self.fail(where, f"{most!r} is not a whole number from {least} on (its required keys)")
            out["max_properties"] = most

    def enum(self, values: Any, path: KeyPath, schema: Schema) -> tuple[Any, ...]:
        if not isinstance(values, list) or not values:
            self.fail(path, "must be a list of at least one value")
        for i, value in enumerate(values):
            self.value(value, (*path, i), schema)
            if any(equal(value, other) for other in values[:i]):
                self.fail((*path, i), f"{value!r} is listed twice")
        return tuple(values)

    def bind(self, keys: Mapping[str, Any], path: KeyPath, *, parameter: bool) -> str:
        where = (*path, "bind")
        found = _BIND.fullmatch(keys["bind"]) if isinstance(keys["bind"], str) else None
        if not found:
            self.fail(where, f"{keys['bind']!r} is not of the form context.KEY, such as context.project_path")
        if not parameter:
            self.fail(where, "only a tool's own parameters can be bound, not what lies within them")
        for other in ("copy", "also", "default"):
            if other in keys:
                self.fail(where, f"a bound parameter is filled from the context and cannot have {other!r}; drop one")
        return found.group(1)

    def default(self, value: Any, path: KeyPath, schema: Schema, *, top: bool) -> Any:
        if top:
            self.fail(path, "a tool's arguments as a whole cannot have a default; give it to a parameter")
        self.value(value, path, schema)
        return value

    def value(self, value: Any, path: KeyPath, schema: Schema) -> None:
        """A value that the file gives (enum, default) must itself be valid, and be such that it can be written."""
        errors = value_errors(value, schema, "")
        if errors:
            quote = ""
            if schema.type == "string" and type_name(value) in ("boolean", "integer", "number", "null", "date"):
                quote = "; quote it to make it a string"
            self.fail(path, errors[0].removeprefix(": ") + quote)
        if isinstance(value, str):
            self.text(value, path)
            if "▁" in value:
                self.fail(path, "contains '▁', which tokenizers read back as a space; no model can write it")

    # Small things, also for what stands around schemas.

    def mapping(self, data: Any, path: KeyPath, what: str) -> dict[str, Any]:
        if not isinstance(data, dict):
            self.fail(path, f"{what} must be a mapping of keys to values, not {type_name(data)}")
        for key in data:
            if not isinstance(key, str):
                self.fail(path, f"the key {key!r} is not a string; quote it")
        return data

    def known(self, keys: Mapping[str, Any], allowed: tuple[str, ...], path: KeyPath, what: str) -> None:
        for key in keys:
            if key not in allowed:
                if key in _COMBINERS:
                    self.fail((*path, key), f"{key!r} is not supported; write one type out, or one tool per case")
                owner = next((kind for kind, words in _KEYWORDS.items() if key in words), None)
                if owner and "type" in keys:
                    self.fail((*path, key), f"{key!r} is for {_owners(key)}, not for {what}")
                hint = near(key, allowed)
                self.fail((*path, key), f"unknown key {key!r}; {what} may have {', '.join(allowed)}{hint}")

    def name(self, name: Any, path: KeyPath) -> str:
        if not isinstance(name, str) or not NAME.fullmatch(name):
            self.fail(path, f"{name!r} is not a name; allowed are letters, digits, '_', '.' and '-', no digit first")
        return name

    def text(self, text: Any, path: KeyPath) -> str:
        if not isinstance(text, str):
            self.fail(path, f"must be text, not {type_name(text)}")
        for wire in WIRES.values():
            try:
                check_text(text, "it", wire)
            except WireError as error:
                self.fail(path, str(error))
        return text


def _owners(key: str) -> str:
    kinds = [kind for kind, words in _KEYWORDS.items() if key in words]
    return " and ".join(f"{kind}s" for kind in kinds)


def _types(data: Any) -> list[Any]:
    found = data.get("type") if isinstance(data, dict) else None
    return found if isinstance(found, list) else [found]
