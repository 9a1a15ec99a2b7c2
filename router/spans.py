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
        self._kind = kind
        self._leaps = kind.copying == "words"
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
        for place in self._alive:
            if self._may_end(place):
                found[self._escape] = b""
            if place.at < place.last:
                found.update(self._pieces(place))
            for further in self._onward(place, self._done):
                found.update(self._pieces(further, b" "))
        return found

    def forced(self) -> list[int]:
        """The tokens about which no span leaves a choice, spelled as the tokenizer spells whole strings."""
        onward = any(p.at < p.last or self._onward(p, self._done) for p in self._alive)
        if any(self._may_end(p) for p in self._alive):
            return [] if onward else [self._escape]
        if len({p.source.data[p.at] for p in self._alive if p.at < p.last}) > 1:
            return []  # whatever spells them, it is not one token
        if len({p.source.data[p.at] for p in self._alive}) == 1 and not any(
            self._onward(p, self._done) for p in self._alive
        ):
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
        place = self._alive[0]
        source, number = place.source, place.source.boundary(place.at)
        if place.at >= place.last or number is None:
            return None
        further = min(source.offset(number + PIECE), place.last)
        ids = self._tokenizer.encode_text((self._done + source.data[place.at : further]).decode())
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
        self._alive = list(
            {(id(p.source), p.at): p for q in self._alive for p in self._moved(q, added, self._done)}.values()
        )
        self._ids.append(token)
        self._done += added
        self._found = None
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
        return piece if any(True for place in self._alive for _ in self._moved(place, piece, self._done)) else None

    def _may_end(self, place: Start) -> bool:
        return place.first <= place.at <= place.last and place.at in place.source.ends

    def _moved(self, place: Start, piece: bytes, done: bytes) -> Iterator[Start]:
        """Where a string may stand that is `done` and stands at `place`, once `piece` is written behind it."""
        data = place.source.data
        if place.at + len(piece) <= place.last and data.startswith(piece, place.at):
            yield place._replace(at=place.at + len(piece))
        if self._leaps and b" " in piece:
            word, space, rest = piece.partition(b" ")
            if data.startswith(word, place.at):
                for further in self._onward(place._replace(at=place.at + len(word)), done + word):
                    yield from self._moved(further, rest, done + word + space)

    def _onward(self, place: Start, done: bytes) -> list[Start]:
        """Where words go on behind a space, once a string is `done` and stands at `place`."""
        if not self._leaps or place.at > place.last or place.at not in place.source.ends:
            return []
        if not done or done.endswith(b" "):
            return []
        low, high = self._kind.low, self._kind.high
        if low > 1 or high is not None:
            written = len(done.decode()) + 1
            low, high = low - written, None if high is None else high - written
        return place.source.behind(place.at, low, high)

    def _following(self) -> list[str]:
        """The strings that may stand here once all that the living places agree on is written.

        Each living place gives the string that ends where it first may, and one that goes on for some characters: what
        all their spellings begin with is spelled so in every span.
        """
        texts = []
        for place in self._alive:
            source = place.source
            end = source.next_end(place.at if self._leaps else max(place.at, place.first))
            texts.append(self._done + source.data[place.at : end])
            number = source.boundary(end)
            if end < place.last and number is not None:
                further = min(source.offset(number + PIECE), place.last)
                texts.append(self._done + source.data[place.at : further])
        return list(dict.fromkeys(text.decode() for text in texts))

    def _pieces(self, place: Start, before: bytes = b"") -> Iterator[tuple[int, bytes]]:
        """The tokens that spell `before` and a source on from `place`, as far as its string may go."""
        source, vocabulary = place.source, self._tokenizer.vocabulary
        number = source.boundary(place.at)
        whole = False
        if number is not None:
            last = min(source.offset(number + PIECE - len(before)), place.last)
            text = (before + source.data[place.at : last]).decode()
            spelled = text.replace(" ", SPACE)
            for length in range(1, vocabulary.reach(spelled) + 1):
                token = vocabulary.find(spelled[:length])
                if token is not None and token not in self._tokenizer.special_ids:
                    whole = whole or length == 1 or bool(before)
                    yield token, text[:length].encode()
        if not whole:
            byte = (before or source.data[place.at :])[:1]
            token = vocabulary.find(f"<0x{byte[0]:02X}>")
            if token is not None:
                yield token, byte


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many ids two sequences begin with alike."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
