"""Regular expressions over code points as data: what a string or a number may look like, printed by nobody yet.

`derive` takes one character off the front (Brzozowski, "Derivatives of Regular Expressions", 1964); `router.language`
builds matching, automata and llguidance's syntax on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
from typing import Final
from weakref import WeakValueDictionary

Ranges = tuple[tuple[int, int], ...]
"""Code points as sorted, disjoint, inclusive ranges."""

LAST: Final = 0x10FFFF
SURROGATES: Final = (0xD800, 0xDFFF)
UNWRITABLE: Final = "\0\u2581"
"""The null character, which the wire format refuses, and the mark that Gemma's tokenizers read back as a space."""


class _Hashed:
    """Remembers its hash: nodes are deep and are looked up often."""

    @cached_property
    def _hash(self) -> int:
        return hash((type(self).__name__, *(getattr(self, f.name) for f in fields(self))))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Chars(_Hashed):
    """One character out of `ranges`; none at all when they are empty."""

    ranges: Ranges

    def __hash__(self) -> int:
        return self._hash


@dataclass(frozen=True)
class Cat(_Hashed):
    """One after another; the empty string when there are none."""

    parts: tuple[Node, ...]

    def __hash__(self) -> int:
        return self._hash


@dataclass(frozen=True)
class Alt(_Hashed):
    """Any one of them; nothing when there are none."""

    parts: tuple[Node, ...]

    def __hash__(self) -> int:
        return self._hash


@dataclass(frozen=True)
class Repeat(_Hashed):
    """`node`, `low` to `high` times (None: without limit)."""

    node: Node
    low: int
    high: int | None

    def __hash__(self) -> int:
        return self._hash


Node = Chars | Cat | Alt | Repeat

EMPTY: Final = Cat(())
NOTHING: Final = Alt(())

_pool: WeakValueDictionary[Node, Node] = WeakValueDictionary()


def _one(node: Node) -> Node:
    """The one node of its kind: equal nodes made by the functions below are the same object, so comparing is cheap."""
    return _pool.setdefault(node, node)


