"""A Gemma tokenizer's vocabulary and merges as flat arrays, which a process maps instead of building them.

Read by the `tokenizers` library 262,144 pieces take hundreds of megabytes and seconds; here only the pages that a
request touches become memory. Encoding is byte pair encoding as that library does it (its ``models/bpe/word.rs``): of
all neighbours that merge, those of the lowest rank, the leftmost first. A word is merged once and then remembered.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from heapq import heapify, heappop, heappush
from typing import Final
from zlib import crc32

SPACE: Final = "▁"
"""How a piece spells a space."""

_BYTE: Final = re.compile(r"<0x([0-9A-F]{2})>")
_WORDS: Final = 1 << 14
_LONGEST: Final = 48
"""How many words are remembered, and of how many characters at most."""


@dataclass(frozen=True)
class Arrays:
    """What a vocabulary consists of; unsigned 32-bit numbers but for `text`, whose memory may be a file's.

    Piece `i` is ``text[ends[i]:ends[i + 1]]`` in UTF-8; nothing where there is no such token. `slots` is a hash table
    by `slot_of`, a power of two long, of ids + 1, a free slot 0, the next slot tried where one is taken. The merges
    whose left half is token `i` lie at ``starts[i]:starts[i + 1]``, ascending by their right half: `rights`, `ranks`
    and what they make, `made`.
    """

    slots: memoryview
    ends: memoryview
    starts: memoryview
    rights: memoryview
    ranks: memoryview
    made: memoryview
    text: memoryview


@dataclass(frozen=True)
class Facts:
    """What else there is to know of a tokenizer."""

    special: frozenset[int]
    """Added tokens that only control, never text, becomes."""
    added: Mapping[str, int]
    """Added tokens that text becomes wherever it spells them."""
    foreign: frozenset[int]
    """Added tokens that the model's own vocabulary lacks."""
    joints: str
    """The characters behind which a piece goes on with a space; behind all others a space begins a new word."""


class Vocabulary:
    """Pieces, ids, and the ids of text. Read-only but for what it remembers."""

    def __init__(self, arrays: Arrays, facts: Facts) -> None:
        self._arrays = arrays
        self.facts = facts
        self.size = len(arrays.ends) - 1
        """Ids are below this."""
        joints = "".join(re.escape(c) for c in (SPACE, *facts.joints))
        self._words = re.compile(f"(?<=[^{joints}])(?={SPACE})")
        controls = [self.piece(token) or "" for token in facts.special]
        spelled = sorted(map(re.escape, (*facts.added, *controls)), key=len, reverse=True)
        self._added = re.compile("|".join(spelled)) if facts.added else None
        self._known: dict[str, tuple[int, ...]] = {}
        self._characters: dict[str, tuple[int, ...]] = {}

    def piece(self, token: int) -> str | None:
        """How the tokenizer spells an id, spaces as `SPACE`; None where there is no such token."""
        data = self._raw(token)
        return data.decode() if data else None

    def spelling(self, token: int) -> bytes | None:
        """The bytes that an id stands for; None where there is no such token."""
        data = self._raw(token)
        if not data:
            return None
        byte = self.byte_of.get(token)
        return data.replace(_SPACE, b" ") if byte is None else byte

    def find(self, piece: str) -> int | None:
        """The id of a piece, None where there is none."""
        data = piece.encode()
        arrays = self._arrays
        text, ends, slots = arrays.text, arrays.ends, arrays.slots
        slot = slot_of(data, len(slots))
        while entry := slots[slot]:
            if text[ends[entry - 1] : ends[entry]] == data:
                return int(entry - 1)
            slot = (slot + 1) & (len(slots) - 1)
        return None

    def reach(self, text: str) -> int:
        """How many characters of `text`, spaces as `SPACE`, one token can spell at most: as far as words are parted."""
        parted = self._words.search(text)
        return len(text) if parted is None else parted.start()

    @cached_property
    def byte_of(self) -> dict[int, bytes]:
        """The tokens that stand for a single byte, whatever character it is part of."""
        return {token: bytes([n]) for n, token in enumerate(self._bytes)}

    def encode(self, text: str) -> list[int]:
        """Ids of text in which nothing is special. Raises `UnicodeEncodeError` for half a surrogate pair.

        The spelling of a control token is text like any other, but no added token begins within it.
        """
        added = self.facts.added
        ids: list[int] = []
        start = 0
        for found in () if self._added is None else self._added.finditer(text):
            if (token := added.get(found[0])) is not None:
                self._plain(text[start : found.start()], ids)
                ids.append(token)
                start = found.end()
        self._plain(text[start:], ids)
        return ids

    def _plain(self, text: str, ids: list[int]) -> None:
        """Add the ids of text without added tokens."""
        if text:
            for word in self._words.split(text.replace(" ", SPACE)):
                ids += self._word(word)

    def _word(self, word: str) -> tuple[int, ...]:
        known = self._known.get(word)
        if known is None:
            known = self._merged([token for character in word for token in self._character(character)])
            if len(word) <= _LONGEST:
                if len(self._known) >= _WORDS:
                    self._known.clear()
                self._known[word] = known
        return known

    def _character(self, character: str) -> tuple[int, ...]:
        """Its own token, or those of its bytes."""
        known = self._characters.get(character)
        if known is None:
            token = self.find(character)
            if token is None or token in self.facts.foreign:
                known = tuple(self._bytes[byte] for byte in character.encode())
            else:
                known = (token,)
            if len(self._characters) < _WORDS:
                self._characters[character] = known
        return known

    def _merged(self, ids: list[int]) -> tuple[int, ...]:
        count = len(ids)
        before, behind = list(range(-1, count - 1)), list(range(1, count + 1))
        queue = [found for at in range(count - 1) if (found := self._pair(at, ids[at], ids[at + 1])) is not None]
        heapify(queue)
        while queue:
            _, at, left, right, made = heappop(queue)
            other = behind[at]
            if ids[at] != left or other == count or ids[other] != right:
                continue  # one of the two has merged since
            ids[at], ids[other] = made, _GONE
            following = behind[at] = behind[other]
            if following < count:
                before[following] = at
                found = self._pair(at, made, ids[following])
                if found is not None:
                    heappush(queue, found)
            if at and (found := self._pair(before[at], ids[before[at]], made)) is not None:
                heappush(queue, found)
        return tuple(token for token in ids if token != _GONE)

    def _pair(self, at: int, left: int, right: int) -> tuple[int, int, int, int, int] | None:
        """A merge in the order in which merges are made: its rank, where, of what, and what it makes."""
        arrays = self._arrays
        end = arrays.starts[left + 1]
        found = bisect_left(arrays.rights, right, arrays.starts[left], end)
        if found == end or arrays.rights[found] != right:
            return None
        return arrays.ranks[found], at, left, right, arrays.made[found]

    @cached_property
    def _bytes(self) -> Sequence[int]:
        """The tokens of the 256 bytes."""
        return [token for n in range(256) if (token := self.find(f"<0x{n:02X}>")) is not None]

    def _raw(self, token: int) -> bytes | None:
        ends = self._arrays.ends
        return bytes(self._arrays.text[ends[token] : ends[token + 1]]) if 0 <= token < self.size else None


def slot_of(piece: bytes, slots: int) -> int:
    """Where a piece is looked for first, of so many slots (a power of two)."""
    return crc32(piece) & (slots - 1)


_SPACE: Final = SPACE.encode()
_GONE: Final = -1


__all__ = ["SPACE", "Arrays", "Facts", "Vocabulary", "slot_of"]
