"""JSON Schema as people and libraries write it, with references put in place, parts merged and choices taken.

Reads what JSON Schema (drafts 4 to 2020-12) and OpenAPI 3.0 and 3.1 call a schema. What comes out has the same
keywords without combiners and without null; a type may be missing, or be one of several. `closing` makes of it what
a toolset can carry.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final, NoReturn

from router.explain import ToolsetError
from router.validate import equal
from train.data.tools.documents import Documents
from train.data.tools.losses import Loss, Lost

MAX_SCHEMAS: Final = 20_000
"""Schemas read for one tool; references to references multiply."""
MAX_NESTING: Final = 64
NEVER: Final = "never"
"""Key of a schema that no value holds to, or that a request must not give."""
NULL: Final = "nullable"

_ANNOTATIONS: Final = frozenset(
    ("title", "$schema", "$id", "$comment", "$anchor", "$defs", "definitions", "examples", "example", "deprecated",
     "writeOnly", "externalDocs", "xml", "strict", "discriminator", "$vocabulary")
)  # fmt: skip
"""What only documents a schema, or serves references: passed over."""
_CONDITIONS: Final = frozenset(
    ("not", "if", "then", "else", "dependentRequired", "dependentSchemas", "dependencies", "propertyNames",
     "unevaluatedProperties", "unevaluatedItems", "contains", "minContains", "maxContains")
)  # fmt: skip
_BOUNDS: Final = frozenset(("uniqueItems", "multipleOf", "minProperties", "maxProperties"))
_KEPT: Final = frozenset(
    ("description", "default", "pattern", "format", "minLength", "maxLength", "minimum", "maximum", "exclusiveMinimum",
     "exclusiveMaximum", "minItems", "maxItems", "copy", "case_insensitive", "bind")
)  # fmt: skip
_TYPES: Final = ("string", "integer", "number", "boolean", "array", "object")
_LOW: Final = ("minimum", "exclusiveMinimum", "minLength", "minItems")
_HIGH: Final = ("maximum", "exclusiveMaximum", "maxLength", "maxItems")


@dataclass(frozen=True)
class Spot:
    """Where a schema stands: its document, its place for people, and the references that led here."""

    base: str
    tool: str
    place: str
    trail: tuple[str, ...] = ()
    depth: int = 0

    def inside(self, place: str) -> Spot:
        return replace(self, place=place, depth=self.depth + 1)


class Reader:
    """Reads the schemas of one tool. `request`: properties that only an answer has (``readOnly``) cannot be given."""

    def __init__(self, documents: Documents, lost: Lost, *, request: bool = False) -> None:
        self.documents = documents
        self.lost = lost
        self.request = request
        self.count = 0

    def read(self, node: Any, spot: Spot) -> dict[str, Any]:
        """A schema without references and combiners. Raises `ToolsetError` for recursion and for what is no schema."""
        self.count += 1
        if self.count > MAX_SCHEMAS or spot.depth > MAX_NESTING:
            self.fail(spot, "its schemas are nested too deep or multiply through references; leave the tool out")
        if isinstance(node, bool):
            return {} if node else {NEVER: "no value is allowed"}
        if not isinstance(node, dict):
            self.fail(spot, f"a schema must be an object, not {node!r}")
        out = self.own(node, spot)
        if "$ref" in node:
            target, there = self.follow(node["$ref"], spot)
            out = self.merge(out, self.read(target, there), spot)
        for key in ("$dynamicRef", "$recursiveRef"):
            if key in node:
                self.lost(Loss("keyword", spot.place, f"{key!r} is not followed"))
        for part in self.listed(node, "allOf", spot):
            out = self.merge(out, self.read(part, spot.inside(spot.place)), spot)
        for key in ("oneOf", "anyOf"):
            if key in node:
                out = self.merge(out, self.choose(self.listed(node, key, spot), key, spot), spot)
        return out

    def own(self, node: dict[Any, Any], spot: Spot) -> dict[str, Any]:
        """The keywords of the schema itself."""
        out: dict[str, Any] = {}
        for key, value in node.items():
            if key in _KEPT:
                out[key] = value
            elif key in _CONDITIONS:
                self.lost(Loss("condition", spot.place, f"{key!r} is dropped"))
            elif key in _BOUNDS:
                if value is not False and value != 0 and not (key == "multipleOf" and value == 1):
                    self.lost(Loss("bound", spot.place, f"{key} {value!r} is dropped"))
            elif key not in _ANNOTATIONS and key not in _READ and not str(key).startswith("x-"):
                self.lost(Loss("keyword", spot.place, f"{key!r} is dropped"))
        self.types(node, out, spot)
        self.values(node, out)
        self.keys(node, out, spot)
        self.items(node, out, spot)
        for limit in ("Minimum", "Maximum"):  # draft 4 and OpenAPI 3.0 have a flag here
            flag, value = out.get(f"exclusive{limit}"), out.get(limit.lower())
            if isinstance(flag, bool):
                del out[f"exclusive{limit}"]
                if flag and value is not None:
                    out[f"exclusive{limit}"] = out.pop(limit.lower())
        if node.get("readOnly") is True and self.request:
            out[NEVER] = "it is read-only: a request must not give it"
        return out

    def types(self, node: dict[Any, Any], out: dict[str, Any], spot: Spot) -> None:
        found = node.get("type")
        if found is None:
            kinds: list[str] = []
        else:
            kinds = [str(kind).lower() for kind in (found if isinstance(found, list) else [found])]
        if node.get("nullable") is True or "null" in kinds:
            out[NULL] = True
        known = list(dict.fromkeys(kind for kind in kinds if kind in _TYPES))
        for kind in kinds:
            if kind not in _TYPES and kind != "null":
                self.lost(Loss("untyped", spot.place, f"{kind!r} is not a type of JSON Schema"))
        if known:
            out["type"] = known
        elif kinds == ["null"]:
            out[NEVER] = "only null is allowed"

    def values(self, node: dict[Any, Any], out: dict[str, Any]) -> None:
        for allowed in ([node["const"]] if "const" in node else None, node.get("enum")):
            if isinstance(allowed, list):
                plain = [value for value in allowed if value is not None]
                if len(plain) < len(allowed):
                    out[NULL] = True
                    if not plain:
                        out[NEVER] = "only null is allowed"
                        continue
                before = out.get("enum")
                both = plain if before is None else [v for v in before if any(equal(v, w) for w in plain)]
                out["enum"] = both

    def keys(self, node: dict[Any, Any], out: dict[str, Any], spot: Spot) -> None:
        if isinstance(node.get("properties"), dict):
            out["properties"] = {
                str(name): self.read(value, spot.inside(f"{spot.place}.{name}"))
                for name, value in node["properties"].items()
            }
        if isinstance(node.get("required"), list):
            out["required"] = list(dict.fromkeys(str(name) for name in node["required"]))
        for key, kind in (("properties", dict), ("required", list), ("enum", list)):
            if node.get(key) and not isinstance(node[key], kind):
                self.lost(Loss("keyword", spot.place, f"{key} {node[key]!r} makes no sense and is dropped"))
        if "additionalProperties" in node:
            value = node["additionalProperties"]
            out["additionalProperties"] = value is not False
            if isinstance(value, dict) and value:
                self.lost(Loss("open", spot.place, "the schema of further keys is dropped: any value may be given"))
        if node.get("patternProperties"):
            out["additionalProperties"] = True
            self.lost(Loss("open", spot.place, "'patternProperties' is dropped: further keys may have any name"))

    def items(self, node: dict[Any, Any], out: dict[str, Any], spot: Spot) -> None:
        items = node.get("items")
        places = node.get("prefixItems", items if isinstance(items, list) else None)
        if isinstance(places, list) and places:
            self.lost(
                Loss("tuple", spot.place, f"the schemas of {len(places)} places are dropped: any items are allowed")
            )
            if items is False or node.get("additionalItems") is False:
                out.setdefault("maxItems", len(places))
        elif isinstance(items, dict | bool):
            out["items"] = self.read(items, spot.inside(f"{spot.place}[]"))

    def choose(self, options: list[Any], key: str, spot: Spot) -> dict[str, Any]:
        """One of several schemas: the first that is not null. Values listed one by one are gathered."""
        peeked = [self.peek(option, spot) for option in options]
        left = [(o, p) for o, p in zip(options, peeked, strict=True) if not _only_null(p)]
        out: dict[str, Any] = {NULL: True} if len(left) < len(options) else {}
        if not left:
            return {NULL: True, NEVER: "only null is allowed"}
        if len(left) == 1:
            return {**self.read(left[0][0], spot.inside(spot.place)), **out}
        if all(p.keys() <= {"required"} for _, p in left):
            self.lost(Loss("condition", spot.place, f"{key!r} of what is required is dropped"))
            return out
        if all(("enum" in p or "const" in p) and p.keys() <= {"enum", "const", "type"} for _, p in left):
            gathered = [v for _, p in left for v in ([p["const"]] if "const" in p else p["enum"] or [])]
            kinds = list(dict.fromkeys(k for _, p in left for k in _list(p.get("type"))))
            return {**self.own({"enum": gathered, **({"type": kinds} if kinds else {})}, spot), **out}
        if all(p.keys() <= {"type"} and p.get("type") in ("integer", "number") for _, p in left):
            return {"type": ["number"], **out}
        names = ", ".join(_name(o, p) for o, p in left)
        self.lost(Loss("choice", spot.place, f"{key!r} of {len(left)} schemas ({names}): only the first is kept"))
        return {**self.read(left[0][0], spot.inside(spot.place)), **out}

    def peek(self, node: Any, spot: Spot) -> dict[Any, Any]:
        """What an option says beside documentation, its reference followed."""
        for _ in range(MAX_NESTING):
            if not isinstance(node, dict):
                return {"schema": node}
            if set(node) - _ANNOTATIONS - {"description"} != {"$ref"}:
                break
            node = self.documents.find(node["$ref"], spot.base, spot.place).value
        return {k: v for k, v in node.items() if k not in _ANNOTATIONS and k != "description"}

    def merge(self, first: dict[str, Any], second: dict[str, Any], spot: Spot) -> dict[str, Any]:
        """Both at once. Of what can only be said once, the first's stands."""
        out = {**second, **first}
        if "type" in first and "type" in second:
            both = [kind for kind in first["type"] if kind in second["type"]]
            if not both and {*first["type"], *second["type"]} <= {"integer", "number"}:
                both = ["integer"]
            if not both:
                self.clash("type", first["type"], second["type"], spot)
            out["type"] = both or first["type"]
        if "enum" in first and "enum" in second:
            values = [v for v in first["enum"] if any(equal(v, w) for w in second["enum"])]
            if not values:
                self.clash("enum", first["enum"], second["enum"], spot)
            out["enum"] = values or first["enum"]
        if "required" in first and "required" in second:
            out["required"] = list(dict.fromkeys([*second["required"], *first["required"]]))
        if "properties" in first and "properties" in second:
            out["properties"] = {**second["properties"], **first["properties"]}
            for name in first["properties"].keys() & second["properties"].keys():
                inner = spot.inside(f"{spot.place}.{name}")
                out["properties"][name] = self.merge(first["properties"][name], second["properties"][name], inner)
        if "items" in first and "items" in second:
            out["items"] = self.merge(first["items"], second["items"], spot.inside(f"{spot.place}[]"))
        for keys, narrower in ((_LOW, max), (_HIGH, min)):
            for key in keys:
                if _number(first.get(key)) and _number(second.get(key)):
                    out[key] = narrower(first[key], second[key])
        for key in ("pattern", "format"):
            if key in first and key in second and first[key] != second[key]:
                self.clash(key, first[key], second[key], spot)
        if first.get("additionalProperties") is False or second.get("additionalProperties") is False:
            # Each part closes itself against the other's keys; together they mean the keys of both.
            out["additionalProperties"] = False
        return out

    def clash(self, key: str, first: object, second: object, spot: Spot) -> None:
        self.lost(Loss("all-of", spot.place, f"{key} {first!r} stands, {second!r} beside it is dropped"))

    def follow(self, reference: object, spot: Spot) -> tuple[Any, Spot]:
        """What a reference leads to, and the spot there. Raises `ToolsetError` where it leads back to itself."""
        found = self.documents.find(reference, spot.base, spot.place)
        if found.name in spot.trail:
            loop = [*spot.trail[spot.trail.index(found.name) :], found.name]
            short = [name.removeprefix(self.documents.root) for name in loop]
            self.fail(
                spot,
                f"the schema {short[0]} contains itself ({' -> '.join(short)}), and a tool's parameters must end "
                f"somewhere; leave the tool out (--without {spot.tool}), or write the schema out to the depth you need",
            )
        inside = spot.inside(spot.place)
        return found.value, replace(inside, base=found.base, trail=(*spot.trail, found.name))

    def listed(self, node: dict[Any, Any], key: str, spot: Spot) -> list[Any]:
        value = node.get(key, [])
        if not isinstance(value, list) or (key in node and not value):
            self.fail(spot, f"{key!r} must be a list of at least one schema")
        return value

    def fail(self, spot: Spot, message: str) -> NoReturn:
        raise ToolsetError(f"{self.documents.root}: {spot.place}: {message}")


_READ: Final = frozenset(
    ("type", "nullable", "const", "enum", "properties", "required", "additionalProperties", "patternProperties",
     "items", "prefixItems", "additionalItems", "readOnly", "allOf", "anyOf", "oneOf", "$ref", "$dynamicRef",
     "$recursiveRef")
)  # fmt: skip
"""Keywords that have a method of their own."""


def _only_null(peeked: dict[Any, Any]) -> bool:
    return peeked in ({"type": "null"}, {"type": ["null"]}, {"const": None}, {"enum": [None]})


def _name(option: Any, peeked: dict[Any, Any]) -> str:
    """A choice for people: its type, or the end of its reference."""
    kind = peeked.get("type")
    reference = option.get("$ref") if isinstance(option, dict) else None
    return str(reference).rpartition("/")[2] if reference else str(kind or "schema")


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
