"""Keeps a free-form object from having a key twice, which no grammar without memory can.

What ends a key that stands already is not allowed. Nor is one begun that stands already, where the request says it
and nothing else that begins so: behind ``{alpha:2,`` no second "alpha" is begun, but "alphabet" is where the request
speaks of one, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from copy import copy
from typing import Final

from router.tokenizer import RouterTokenizer
from router.toolset import Schema, Toolset
from router.vocabulary import SPACE

_KEY, _VALUE, _STRING = range(3)
_STRUCTURE: Final = frozenset(b"{}[],:")
"""The bytes that open, close and part keys and values."""


class Spellings:
    """What the tokens of completions spell outside of strings, and the names that a toolset declares."""

    def __init__(self, toolset: Toolset, tokenizer: RouterTokenizer) -> None:
        self.vocabulary = tokenizer.vocabulary
        self.escape = tokenizer.control_id(tokenizer.wire.escape)
        self.start_call = tokenizer.control_id(tokenizer.wire.start_call)
        self.names = frozenset(name.encode() for tool in toolset for name in _names(tool.parameters))
        self._known: dict[int, tuple[bytes, bool]] = {}

    def of(self, token: int) -> tuple[bytes, bool]:
        """Its bytes, and whether there is any structure among them."""
        known = self._known.get(token)
        if known is None:
            text = self.vocabulary.spelling(token) or b""
            known = self._known[token] = text, not _STRUCTURE.isdisjoint(text)
        return known

    def byte(self, number: int) -> int | None:
        """The token of one byte of a character that has none of its own."""
        return self.vocabulary.find(f"<0x{number:02X}>")

    def find(self, text: bytes) -> int | None:
        """The token that spells that; None where there is none, or where it ends within a character."""
        try:
            return self.vocabulary.find(text.decode().replace(" ", SPACE))
        except UnicodeDecodeError:
            return None


def _names(schema: Schema) -> Iterator[str]:
    yield from schema.properties
    for part in (*schema.properties.values(), *([schema.items] if schema.items else [])):
        yield from _names(part)


class Keys:
    """The keys of the objects that are open where a completion stands."""

    def __init__(self, spellings: Spellings, request: str) -> None:
        self._spellings = spellings
        self._request = " ".join(re.findall(r"\w+", request))
        self._open: tuple[frozenset[bytes] | None, ...] = ()
        """The objects and, as None, lists within each other."""
        self._state = _VALUE
        self._key = b""

    def copy(self) -> Keys:
        return copy(self)

    def take(self, token: int) -> bool:
        """Go past a token; False where it ends a key that stands already."""
        spellings = self._spellings
        if token == spellings.escape:
            self._state = _VALUE if self._state == _STRING else _STRING
        elif token == spellings.start_call:
            self._open, self._state = (), _VALUE
        elif self._state != _STRING:
            text, structured = spellings.of(token)
            if structured:
                return all(self._step(text[at : at + 1]) for at in range(len(text)))
            if self._state == _KEY:
                self._key += text
        return True

    def allows(self, token: int) -> bool:
        """Whether `token` may come next, as far as keys are concerned."""
        if self._state == _STRING or not self._open:
            return True
        text, structured = self._spellings.of(token)
        if self._state == _VALUE and not (structured and b"," in text):
            return True
        ahead = self.copy()
        return ahead.take(token) and not ahead._repeats()

    def barred(self) -> list[int]:
        """Tokens that keys do not allow here: those that spell the beginning of one that stands, or end one. Others may
        not be allowed either."""
        if self._state == _STRING or not self._open or not self._open[-1]:
            return []
        before, begun = (b"", self._key) if self._state == _KEY else (b",", b"")
        rests = [key[len(begun) :] for key in self._open[-1] if key.startswith(begun)]
        texts = {rest[:end] for rest in rests for end in range(1, len(rest) + 1)}
        texts |= {rest + value for rest in rests for value in (b":", b":{", b":[")}
        found = [self._spellings.find(before + text) for text in texts]
        found += [self._spellings.byte(rest[0]) for rest in rests if rest and not before]
        return [token for token in found if token is not None and not self.allows(token)]

    def _step(self, byte: bytes) -> bool:
        if byte[0] not in _STRUCTURE:
            if self._state == _KEY:
                self._key += byte
        elif byte == b"{":
            self._open, self._state, self._key = (*self._open, frozenset()), _KEY, b""
        elif byte == b"[":
            self._open = (*self._open, None)
        elif byte in b"}]":
            self._open, self._state = self._open[:-1], _VALUE
        elif self._open and (keys := self._open[-1]) is not None:
            if byte == b",":
                self._state, self._key = _KEY, b""
            elif self._state == _KEY:
                self._open, self._state = (*self._open[:-1], keys | {self._key}), _VALUE
                return self._key not in keys
        return True

    def _repeats(self) -> bool:
        """Whether the key that is being written can only be one that stands already."""
        if self._state != _KEY or not self._key or not self._open or not self._open[-1]:
            return False
        return any(key.startswith(self._key) and not self._elsewhere(key) for key in self._open[-1])

    def _elsewhere(self, key: bytes) -> bool:
        """Whether what is written of `key` so far begins something else that is said or declared, or nothing such."""
        if any(name != key and name.startswith(self._key) for name in self._spellings.names):
            return True
        whole = rf"{_said(key)}(?= |$)"
        as_written = re.search(rf"\b{whole}", self._request) is not None
        entire = re.compile(whole, 0 if as_written else re.IGNORECASE)
        begun = re.finditer(rf"\b{_said(self._key)}", self._request, re.IGNORECASE)
        found = [entire.match(self._request, place.start()) is not None for place in begun]
        return not all(found) or not found


def _said(key: bytes) -> str:
    """An expression for how a key may be said: where it has marks, with them or with spaces."""
    parts = re.split(r"([\W_]+)", key.decode(errors="replace"))
    return "".join("[ _]" if at % 2 else re.escape(part) for at, part in enumerate(parts))
