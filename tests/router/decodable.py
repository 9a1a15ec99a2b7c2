"""What hypothesis draws for decoding: toolsets with every kind of parameter, and calls that hold to them."""

from __future__ import annotations

import math
import re
from typing import Any

from hypothesis import strategies as st

from router.formats import FORMATS
from router.free import FREE_DEPTH, FREE_KEY_LENGTH, FREE_LENGTH
from router.ranges import MAX_DIGITS, integer_bounds, number_bounds
from router.request import chunks
from router.toolset import Call, Schema, Toolset
from router.toolset_load import from_dict
from router.wire_format import key_problem
from tests.router.strategies import texts as writable_texts

REQUEST = 'Please find the email_scripts of "Jos\u00e9", 12 files; <escape> and so on \U0001f600 etc.'
"""The request whose spans copy-bound strings take."""
PATTERNS = ["^[a-z]{2,4}$", "[0-9]+-[a-z]*", "^(foo|ba[rz])+$", "x", "^[^a-z]{1,3}$", r"^\d{1,2}:\d{2}$", "^a|b$"]

texts = writable_texts.filter(lambda t: "\u2581" not in t)
_names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.\-]{0,6}", fullmatch=True)
_numbers = st.one_of(st.integers(-50, 50), st.floats(-1e6, 1e6, allow_nan=False).map(lambda x: round(x, 3)))


@st.composite
def strings(draw: st.DrawFn, kind: str, bounded: bool) -> dict[str, Any]:
    out: dict[str, Any] = {"type": "string"}
    match kind:
        case "enum":
            out["enum"] = draw(st.lists(texts, min_size=1, max_size=4, unique=True))
        case "format":
            out["format"] = draw(st.sampled_from(sorted(FORMATS)))
        case "pattern":
            out["pattern"] = draw(st.sampled_from(PATTERNS))
        case "copy":
            out["copy"] = draw(st.sampled_from([True, "words"]))
            if draw(st.booleans()):
                out |= draw(st.sampled_from([{"maxLength": 7}, {"minLength": 12}, {"minLength": 1}]))
        case "free" if bounded or draw(st.booleans()):
            out["maxLength"] = draw(st.integers(0, 9))
            out["minLength"] = draw(st.integers(0, out["maxLength"]))
        case "free" if draw(st.booleans()):
            out["minLength"] = 1
    if bounded and kind in ("pattern", "format"):
        out["maxLength"] = 40
    return out


@st.composite
def numbers(draw: st.DrawFn, kind: str) -> dict[str, Any]:
    out: dict[str, Any] = {"type": kind}
    if draw(st.integers(0, 3)) == 0:
        return out | {"enum": draw(st.lists(st.integers(-99, 99), min_size=1, max_size=3, unique=True))}
    low, high = sorted([draw(_numbers), draw(_numbers)])
    if draw(st.booleans()):
        out[draw(st.sampled_from(["minimum", "exclusiveMinimum"]))] = low - 1
    if draw(st.booleans()):
        out[draw(st.sampled_from(["maximum", "exclusiveMaximum"]))] = high + 1
    return out


_LEAVES = ("free", "enum", "pattern", "format", "copy", "integer", "number", "boolean")


@st.composite
def schemas(draw: st.DrawFn, depth: int, bounded: bool) -> dict[str, Any]:
    deep = ("array", "object", *(() if bounded else ("any object", "any array"))) if depth > 0 else ()
    kind = draw(st.sampled_from([*_LEAVES, *deep]))
    match kind:
        case "integer" | "number":
            return draw(numbers(kind))
        case "boolean":
            return {"type": "boolean"}
        case "array":
            return draw(arrays(depth, bounded))
        case "object":
            return draw(objects(depth, bounded))
        case "any object" | "any array":
            return {"type": kind.removeprefix("any ")}
    return draw(strings(kind, bounded))


