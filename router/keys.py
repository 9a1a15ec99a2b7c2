"""Keeps a free-form object from having a key twice, which no grammar without memory can.

What ends a key that stands already is never allowed. Nor is one begun that stands already, where the request says it
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
_STRUCTURE: Final = frozenset("{}[],:")


class Spellings:
    """What the tokens of completions spell outside of strings, and the names that a toolset declares."""

    def __init__(self, toolset: Toolset, tokenizer: RouterTokenizer) -> None:
        self.vocabulary = tokenizer.vocabulary
        self.escape = tokenizer.control_id(tokenizer.wire.escape)
        self.start_call = tokenizer.control_id(tokenizer.wire.start_call)
        self.names = " ".join(sorted({name for tool in toolset for name in _names(tool.parameters)}))
        self._known: dict[int, tuple[str, bool]] = {}

    def of(self, token: int) -> tuple[str, bool]:
        """Its text, and whether that has any structure; bytes that are part of a character have none."""
        known = self._known.get(token)
        if known is None:
            text = (self.vocabulary.spelling(token) or b"").decode(errors="replace")
            known = self._known[token] = text, not _STRUCTURE.isdisjoint(text)
        return known

    def find(self, text: str) -> int | None:
        return self.vocabulary.find(text.replace(" ", SPACE))


def _names(schema: Schema) -> Iterator[str]:
    yield from schema.properties
    for part in (*schema.properties.values(), *([schema.items] if schema.items else [])):
        yield from _names(part)


class Keys:
    """The keys of the objects that are open where a completion stands."""

    def __init__(self, spellings: Spellings, request: str) -> None:
        self._spellings = spellings
        self._words = f"_{_joined(f'{request} {spellings.names}')}_"
        self._open: tuple[frozenset[str] | None, ...] = ()
        """The objects and, as None, lists within each other."""
        self._state = _VALUE
        self._key = ""

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
                return all(self._step(character) for character in text)
            if self._state == _KEY:
                self._key += text
        return True

    def allows(self, token: int) -> bool:
        """Whether `token` may come next, as far as keys are concerned."""
        if self._state == _STRING or not self._open:
            return True
        text, structured = self._spellings.of(token)
        if self._state == _VALUE and not (structured and "," in text):
            return True
        ahead = self.copy()
        return ahead.take(token) and not ahead._repeats()

    def barred(self) -> list[int]:
        """The tokens that keys do not allow here, of those that spell the beginning of one, or end one."""
        if self._state == _STRING or not self._open or not self._open[-1]:
            return []
        before, begun = ("", self._key) if self._state == _KEY else (",", "")
        rests = [key[len(begun) :] for key in self._open[-1] if key.startswith(begun)]
        texts = {rest[:end] for rest in rests for end in range(1, len(rest) + 1)}
        texts |= {f"{rest}:{value}" for rest in rests for value in ("", "{", "[")}
        found = (self._spellings.find(before + text) for text in texts)
        return [token for token in found if token is not None and not self.allows(token)]

    def _step(self, character: str) -> bool:
        if character not in _STRUCTURE:
            if self._state == _KEY:
                self._key += character
        elif character == "{":
            self._open, self._state, self._key = (*self._open, frozenset()), _KEY, ""
        elif character == "[":
            self._open = (*self._open, None)
        elif character in "}]":
            self._open, self._state = self._open[:-1], _VALUE
        elif self._open and (keys := self._open[-1]) is not None:
            if character == ",":
                self._state, self._key = _KEY, ""
            elif self._state == _KEY:
                self._open, self._state = (*self._open[:-1], keys | {self._key}), _VALUE
                return self._key not in keys
        return True

    def _repeats(self) -> bool:
        """Whether the key that is being written can only be one that stands already."""
        if self._state != _KEY or not self._key or not self._open or not self._open[-1]:
            return False
        return any(key.startswith(self._key) and not self._elsewhere(key) for key in self._open[-1])

    def _elsewhere(self, key: str) -> bool:
        """Whether what is written of `key` so far begins something else that is said or declared, or nothing such."""
        begun, whole = _joined(self._key), f"_{_joined(key)}_"
        places = (found.start() for found in re.finditer(re.escape(f"_{begun}"), self._words))
        said = [self._words.startswith(whole, place) for place in places]
        return not said or not all(said)


def _joined(text: str) -> str:
    """Words in lower case with underscores between them."""
    return re.sub(r"[\W_]+", "_", text.lower()).strip("_")
