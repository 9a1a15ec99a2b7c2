"""Why a request took its forward passes: the request itself, a fork of the grammar, a string or a number.

A pass is made for the first decision behind it, and what that decides is read off the completion: where its token
stands, and what the toolset's schema says of the place. The first pass is the request's, whatever it decides, since
the user's words have to be read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final, Literal, NamedTuple, get_args

from router.tokenizer import RouterTokenizer
from router.toolset import Schema, Toolset

Cause = Literal["request", "fork", "string", "number"]
CAUSES: Final[tuple[Cause, ...]] = get_args(Cause)
"""``request``: the user's turn; ``fork``: the grammar leaves few alternatives (which tool, which value of an
enumeration, whether an optional argument or another item follows); ``string``, ``number``: a token of a value, its end
included."""

_NUMERIC: Final = ("integer", "number")
_OPENING, _CLOSING = b"{[", b"}]"
_SIGNS: Final = b"+-0123456789"


class _Level(NamedTuple):
    """An object or a list that is open: its schema, where one is known, and whether it has keys."""

    schema: Schema | None
    keyed: bool


class Trace:
    """Where a completion stands: in which value of which tool."""

    def __init__(self, tokenizer: RouterTokenizer, toolset: Toolset) -> None:
        self._tokenizer = tokenizer
        self._toolset = toolset
        self._escape = tokenizer.control_id("escape")
        self._levels: list[_Level] = []
        self._word = bytearray()
        """Outside strings, what stands behind the last bracket, colon or comma."""
        self._value: Schema | None = None
        self._in_value = self._in_string = False

    def cause(self) -> Cause:
        """Of a decision about the next token."""
        level, value = self._levels[-1] if self._levels else None, self._value
        if self._in_string:
            return "fork" if value is not None and value.enum is not None else "string"
        if level is None:
            return "fork"
        if not self._in_value:  # a key, or whether one follows
            return "string" if self._word and (level.schema is None or level.schema.additional) else "fork"
        if value is None:  # in an object of any form
            return "number" if self._word[:1] and self._word[0] in _SIGNS else "fork"
        return "number" if value.type in _NUMERIC and value.enum is None else "fork"

    def add(self, token: int) -> None:
        """Follow a token."""
        if token == self._escape:
            self._in_string = not self._in_string
            if not self._in_string:
                self._in_value = False
        elif token in self._tokenizer.special_ids:
            self._levels.clear()
            self._word.clear()
            self._in_value = self._in_string = False
        elif not self._in_string:
            for byte in self._tokenizer.spelling(token):
                self._follow(byte)

    def _follow(self, byte: int) -> None:
        level = self._levels[-1] if self._levels else None
        if byte in _OPENING:
            self._open(keyed=byte == _OPENING[0])
        elif byte in _CLOSING and level is not None:
            self._levels.pop()
            self._in_value = False
        elif byte == ord(":") and level is not None and level.keyed:
            known = level.schema.properties if level.schema is not None else {}
            self._value, self._in_value = known.get(self._word.decode(errors="replace").strip()), True
        elif byte == ord(",") and level is not None:
            self._in_value = not level.keyed
            if not level.keyed:
                self._value = level.schema.items if level.schema is not None else None
        else:
            self._word.append(byte)
            return
        self._word.clear()

    def _open(self, *, keyed: bool) -> None:
        schema = self._value
        if not self._levels:
            tool = self._toolset.tool(self._word.decode(errors="replace").rpartition(":")[2].strip())
            schema = None if tool is None else tool.parameters
        self._levels.append(_Level(schema, keyed))
        self._in_value = not keyed
        self._value = None if keyed or schema is None else schema.items


def causes(
    tokenizer: RouterTokenizer, toolset: Toolset, token_ids: Sequence[int], pass_starts: Sequence[int]
) -> dict[Cause, int]:
    """How many passes each cause had. `pass_starts`: for each pass, ascending, the index in `token_ids` of the first
    token that it decided (`Decoded.pass_starts`); the completion is one that the toolset's grammar allows."""
    found = Counter(_each(Trace(tokenizer, toolset), token_ids, pass_starts))
    return {cause: found[cause] for cause in CAUSES}


def _each(trace: Trace, token_ids: Sequence[int], pass_starts: Sequence[int]) -> Iterator[Cause]:
    followed = 0
    for number, start in enumerate(pass_starts):
        for token in token_ids[followed:start]:
            trace.add(token)
        followed = start
        yield trace.cause() if number else "request"