@st.composite
def arrays(draw: st.DrawFn, depth: int, bounded: bool) -> dict[str, Any]:
    out = {"type": "array", "items": draw(schemas(depth - 1, bounded))}
    if bounded or draw(st.booleans()):
        out["maxItems"] = draw(st.integers(0, 4))
    if draw(st.booleans()):
        out["minItems"] = draw(st.integers(0, min(2, out.get("maxItems", 2))))
    return out


@st.composite
def objects(draw: st.DrawFn, depth: int, bounded: bool, *, top: bool = False) -> dict[str, Any]:
    names = draw(st.lists(_names, min_size=draw(st.integers(0, 3)), max_size=4, unique=True))
    properties = {name: draw(schemas(depth - 1, bounded)) for name in names}
    out = {
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if draw(st.booleans())],
    }
    if not top and not bounded:
        out["additionalProperties"] = draw(st.booleans())
    return out


@st.composite
def toolsets(draw: st.DrawFn, *, bounded: bool = False) -> Toolset:
    names = draw(st.lists(_names, min_size=1, max_size=3, unique=True))
    tools = [{"name": n, "description": "", "parameters": draw(objects(3, bounded, top=True))} for n in names]
    return from_dict({"name": "drawn", "max_calls": draw(st.integers(1, 3)), "tools": tools})


# Values that hold to a schema.


def values(schema: Schema) -> st.SearchStrategy[Any]:
    if schema.enum is not None:
        return st.sampled_from(schema.enum)
    match schema.type:
        case "string":
            return string_values(schema)
        case "boolean":
            return st.booleans()
        case "integer":
            low, high = integer_bounds(*_bounds(schema))
            most = 10**MAX_DIGITS - 1
            return st.integers(-most if low is None else low, most if high is None else high)
        case "number":
            return number_values(schema)
        case "array":
            inner = anything(FREE_DEPTH - 1) if schema.items is None else values(schema.items)
            low, high = schema.min_items or 0, 4 if schema.max_items is None else schema.max_items
            return st.lists(inner, min_size=low, max_size=max(low, high))
        case "object":
            return object_values(schema)


def _bounds(schema: Schema) -> tuple[Any, Any, Any, Any]:
    return schema.minimum, schema.maximum, schema.exclusive_minimum, schema.exclusive_maximum


def number_values(schema: Schema) -> st.SearchStrategy[float]:
    low, high = number_bounds(*_bounds(schema))
    drawn = st.floats(low, high, allow_nan=False, allow_infinity=False, allow_subnormal=False)
    # Subnormal and the very largest floats are not decoded, nor is a zero with a sign where there are bounds.
    return drawn.filter(lambda x: x == 0 or 1e-300 < abs(x) < 1e300).map(lambda x: abs(x) if x == 0 else x)


def string_values(schema: Schema) -> st.SearchStrategy[str]:
    low, high = schema.min_length or 0, schema.max_length
    if schema.copy:
        offered = {"span": spans, "words": some_words, "snake_case": names}.get(schema.copy, lambda _: [])(REQUEST)
        fits = [span for span in (*offered, *schema.also) if low <= len(span) <= (math.inf if high is None else high)]
        return st.sampled_from(fits)
    if schema.pattern is not None:
        found = st.from_regex(re.compile(schema.pattern, re.ASCII)).filter(lambda t: not t.endswith("\n"))
    elif schema.format is not None:
        found = st.from_regex(FORMATS[schema.format], fullmatch=True)
    else:
        return texts.map(lambda t: (t + "abcdefghij")[: max(low, len(t))][:high]).filter(_fine)
    return found.filter(lambda t: low <= len(t) <= (math.inf if high is None else high)).filter(_fine)


def _fine(text: str) -> bool:
    from tests.router.strategies import writable

    return writable(text) and "\u2581" not in text


def spans(request: str) -> list[str]:
    """Every span of a request that can be written, the slow way."""
    pieces = list(chunks(request))
    runs = {"".join(pieces[i:j]) for i in range(len(pieces)) for j in range(i + 1, len(pieces) + 1)}
    return sorted(run for run in runs if run == run.strip() and _fine(run))


