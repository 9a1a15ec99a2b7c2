"""Strings that are copied from the request (`router.request`): which tokens spell them.

Only the request's own words can be decoded, so the tokens come from looking the request's pieces up in the vocabulary;
nothing is compiled per request.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from typing import Final

from router.request import Request, SpanKind, Start
from router.tokenizer import RouterTokenizer
from router.vocabulary import SPACE

PIECE: Final = 32
"""Characters of the longest token that is looked for."""


class SpanWalk:
    """Where a copied string stands. `finished` once the control token that ends it was taken."""

    def __init__(self, request: Request, kind: SpanKind, tokenizer: RouterTokenizer) -> None:
        self.finished = False
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
                found.update(self._pieces(start, at))
        return found

    def forced(self) -> list[int]:
        """The tokens about which no span leaves a choice, spelled as the tokenizer spells whole strings."""
        size = len(self._done)
        if any(self._may_end(s) for s in self._alive):
            return [] if any(s.at + size < s.last for s in self._alive) else [self._escape]
        if len({s.source.data[s.at + size] for s in self._alive}) != 1:
            return []
        first, *others = (self._tokenizer.encode_text(text) for text in self._following())
        for ids in others:
            first = first[: _common(first, ids)]
        known = len(self._ids)
        if first[:known] == self._ids and len(first) > known:
            return first[known:]
        options = list(self.options())
        return options if len(options) == 1 else []

    def copy(self) -> SpanWalk:
        """Another walk that stands where this one does."""
        other = copy(self)
        other._ids = list(self._ids)
        return other

    @property
    def length(self) -> int:
        """Tokens taken so far."""
        return len(self._ids)

    def likely(self) -> int | None:
        """The token with which the first of the living spans goes on; None where it ends."""
        known = len(self._ids)
        start = self._alive[0]
        source, end = start.source, start.at + len(self._done)
        number = source.boundary(end)
        if end >= start.last or number is None:
            return None
        further = min(source.offset(number + PIECE), start.last)
        ids = self._tokenizer.encode_text(source.data[start.at : further].decode())
        return ids[known] if ids[:known] == self._ids and len(ids) > known else None

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
        size = len(self._done)
        self._alive = [s for s in self._alive if s.at + size <= s.last and s.source.data.startswith(self._done, s.at)]
        return True

    def _adds(self, token: int) -> bytes | None:
        """What `token` adds, or None where it may not come next."""
        if token == self._escape:
            return b"" if any(self._may_end(s) for s in self._alive) else None
        vocabulary = self._tokenizer.vocabulary
        spelling = None if token in self._tokenizer.special_ids else vocabulary.piece(token)
        if spelling is None or len(spelling) > PIECE:
            return None
        if token in vocabulary.byte_of:
            return self.options().get(token)
        piece = spelling.replace(SPACE, " ").encode()
        size = len(self._done)
        for s in self._alive:
            if s.at + size + len(piece) <= s.last and s.source.data.startswith(piece, s.at + size):
                return piece
        return None

    def _may_end(self, start: Start) -> bool:
        at = start.at + len(self._done)
        return start.first <= at <= start.last and at in start.source.ends

    def _following(self) -> list[str]:
        """The strings that may stand here once all that the living starts agree on is written.

        Each living start gives the string that ends where it first may, and one that goes on for some characters: what
        all their spellings begin with is spelled so in every span.
        """
        texts = []
        for start in self._alive:
            source = start.source
            at = start.at + len(self._done)
            end = source.next_end(max(at, start.first))
            texts.append(source.data[start.at : end].decode())
            number = source.boundary(end)
            if end < start.last and number is not None:
                further = min(source.offset(number + PIECE), start.last)
                texts.append(source.data[start.at : further].decode())
        return list(dict.fromkeys(texts))

    def _pieces(self, start: Start, at: int) -> Iterator[tuple[int, bytes]]:
        """The tokens that spell a source on from byte `at`, as far as the strings from `start` may go."""
        source, find = start.source, self._tokenizer.vocabulary.find
        number = source.boundary(at)
        whole = False
        if number is not None:
            for length in range(1, PIECE + 1):
                end = source.offset(number + length)
                if end > start.last or (length > 1 and end == source.offset(number + length - 1)):
                    break
                piece = source.data[at:end]
                token = find(piece.decode().replace(" ", SPACE))
                if token is not None and token not in self._tokenizer.special_ids:
                    whole = whole or length == 1
                    yield token, piece
        if not whole:
            token = find(f"<0x{source.data[at]:02X}>")
            if token is not None:
                yield token, source.data[at : at + 1]


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many ids two sequences begin with alike."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
