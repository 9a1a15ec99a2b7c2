"""What a string may copy from a request: its spans as they stand, its words in their order, its names in snake case, or
the days and times that its words may mean (`router.dates`).

A span is a run of chunks (`chunks`), so it begins and ends with whole words or addresses, has no space at its ends and
is not empty.
Words are one span or several, in the request's order, with a space between them ("a call on Friday with Jonas" has
"a call with Jonas").
A name is a span without white space as it stands ("fetch_rates", "README.md") or, where it is merely a capitalised
word, in lower case ("Firewall" gives ``firewall`` too), or several words in lower case with underscores between them
("load balancer primer" gives ``load_balancer_primer``).
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property, lru_cache
from itertools import accumulate
from typing import Final, Literal, NamedTuple

from router.dates import dates, datetimes, times
from router.regular import UNWRITABLE
from router.toolset import MOMENTS, Copying
from router.wire_format import WireFormat

_PARTING: Final = frozenset(',;:?!"“”„()[]{}<>`')
"""Marks that no name of several words goes across."""
_UNWRITABLE: Final = frozenset(UNWRITABLE)
_ASCII_CHUNK: Final = re.compile(r"[A-Za-z0-9_]+|[\t-\r\x1c-\x20]+|[^\w\s]", re.ASCII)
"""`chunks` of what is wholly ASCII, where nothing joins."""
_ADDRESS: Final = re.compile(r"\w[\w.+-]*@\w[\w-]*(?:\.\w[\w-]*)+|\bhttps?://[^\s<>\"']*[\w/]", re.ASCII)
"""What no string is copied a part of."""


@dataclass(frozen=True)
class SpanKind:
    """How long a copied string may be, in characters, how it is copied, and what may stand besides."""

    low: int = 0
    high: int | None = None
    copying: Copying | Literal["span_or_name"] = "span"
    also: tuple[str, ...] = ()


class Start(NamedTuple):
    """Where strings may begin, or go on, in a source: they end at its ends from `first` to `last` (byte offsets)."""

    source: Source
    at: int
    first: int
    last: int


class Request:
    """A request, and what strings of each kind may be copied from it. `today` is what its days are counted from."""

    def __init__(self, text: str, wire: WireFormat, today: date | None = None) -> None:
        self._text = text
        self._wire = wire
        self._today = today
        self._starts: dict[SpanKind, list[Start]] = {}

    def offers(self, kind: SpanKind) -> bool:
        """Whether there is any string of `kind`."""
        return bool(kind.also) or next(self._found(kind), None) is not None

    def starts(self, kind: SpanKind) -> list[Start]:
        """Where strings of `kind` may begin; none where the request offers none."""
        if kind not in self._starts:
            self._starts[kind] = list(self._found(kind))
        return self._starts[kind]

    def _found(self, kind: SpanKind) -> Iterator[Start]:
        fixed = kind.also
        if kind.copying in MOMENTS:
            fixed = (*self._moments(kind.copying), *fixed)
        elif kind.copying != "snake_case":
            yield from self._spoken.starts(kind.low, kind.high)
        if kind.copying == "snake_case":
            yield from self._spoken.starts(kind.low, kind.high, words="one")
        if kind.copying in ("snake_case", "span_or_name"):
            fixed = (*self._uncapitalised(kind.low, kind.high), *fixed)
            yield from self._joined.starts(kind.low, kind.high, words="several")
        for value in fixed:
            source = _fixed(value, self._wire)
            yield Start(source, 0, len(source.data), len(source.data))

    def _moments(self, copying: str) -> tuple[str, ...]:
        """What the request's words may mean; no days where nothing says which is today's."""
        if copying == "time":
            return times(self._text)
        if self._today is None:
            return ()
        return (dates if copying == "date" else datetimes)(self._text, self._today)

    def _uncapitalised(self, low: int, high: int | None) -> Iterator[str]:
        for number, piece in enumerate(self._pieces):
            word = piece.lower()
            fits = low <= len(word) and (high is None or len(word) <= high)
            if fits and _merely_capitalised(self._pieces, number):
                yield word

    @cached_property
    def _pieces(self) -> list[str]:
        return list(chunks(self._text))

    @cached_property
    def _spoken(self) -> Source:
        return Source(self._pieces, self._pieces, self._wire)

    @cached_property
    def _joined(self) -> Source:
        written = ["_" if p.isspace() else p.lower() for p in self._pieces]
        return Source(self._pieces, written, self._wire, parted=True)


class Source:
    """A text in chunks, whose runs strings are copied from: the `pieces` of a request, and how they are `written`.

    `parted`: no run goes across a mark that parts words, or across one that stands alone.
    """

    def __init__(
        self, pieces: Sequence[str], written: Sequence[str], wire: WireFormat, *, parted: bool = False
    ) -> None:
        text = "".join(written)
        self.data = text.encode()
        self._offsets: Sequence[int] = range(len(text) + 1)
        """Byte offset of every character, and the end."""
        if not text.isascii():
            self._offsets = [0, *accumulate(len(character.encode()) for character in text)]
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._spaces: list[int] = []
        barred = [(m.start(), m.end()) for m in wire.splitter.finditer(text)]
        if not _UNWRITABLE.isdisjoint(text):
            barred += [(i, i + 1) for i, c in enumerate(text) if c in UNWRITABLE]
        at = 0
        for number, (piece, form) in enumerate(zip(pieces, written, strict=True)):
            if parted and _parts(pieces, number):
                barred.append((at, at + len(form)))
            if piece[0].isspace():
                self._spaces.append(at)
            else:
                self._starts.append(at)
            at += len(form)
            if not piece[-1].isspace():
                self._ends.append(at)
        self._barred = sorted(barred)
        self._end_offsets = [self._offsets[e] for e in self._ends]
        self.ends = frozenset(self._end_offsets)
        """Byte offsets at which a string may end."""

    def starts(self, low: int, high: int | None, *, words: Literal["any", "one", "several"] = "any") -> Iterator[Start]:
        """Where strings of `low` to `high` characters may begin, of as many `words` as are parted by white space."""
        for at in self._starts:
            shortest, longest = max(at + low, at + 1), len(self._offsets) - 1 if high is None else at + high
            begun = bisect_left(self._barred, (at, 0))
            if begun < len(self._barred):
                # What cannot be written may not lie wholly within a string. A control token's spelling may be cut.
                longest = min([longest, *(end - 1 for _, end in self._barred[begun:])])
            if words != "any":
                space = bisect_left(self._spaces, at)
                parting = self._spaces[space] if space < len(self._spaces) else len(self._offsets)
                shortest, longest = (shortest, min(longest, parting)) if words == "one" else (parting + 1, longest)
            first = bisect_left(self._ends, shortest)
            last = bisect_right(self._ends, longest) - 1
            if first <= last:
                yield Start(self, self._offsets[at], self._end_offsets[first], self._end_offsets[last])

    def behind(self, offset: int, low: int, high: int | None) -> list[Start]:
        """`starts` behind a byte offset."""
        if low > 1 or high is not None:
            return [start for start in self.starts(low, high) if start.at > offset]
        return self._all[bisect_right(self._all, offset, key=lambda start: start.at) :]

    @cached_property
    def _all(self) -> list[Start]:
        return list(self.starts(0, None))

    def next_end(self, offset: int) -> int:
        """The first byte offset from `offset` on at which a string may end."""
        return self._end_offsets[bisect_left(self._end_offsets, offset)]

    def boundary(self, offset: int) -> int | None:
        """The number of the character that begins at a byte offset, or None inside one."""
        number = bisect_left(self._offsets, offset)
        return number if number < len(self._offsets) and self._offsets[number] == offset else None

    def offset(self, number: int) -> int:
        """The byte offset of a character, or of the end for numbers past it."""
        return self._offsets[min(number, len(self._offsets) - 1)]


@lru_cache(maxsize=1024)
def _fixed(value: str, wire: WireFormat) -> Source:
    return Source([value], [value], wire)


def chunks(text: str) -> Iterator[str]:
    """The pieces that spans are made of: addresses (mail, web), words, runs of white space, single other characters.

    Marks and invisible joiners stay with what stands before them.
    """
    at = 0
    if "@" in text or "://" in text:
        for address in _ADDRESS.finditer(text):
            yield from _chunks(text[at : address.start()])
            yield address[0]
            at = address.end()
    yield from _chunks(text[at:])


def _chunks(text: str) -> Iterator[str]:
    if text.isascii():
        yield from _ASCII_CHUNK.findall(text)
        return
    chunk, kind = "", ""
    for character in text:
        category = unicodedata.category(character)
        now = "word" if character.isalnum() or character == "_" else "space" if character.isspace() else ""
        joins = category[0] == "M" or category == "Cf"
        if chunk and (joins or (now and now == kind)):
            chunk += character
            continue
        if chunk:
            yield chunk
        chunk, kind = character, now
    if chunk:
        yield chunk


def _merely_capitalised(pieces: Sequence[str], number: int) -> bool:
    """Whether this chunk is a word that stands alone ("Runner", not "Runner.py"), capitalised as any word may be."""
    piece = pieces[number]
    if not piece.isalpha() or not (piece.isupper() or piece.istitle()):
        return False
    before, after = [" ", *pieces[max(number - 2, 0) : number]][::-1][:2], [*pieces[number + 1 : number + 3], " "][:2]
    return all(side[0][0].isspace() or (not side[0][0].isalnum() and side[-1][0].isspace()) for side in (before, after))


def _parts(pieces: Sequence[str], number: int) -> bool:
    """Whether a name of several words cannot go across this chunk: a comma, a dash between spaces."""
    piece = pieces[number]
    if piece[0].isspace() or piece[0].isalnum() or piece[0] == "_":
        return False
    around = (*pieces[max(number - 1, 0) : number], *pieces[number + 1 : number + 2])
    return piece[0] in _PARTING or all(p[0].isspace() for p in around)