def some_words(request: str) -> list[str]:
    """The spans of a request, and pairs of its chunks that have something between them."""
    pieces = list(chunks(request))
    pairs = (f"{a} {b}" for i, a in enumerate(pieces) for b in pieces[i + 2 :] if not (a + b).isspace())
    return sorted({*spans(request), *(pair for pair in pairs if pair == pair.strip() and _fine(pair))})


def of_words(text: str, request: str) -> bool:
    """Whether `text` is words of a request in their order, the slow way."""
    pieces = list(chunks(request))

    def made(rest: str, at: int) -> bool:
        for i in range(at, len(pieces)):
            for j in range(i + 1, len(pieces) + 1):
                run = "".join(pieces[i:j])
                if run == run.strip() and (
                    rest == run or (rest.startswith(f"{run} ") and made(rest[len(run) + 1 :], j + 1))
                ):
                    return True
        return False

    return made(text, 0) and _fine(text)


def names(request: str) -> list[str]:
    """Every name in a request, the slow way."""
    alone = {run for run in spans(request) if not any(c.isspace() for c in run)}
    plain = re.findall(r"(?:(?<=\s)|(?<=\s[^\w\s])|^|(?<=^[^\w\s]))[^\W\d_]+(?=[^\w\s]?(?:\s|$))", request)
    alone |= {word.lower() for word in plain if word.isupper() or word.istitle()}
    pieces = list(chunks(request))
    for i in range(len(pieces)):
        for j in range(i + 1, len(pieces) + 1):
            run = pieces[i:j]
            if run[0].isspace() or run[-1].isspace() or not any(p.isspace() for p in run):
                continue
            joined = "".join("_" if p.isspace() else p.lower() for p in run)
            parted = any(_parts(pieces, n) for n in range(i, j))
            if not parted and _fine(joined):
                alone.add(joined)
    return sorted(alone)


def _parts(pieces: list[str], n: int) -> bool:
    piece = pieces[n]
    if piece.isspace() or re.match(r"\w", piece):
        return False
    open_before = n == 0 or pieces[n - 1].isspace()
    open_after = n == len(pieces) - 1 or pieces[n + 1].isspace()
    return piece[0] in ',;:?!"\u201c\u201d\u201e()[]{}<>`' or (open_before and open_after)


def anything(depth: int) -> st.SearchStrategy[Any]:
    """Any JSON value with at most `depth` levels of lists and objects."""
    most = 10**MAX_DIGITS - 1
    short = texts.filter(lambda text: len(text) <= FREE_LENGTH)
    scalars = st.one_of(st.none(), st.booleans(), st.integers(-most, most), number_values(Schema("number")), short)
    if depth <= 0:
        return scalars
    inner = anything(depth - 1)
    return st.one_of(scalars, st.lists(inner, max_size=3), st.dictionaries(free_keys, inner, max_size=3))


free_keys = texts.filter(lambda key: not key_problem(key) and "<" not in key and len(key) <= FREE_KEY_LENGTH)


@st.composite
def object_values(draw: st.DrawFn, schema: Schema) -> dict[str, Any]:
    out = {}
    for name, inner in schema.properties.items():
        if name in schema.required or draw(st.booleans()):
            out[name] = draw(values(inner))
    if schema.additional:
        for name, value in draw(st.dictionaries(free_keys, anything(FREE_DEPTH - 1), max_size=3)).items():
            out.setdefault(name, value)
    return out


@st.composite
def toolsets_with_calls(draw: st.DrawFn) -> tuple[Toolset, list[Call]]:
    toolset = draw(toolsets())
    wanted = draw(st.sampled_from([1, 1, 1, 0])) and draw(st.integers(1, toolset.max_calls))
    chosen = draw(st.lists(st.sampled_from(toolset.tools), min_size=wanted, max_size=wanted))
    return toolset, [Call(tool.name, draw(object_values(tool.parameters))) for tool in chosen]
