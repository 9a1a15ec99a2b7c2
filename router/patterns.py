"""From a regular expression, as a schema's ``pattern`` or a format gives it, to a `router.regular.Node`.

Python's own parser reads it (``re._parser``, as `re` uses it), so that what is decoded is what `re.search` accepts.
``\\d`` and ``\\w`` mean ASCII, as in the regular expressions of JSON Schema (ECMA-262), which Python accepts as well.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

from router.regular import (
    ANY,
    EMPTY,
    LAST,
    NOTHING,
    UNWRITABLE,
    Chars,
    Node,
    Ranges,
    alt,
    cat,
    inverse,
    normal,
    repeat,
)
from runtimes.errors import UserError

_parser: Any = importlib.import_module("re._parser")
_constants: Any = importlib.import_module("re._constants")

_ASCII: Final[dict[str, tuple[tuple[int, int], ...]]] = {
    "DIGIT": ((48, 57),),
    "WORD": ((48, 57), (65, 90), (95, 95), (97, 122)),
    "SPACE": ((9, 13), (32, 32)),
}


MOST_PLACES: Final = 2000
"""Characters that a pattern may tell apart, its repeats written out: more takes minutes to decode with."""


class PatternError(UserError):
    """A regular expression that Python knows and a grammar cannot hold."""


@lru_cache(maxsize=256)
def whole(pattern: str) -> Node:
    """The strings that `pattern` matches from end to end."""
    tree = _parse(pattern)
    parts = [(str(op), value) for op, value in tree]
    return _sequence(parts, pattern)


@lru_cache(maxsize=256)
def search(pattern: str) -> Node:
    """The strings in which `pattern` is found, as JSON Schema means it: anywhere unless ``^`` or ``$`` anchor it."""
    return _search([(str(op), value) for op, value in _parse(pattern)], pattern)


def _parse(pattern: str) -> Any:
    try:
        tree = _parser.parse(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise PatternError(f"pattern {pattern!r}: not a regular expression ({error})") from None
    if tree.state.flags & ~re.UNICODE:
        raise PatternError(f"pattern {pattern!r}: flags such as (?i) are not supported; write the letters out")
    if (places := _places(tree)) > MOST_PLACES:
        raise PatternError(
            f"pattern {pattern!r}: its repeats stand for {places:,} characters, {MOST_PLACES:,} at most can be "
            "decoded; use smaller counts, or * and +"
        )
    return tree


def _places(items: Any) -> int:
    """Characters that a pattern consists of when its repeats are written out."""
    total = 0
    for op, value in items:
        match str(op):
            case "BRANCH":
                total += sum(_places(branch) for branch in value[1])
            case "SUBPATTERN":
                total += _places(value[3])
            case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT":
                low, high, inner = value
                total += max(1, int(low) if high == _constants.MAXREPEAT else int(high)) * _places(inner)
            case "AT":
                pass
            case _:
                total += 1
    return total


def _search(items: list[tuple[str, Any]], pattern: str) -> Node:
    """Anchors may stand at the ends of the whole and of its outermost alternatives."""
    if len(items) == 1 and items[0][0] == "BRANCH":
        return alt(*(_search([(str(o), v) for o, v in branch], pattern) for branch in items[0][1][1]))
    if len(items) == 1 and items[0][0] == "SUBPATTERN":
        _, add, drop, inner = items[0][1]
        _no_flags(add | drop, pattern)
        return _search([(str(o), v) for o, v in inner], pattern)
    start = end = False
    while items and _is_anchor(items[0], "AT_BEGINNING", "AT_BEGINNING_STRING"):
        items, start = items[1:], True
    while items and _is_anchor(items[-1], "AT_END", "AT_END_STRING"):
        items, end = items[:-1], True
    body = _sequence(items, pattern)
    around = repeat(ANY)
    return cat(EMPTY if start else around, body, EMPTY if end else around)


def _is_anchor(item: tuple[str, Any], *names: str) -> bool:
    return item[0] == "AT" and str(item[1]) in names


def _sequence(items: Any, pattern: str) -> Node:
    return cat(*(_item(str(op), value, pattern) for op, value in items))


def _item(op: str, value: Any, pattern: str) -> Node:
    match op:
        case "LITERAL":
            return _written([(value, value)])
        case "NOT_LITERAL":
            return _written(inverse([(value, value)]))
        case "ANY":
            return _written(inverse([(10, 10)]))
        case "IN":
            return _written(_class(value, pattern))
        case "BRANCH":
            return alt(*(_sequence(branch, pattern) for branch in value[1]))
        case "SUBPATTERN":
            _no_flags(value[1] | value[2], pattern)
            return _sequence(value[3], pattern)
        case "MAX_REPEAT" | "MIN_REPEAT":
            low, high, inner = value
            return repeat(_sequence(inner, pattern), low, None if high == _constants.MAXREPEAT else int(high))
    names = {"AT": "an anchor or \\b inside", "GROUPREF": "a back-reference", "ASSERT": "look-around"}
    what = names.get(op.removesuffix("_NOT"), op.lower().replace("_", " "))
    raise PatternError(f"pattern {pattern!r}: {what} cannot be decoded; use plain classes, groups and repeats")


def _class(items: Any, pattern: str) -> Ranges:
    ranges: list[tuple[int, int]] = []
    negated = False
    for op, value in items:
        match str(op):
            case "NEGATE":
                negated = True
            case "LITERAL":
                ranges.append((value, value))
            case "RANGE":
                ranges.append(value)
            case "CATEGORY":
                ranges += _category(str(value).removeprefix("CATEGORY_"), negated)
            case _:
                raise PatternError(f"pattern {pattern!r}: {str(op).lower()} in a class cannot be decoded")
    return inverse(ranges) if negated else normal(ranges)


def _category(name: str, negated: bool) -> Ranges:
    """ASCII where characters are let in, and all that Python counts where they are kept out."""
    kind = name.removeprefix("NOT_")
    out = kind != name
    if out == negated:
        found = _ASCII[kind]
        return inverse(found) if out else found
    found = _unicode(kind)
    return inverse(found) if out else found


@lru_cache(maxsize=3)
def _unicode(kind: str) -> Ranges:
    test: dict[str, Callable[[str], bool]] = {
        "DIGIT": str.isdecimal, "SPACE": str.isspace, "WORD": lambda c: c.isalnum() or c == "_",
    }  # fmt: skip
    return normal((p, p) for p in range(LAST + 1) if test[kind](chr(p)))


def _written(ranges: Any) -> Node:
    """A class without the characters that cannot be written."""
    barred = [ord(c) for c in UNWRITABLE]
    left = inverse([*inverse(ranges), *((p, p) for p in barred)])
    return Chars(left) if left else NOTHING


def _no_flags(flags: int, pattern: str) -> None:
    if flags:
        raise PatternError(f"pattern {pattern!r}: flags such as (?i) are not supported; write the letters out")
