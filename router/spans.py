"""Strings that must be spans of the request: which there are, and which tokens spell them.

A span is a run of chunks (`chunks`), so it begins and ends with whole words, has no space at its ends and is not empty.
Only the request's own words can be decoded, so the tokens come from looking the request's pieces up in the vocabulary;
nothing is compiled per request.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from router.regular import UNWRITABLE
from router.tokenizer import RouterTokenizer
from router.wire_format import WireFormat

PIECE: Final = 32
"""Characters of the longest token that is looked for."""
_BYTE: Final = re.compile("<0x[0-9A-F]{2}>")


@dataclass(frozen=True)
class SpanKind:
    """How long a span may be, in characters."""

    low: int = 0
    high: int | None = None


@dataclass(frozen=True)
class Start:
    """Where spans may begin: they end at chunk ends from `first` to `last` (byte offsets, all of them)."""

    at: int
    first: int
    last: int


class Request:
    """A request cut into chunks."""

    def __init__(self, text: str, wire: WireFormat) -> None:
        self.data = text.encode()
        offsets = [0]
        for character in text:
            offsets.append(offsets[-1] + len(character.encode()))
        self._offsets = offsets
        """Byte offset of every character, and the end."""
        pieces = list(chunks(text))
        at = 0
        self._starts: list[int] = []
        ends: list[int] = []
        for piece in pieces:
            if not piece[0].isspace():
                self._starts.append(at)
            at += len(piece)
            if not piece[-1].isspace():
                ends.append(at)
        self._ends = ends
        self._end_offsets = [offsets[e] for e in ends]
        self.ends = frozenset(self._end_offsets)
        """Byte offsets at which a span may end."""
        self._barred = sorted(
            [(m.start(), m.end()) for m in wire.splitter.finditer(text)]
            + [(i, i + 1) for i, c in enumerate(text) if c in UNWRITABLE]
        )

    def starts(self, kind: SpanKind) -> list[Start]:
        """Where spans of `kind` may begin; none where the request offers none."""
        found = []
        for at in self._starts:
            longest = len(self._offsets) - 1 if kind.high is None else at + kind.high
            begun = bisect_left(self._barred, (at, 0))
            if begun < len(self._barred):
                # What cannot be written may not lie wholly within a span. A control token's spelling may be cut.
                longest = min([longest, *(end - 1 for _, end in self._barred[begun:])])
            low = bisect_left(self._ends, max(at + kind.low, at + 1))
            high = bisect_right(self._ends, longest) - 1
            if low <= high:
                offsets = self._offsets
                found.append(Start(offsets[at], offsets[self._ends[low]], offsets[self._ends[high]]))
        return found

    def next_end(self, offset: int) -> int:
        """The first byte offset from `offset` on at which a span may end."""
        return self._end_offsets[bisect_left(self._end_offsets, offset)]

    def boundary(self, offset: int) -> int | None:
        """The number of the character that begins at a byte offset, or None inside one."""
        number = bisect_left(self._offsets, offset)
        return number if number < len(self._offsets) and self._offsets[number] == offset else None

    def offset(self, number: int) -> int:
        """The byte offset of a character, or of the end for numbers past it."""
        return self._offsets[min(number, len(self._offsets) - 1)]


class SpanWalk:
    """Where one string stands among the request's spans. `finished` once the control token that ends it was taken."""

    def __init__(self, request: Request, kind: SpanKind, tokenizer: RouterTokenizer) -> None:
        self.finished = False
        self._request = request
        self._tokenizer = tokenizer
        self._escape = tokenizer.control_id("escape")
        self._done = b""
        self._ids: list[int] = []
        self._alive = request.starts(kind)
        self._found: dict[int, bytes] | None = None

    def options(self) -> dict[int, bytes]:
        """The tokens that may come next, and what each adds."""
        if self._found is None:
            self._found = self._options()
        return self._found

    def _options(self) -> dict[int, bytes]:
        found: dict[int, bytes] = {}
        size = len(self._done)
        for start in self._alive:
            at = start.at + size
            if self._may_end(start):
                found[self._escape] = b""
            if at < start.last:
                found.update(self._pieces(at, start.last))
        return found

    def forced(self) -> list[int]:
        """The tokens about which no span leaves a choice, spelled as the tokenizer spells whole strings."""
        size, data = len(self._done), self._request.data
        if any(self._may_end(s) for s in self._alive):
            return [] if any(s.at + size < s.last for s in self._alive) else [self._escape]
        if len({data[s.at + size] for s in self._alive}) != 1:
            return []
        first, *others = (self._tokenizer.encode_text(text) for text in self._following())
        for ids in others:
            first = first[: _common(first, ids)]
        known = len(self._ids)
        if first[:known] == self._ids and len(first) > known:
            return first[known:]
        options = list(self.options())
        return options if len(options) == 1 else []

    def allows(self, token: int) -> bool:
        """Whether `token` may come next: as `options`, without looking every other token up."""
        return self._adds(token) is not None

    def accept(self, token: int) -> bool:
        """Take `token`; False where it may not come next."""
        added = self._adds(token)
        if added is None:
            return False
        if token == self._escape:
            self.finished = True
            return True
        self._ids.append(token)
        self._done += added
        self._found = None
        data, size = self._request.data, len(self._done)
        self._alive = [s for s in self._alive if s.at + size <= s.last and data.startswith(self._done, s.at)]
        return True

    def _adds(self, token: int) -> bytes | None:
        """What `token` adds, or None where it may not come next."""
        if token == self._escape:
            return b"" if any(self._may_end(s) for s in self._alive) else None
        spelling = None if token in self._tokenizer.special_ids else self._tokenizer.raw.id_to_token(token)
        if spelling is None or len(spelling) > PIECE:
            return None
        if _BYTE.fullmatch(spelling):
            return self.options().get(token)
        piece = str(spelling).replace("\u2581", " ").encode()
        data, size = self._request.data, len(self._done)
        fits = (s.at + size + len(piece) <= s.last and data.startswith(piece, s.at + size) for s in self._alive)
        return piece if any(fits) else None

    def _may_end(self, start: Start) -> bool:
        at = start.at + len(self._done)
        return start.first <= at <= start.last and at in self._request.ends

    def _following(self) -> list[str]:
        """The strings that may stand here once all that the living starts agree on is written.

        Each living start gives the string that ends where it first may, and one that goes on for some characters: what
        all their spellings begin with is spelled so in every span.
        """
        request = self._request
        texts = []
        for start in self._alive:
            at = start.at + len(self._done)
            end = request.next_end(max(at, start.first))
            texts.append(request.data[start.at : end].decode())
            number = request.boundary(end)
            if end < start.last and number is not None:
                further = min(request.offset(number + PIECE), start.last)
                texts.append(request.data[start.at : further].decode())
        return list(dict.fromkeys(texts))

    def _pieces(self, at: int, last: int) -> Iterator[tuple[int, bytes]]:
        """The tokens that spell the request on from byte `at`, up to `last`."""
        request, raw = self._request, self._tokenizer.raw
        number = request.boundary(at)
        whole = False
        if number is not None:
            for length in range(1, PIECE + 1):
                end = request.offset(number + length)
                if end > last or (length > 1 and end == request.offset(number + length - 1)):
                    break
                piece = request.data[at:end]
                token = raw.token_to_id(piece.decode().replace(" ", "\u2581"))
                if token is not None and token not in self._tokenizer.special_ids:
                    whole = whole or length == 1
                    yield token, piece
        if not whole:
            token = raw.token_to_id(f"<0x{request.data[at]:02X}>")
            if token is not None:
                yield token, request.data[at : at + 1]


def chunks(text: str) -> Iterator[str]:
    """The pieces that spans are made of: words, runs of white space, single other characters.

    Marks and invisible joiners stay with what stands before them.
    """
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


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many ids two sequences begin with alike."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
