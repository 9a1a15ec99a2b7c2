"""A walk through a compiled grammar, and what walks before it have learnt.

Behind the same tokens a grammar is at the same place, and most requests come by the same few: which tool, which of its
parameters, which of an enumeration. So what a grammar forces at a place and which tokens lead on from there is asked of
llguidance once and remembered; a walk calls on it only where none has been, and then takes it along what it passed.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from router.tokenizer import RouterTokenizer
from runtimes.errors import UserError

if TYPE_CHECKING:
    from llguidance import LLMatcher

Ids = npt.NDArray[np.intp]

_MOST: Final = 8192
"""Places that are remembered of one grammar; one takes half a kilobyte,"""
_FEW: Final = 128
"""and a kilobyte more where it was asked which tokens lead on and those are no more than so many."""


class GrammarError(UserError):
    """A grammar that cannot be compiled, or one that cannot go on (too complex a pattern, a limit of llguidance)."""


@dataclass(slots=True)
class Place:
    """A place in a grammar: whether the completion is complete there, and what is known of it so far."""

    stopped: bool
    forced: Forced | None = None
    next: dict[int, Place | None] = field(default_factory=dict)
    """Where tokens lead to; None for one that is not allowed."""
    ids: Ids | None = None
    """All that are allowed, where that was asked and they are few."""


class Forced(NamedTuple):
    """What a grammar leaves no choice about."""

    ids: tuple[int, ...]
    kind: int | None
    """Of the string that is copied from the request behind `ids`; None where none is."""
    walked: tuple[int, ...]
    """`ids` and the mark that stands for such a string."""
    place: Place


class Places:
    """A compiled grammar and the places in it that walks have been at.

    The bos token marks where a string is copied from the request: behind it stand the number of the kind of string and
    the control token that ends the string.
    """

    def __init__(self, compiled: LLMatcher, tokenizer: RouterTokenizer) -> None:
        self.compiled = compiled
        self.tokenizer = tokenizer
        self.bos, self.escape = tokenizer.bos_id, tokenizer.control_id("escape")
        self._first = Place(bool(compiled.is_stopped()))
        self._count = 1

    def walk(self) -> Walk:
        """A walk that stands at the beginning."""
        return Walk(self, self._first)

    def new(self, stopped: bool) -> Place:
        """A place that no walk has been at. Where there are too many, all are forgotten; walks keep theirs."""
        self._count += 1
        if self._count > _MOST:
            self._first = Place(self._first.stopped)
            self._count = 2
        return Place(stopped)


class Walk:
    """Where one completion stands in a grammar, outside of strings that are copied. Not thread-safe."""

    def __init__(self, places: Places, place: Place) -> None:
        self._places = places
        self._place = place
        self._matcher: LLMatcher | None = None
        self._ahead: list[int] = []
        """Tokens that the walk has passed and llguidance has not."""

    def copy(self) -> Walk:
        """Another walk that stands where this one does."""
        other = copy(self)
        other._matcher = None if self._matcher is None else self._matcher.deep_copy()
        other._ahead = list(self._ahead)
        return other

    @property
    def stopped(self) -> bool:
        """Whether the completion is complete, its stop included."""
        return self._place.stopped

    def forced(self) -> Forced:
        """What the grammar leaves no choice about, walked past already. Nothing where there is a choice."""
        found = self._place.forced
        if found is None:
            place, found = self._place, self._force()
            place.forced = found
        else:
            self._ahead += found.walked
        self._place = found.place
        return found

    def allows(self, token: int) -> bool:
        """Whether `token` may come next."""
        if token in self._place.next:
            return self._place.next[token] is not None
        # An id past the vocabulary (models have more rows than tokens) would put the walk into its error state.
        return bool(token < self._places.tokenizer.vocab_size and self._native.validate_tokens([token]) == 1)

    def take(self, token: int) -> bool:
        """Walk past `token` if it may come next; whether it did."""
        following = self._place.next
        if token in following:
            place = following[token]
            if place is not None:
                self._ahead.append(token)
        else:
            place = None
            if token < self._places.tokenizer.vocab_size and self._native.try_consume_tokens([token]) == 1:
                place = self._places.new(bool(self._native.is_stopped()))
            following[token] = place
        if place is None:
            return False
        self._place = place
        return True

    def ids(self, most: int) -> Ids | None:
        """The tokens that may come next, ascending; None where they lie in more than `most` words of `bits`."""
        ids = self._place.ids
        if ids is None:
            ids = set_bits(self.bits(), most)
            if ids is not None and len(ids) <= _FEW:
                self._place.ids = ids
        return ids

    def bits(self) -> npt.NDArray[np.uint8]:
        """For each token of the vocabulary, eight to a byte and whole words of 32, whether it may come next."""
        bits = np.frombuffer(self._native.compute_bitmask(), dtype=np.uint8)
        self.check()
        return bits

    def check(self) -> None:
        """Raise `GrammarError` where llguidance could not go on."""
        if self._matcher is not None and self._matcher.is_error():
            raise GrammarError(f"the grammar cannot go on: {line(self._matcher.get_error())}")

    @property
    def _native(self) -> LLMatcher:
        """llguidance's own walk, standing where this one does."""
        if self._matcher is None:
            self._matcher = self._places.compiled.deep_copy()
        if self._ahead:
            ids, self._ahead = self._ahead, []
            self._consume(self._matcher, ids)
        return self._matcher

    def _consume(self, matcher: LLMatcher, ids: Sequence[int]) -> None:
        if not matcher.consume_tokens(list(ids)):
            self.check()
            raise GrammarError(f"the grammar does not allow the tokens {list(ids)}")

    def _force(self) -> Forced:
        matcher, places = self._native, self._places
        ids: list[int] = []
        walked: list[int] = []
        kind = None
        while kind is None and not matcher.is_stopped():
            more = matcher.compute_ff_tokens()
            self.check()
            more = more or self._only(matcher)
            if not more:
                break
            if places.bos in more:
                mark = more.index(places.bos)
                end = more.index(places.escape, mark)
                kind = int(places.tokenizer.decode(more[mark + 1 : end]))
                ids += more[:mark]
                more = more[:end]
            else:
                ids += more
            self._consume(matcher, more)
            walked += more
        place = places.new(bool(matcher.is_stopped())) if walked else self._place
        return Forced(tuple(ids), kind, tuple(walked), place)

    def _only(self, matcher: LLMatcher) -> list[int]:
        """The one token that spells a forced byte, where no other does; no choice of tokens is left then."""
        if not matcher.compute_ff_bytes():
            return []
        ids = set_bits(self.bits(), 1)
        return [] if ids is None or len(ids) != 1 else [int(ids[0])]


def set_bits(bits: npt.NDArray[np.uint8], most: int) -> Ids | None:
    """The numbers of the bits that are set, ascending; None where they lie in more than `most` words, unread."""
    words = np.flatnonzero(bits.view(np.uint32))
    if len(words) > most:
        return None
    found = np.unpackbits(bits.reshape(-1, 4)[words], axis=1, bitorder="little")
    at, offset = np.nonzero(found)
    return words[at] * 32 + offset


def line(text: str) -> str:
    """The first line of a message, which for llguidance goes on with its state."""
    return text.strip().splitlines()[0] if text.strip() else "no reason given"