def normal(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """Sorted, merged, without the surrogates."""
    low, high = SURROGATES
    cut = [
        part
        for a, b in ranges
        for part in ((a, min(b, low - 1)), (max(a, high + 1), b))
        if part[0] <= part[1]
    ]  # fmt: skip
    out: list[tuple[int, int]] = []
    for a, b in sorted(cut):
        if out and a <= out[-1][1] + 1:
            out[-1] = (out[-1][0], max(out[-1][1], b))
        else:
            out.append((a, b))
    return tuple(out)


def inverse(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """Every other code point."""
    out, at = [], 0
    for a, b in normal([*ranges, SURROGATES]):
        if a > at:
            out.append((at, a - 1))
        at = b + 1
    return normal([*out, (at, LAST)] if at <= LAST else out)


def chars(text: str) -> Chars:
    """Any one character of `text`."""
    return Chars(normal((ord(c), ord(c)) for c in text))


def span(first: str, last: str) -> Chars:
    """Any one character from `first` to `last`."""
    return Chars(normal([(ord(first), ord(last))]))


def but(text: str) -> Chars:
    """Any one writable character that is not in `text`."""
    return Chars(inverse((ord(c), ord(c)) for c in text + UNWRITABLE))


ANY: Final = but("")
DIGIT: Final = span("0", "9")


def literal(text: str) -> Node:
    """Exactly `text`."""
    return cat(*(chars(c) for c in text))


def cat(*nodes: Node) -> Node:
    """One after another, simplified."""
    parts: list[Node] = []
    for node in nodes:
        if node == NOTHING or node == Chars(()):
            return NOTHING
        parts += node.parts if isinstance(node, Cat) else (node,)
    return parts[0] if len(parts) == 1 else _one(Cat(tuple(parts))) if parts else EMPTY


def alt(*nodes: Node) -> Node:
    """Any one of them, simplified: no doubles, single characters in one class."""
    flat = [part for node in nodes for part in (node.parts if isinstance(node, Alt) else (node,))]
    single = normal(r for part in flat if isinstance(part, Chars) for r in part.ranges)
    parts: list[Node] = [Chars(single)] if single else []
    parts += [part for part in dict.fromkeys(flat) if not isinstance(part, Chars)]
    return _one(parts[0] if len(parts) == 1 else Alt(tuple(parts))) if parts else NOTHING


def repeat(node: Node, low: int = 0, high: int | None = None) -> Node:
    """`node`, `low` to `high` times, simplified."""
    if high == 0 or node == EMPTY:
        return EMPTY
    if node == NOTHING or node == Chars(()):
        return EMPTY if low == 0 else NOTHING
    return node if (low, high) == (1, 1) else _one(Repeat(node, low, high))


def optional(node: Node) -> Node:
    return repeat(node, 0, 1)


def without(words: Sequence[str]) -> Node:
    """Writable text in which none of `words` occurs. They share a first character, found nowhere else in them."""
    first = words[0][0]
    if any(word[0] != first or first in word[1:] for word in words):
        raise ValueError(f"words must share a first character that does not recur: {words}")
    plain = repeat(but(first))
    start = chars(first)
    begun = cat(start, _begun(words, first))
    left = cat(start, _left(words, first, avoid=first))
    return cat(plain, repeat(cat(repeat(begun), left, plain)), repeat(begun))


def other_than(words: Sequence[str]) -> Node:
    """Writable text that is none of `words`."""
    if not words:
        return repeat(ANY)
    longer = alt(*(cat(literal(word), ANY) for word in words if not _children(words, word)))
    whole = alt(longer, _left(words, "", avoid=""))
    return alt(_begun(words, "", whole=True), cat(whole, repeat(ANY)))


def _children(words: Sequence[str], prefix: str) -> str:
    return "".join(sorted({w[len(prefix)] for w in words if w.startswith(prefix) and len(w) > len(prefix)}))


def _begun(words: Sequence[str], prefix: str, *, whole: bool = False) -> Node:
    """How a word may go on after `prefix` and stop before it is one (`whole`: one may lie within a longer one)."""
    on = [
        cat(chars(c), _begun(words, prefix + c, whole=whole))
        for c in _children(words, prefix)
        if whole or prefix + c not in words
    ]
    on = [node for node in on if node != NOTHING]
    if prefix in words:
        return alt(*on) if on else NOTHING
    return optional(alt(*on)) if on else EMPTY


def _left(words: Sequence[str], prefix: str, *, avoid: str) -> Node:
    """How text may go on after `prefix` so that its last character leaves every word (and is not in `avoid`)."""
    children = _children(words, prefix)
    on = [
        cat(chars(c), _left(words, prefix + c, avoid=avoid))
        for c in children
        if not avoid or prefix + c not in words
    ]  # fmt: skip
    return alt(but(children + avoid), *on) if children else NOTHING


@lru_cache(maxsize=1 << 16)
def nullable(node: Node) -> bool:
    """Whether the empty string belongs."""
    match node:
        case Chars():
            return False
        case Cat(parts):
            return all(nullable(p) for p in parts)
        case Alt(parts):
            return any(nullable(p) for p in parts)
        case Repeat(inner, low, _):
            return low == 0 or nullable(inner)


def nonempty(node: Node) -> Node:
    """The same strings without the empty one."""
    if not nullable(node):
        return node
    match node:
        case Chars():
            return node
        case Alt(parts):
            return alt(*(n for p in parts if (n := nonempty(p)) != NOTHING))
        case Cat(parts):
            rests = (cat(nonempty(p), *parts[i + 1 :]) for i, p in enumerate(parts))
            return alt(*(r for r in rests if r != NOTHING))
        case Repeat(inner, low, high):
            return repeat(nonempty(inner), max(low, 1) if not nullable(inner) else 1, high)


def never(node: Node, character: str) -> bool:
    """Whether no string of `node` has `character` in it."""
    match node:
        case Chars(ranges):
            return not any(a <= ord(character) <= b for a, b in ranges)
        case Cat(parts) | Alt(parts):
            return all(never(p, character) for p in parts)
        case Repeat(inner, _, _):
            return never(inner, character)


@lru_cache(maxsize=1 << 16)
def derive(node: Node, point: int) -> Node:
    """What may follow the character `point`."""
    match node:
        case Chars(ranges):
            return EMPTY if any(a <= point <= b for a, b in ranges) else NOTHING
        case Alt(parts):
            return alt(*(d for p in parts if (d := derive(p, point)) != NOTHING))
        case Cat(parts):
            options = []
            for i, part in enumerate(parts):
                options.append(cat(derive(part, point), *parts[i + 1 :]))
                if not nullable(part):
                    break
            return alt(*(o for o in options if o != NOTHING))
        case Repeat(inner, low, high):
            rest = repeat(inner, max(low - 1, 0), None if high is None else high - 1)
            return cat(derive(inner, point), rest)


def firsts(node: Node) -> Iterator[tuple[int, int]]:
    """The ranges of the characters that may stand first."""
    match node:
        case Chars(ranges):
            yield from ranges
        case Alt(parts):
            for part in parts:
                yield from firsts(part)
        case Cat(parts):
            for part in parts:
                yield from firsts(part)
                if not nullable(part):
                    break
        case Repeat(inner, _, _):
            yield from firsts(inner)
