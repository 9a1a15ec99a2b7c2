"""Reading completions: a parser with positions, over pieces that are either text or one control token.

Text is cut into pieces by the spellings of the control tokens; token ids are cut by the ids, so that a string which
merely looks like a control token stays text (`RouterTokenizer.parse`). Linear in the length of the input.

    completion := calls responses... | text [end]
    calls      := (start_call "call:" NAME object end_call)+ [start_response | end]
    end        := (end_turn | eos)+
    responses  := start_response "response:" NAME object end_response ... (calls | text [end])
    value      := escape TEXT escape | NUMBER | true | false | null | None | "[" values "]" | object
    object     := "{" [KEY ":" value ("," KEY ":" value)*] "}"

Between the parts stands any white space.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from router.toolset import Call
from router.wire_format import (
    FUNCTIONGEMMA,
    MAX_CHARACTERS,
    MAX_DEPTH,
    MAX_DIGITS,
    NAME,
    WireError,
    WireFormat,
    check_unicode,
    key_problem,
)


class Piece(NamedTuple):
    """Text, or one control token by its spelling."""

    text: str
    control: bool


def parse_completion(text: str, wire: WireFormat = FUNCTIONGEMMA) -> list[Call]:
    """The calls in a completion, in order; none where the model called nothing.

    Raises `WireError`, with the position, for whatever is not wholly a completion.
    """
    if len(text) > MAX_CHARACTERS:
        raise WireError(f"the completion is longer than {MAX_CHARACTERS} characters", MAX_CHARACTERS)
    parts = wire.splitter.split(text)
    return parse_pieces([Piece(part, i % 2 == 1) for i, part in enumerate(parts) if part], wire)


def parse_pieces(pieces: Sequence[Piece], wire: WireFormat = FUNCTIONGEMMA) -> list[Call]:
    """`parse_completion` over pieces; neighbouring text pieces must have been joined."""
    return _Parser(pieces, wire).completion()


_SPACE: Final = re.compile(r"[ \t\r\n]*")
_WORD: Final = re.compile(r"[^\s,\[\]{}:]*")
_KEY: Final = re.compile(r"[^:{}\[\],]*")
_NUMBER: Final = re.compile(r"[+-]?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_WORDS: Final[dict[str, Any]] = {"true": True, "false": False, "null": None, "None": None}


class _Parser:
    """A cursor: which piece, where in it, and how many characters stand before the piece."""

    def __init__(self, pieces: Sequence[Piece], wire: WireFormat) -> None:
        self.pieces = pieces
        self.wire = wire
        self.index = 0
        self.offset = 0
        self.before = 0
        if sum(len(p.text) for p in pieces) > MAX_CHARACTERS:
            raise WireError(f"the completion is longer than {MAX_CHARACTERS} characters", MAX_CHARACTERS)

    # The grammar, from the top.

    def completion(self) -> list[Call]:
        w = self.wire
        calls: list[Call] = []
        while True:
            self.space()
            made = len(calls)
            while self.at(w.start_call):
                calls.append(self.call())
                self.space()
            if len(calls) == made:
                self.answer()
                return calls
            if self.ended():
                self.end()
                return calls
            if not self.at(w.start_response):
                if self.more():
                    raise self.error("expected another call, a stop or the end after a call")
                return calls
            self.advance()
            self.space()
            if not self.more():
                return calls
            self.responses()

    def answer(self) -> None:
        """The model's own words, and the end of its turn."""
        if self.more() and not self.control():
            piece = self.pieces[self.index]
            self.check(piece.text, "the text", self.position())
            self.advance()
        if self.ended():
            self.end()
        elif self.more():
            raise self.error("expected the end of the turn or nothing after text")

    def end(self) -> None:
        """The end of the turn, or of the sequence; white space may follow it, nothing else."""
        while self.ended():
            self.advance()
            self.space()
        if self.more():
            raise self.error("expected nothing after the end of the turn")

    def responses(self) -> None:
        """What tools returned; the first is open already. They are checked and left out."""
        while True:
            self.literal("response:")
            self.name()
            self.space()
            self.object(1)
            self.expect(self.wire.end_response)
            if not self.at(self.wire.start_response):
                return
            self.advance()
            self.space()

    def call(self) -> Call:
        self.expect(self.wire.start_call)
        self.space()
        self.literal("call:")
        self.space()
        name = self.name()
        self.space()
        arguments = self.object(1)
        self.space()
        self.expect(self.wire.end_call)
        return Call(name, arguments)

    def name(self) -> str:
        found = self.match(NAME)
        if not found:
            raise self.error("expected the name of a tool")
        return found.group()

    def object(self, depth: int) -> dict[str, Any]:
        self.enter("{", depth)
        out: dict[str, Any] = {}
        if self.close("}"):
            return out
        while True:
            self.space()
            start = self.position()
            key = self.key()
            if key in out:
                raise WireError(f"the key {key!r} is given twice", start)
            out[key] = self.value(depth + 1)
            if self.close("}"):
                return out
            self.comma("}")

    def key(self) -> str:
        start = self.position()
        found = self.match(_KEY)
        key = found.group().rstrip(" \t\r\n") if found else ""
        if not key:
            raise self.error("expected a key")
        if not self.literal(":", required=False):
            raise self.error(f"expected ':' after the key {key[:60]!r}")
        problem = key_problem(key)
        if problem:
            raise WireError(f"the key {key[:60]!r} {problem}", start)
        return self.check(key, "the key", start)

    def value(self, depth: int) -> Any:
        self.space()
        if self.at(self.wire.escape):
            return self.string()
        if self.peek("["):
            return self.array(depth)
        if self.peek("{"):
            return self.object(depth)
        start = self.position()
        found = self.match(_WORD)
        word = found.group() if found else ""
        if not word:
            raise self.error("expected a value")
        if word in _WORDS:
            return _WORDS[word]
        return _number(word, start)

    def array(self, depth: int) -> list[Any]:
        self.enter("[", depth)
        out: list[Any] = []
        if self.close("]"):
            return out
        while True:
            out.append(self.value(depth + 1))
            if self.close("]"):
                return out
            self.comma("]")

    def string(self) -> str:
        self.expect(self.wire.escape)
        text = ""
        if self.more() and not self.control():
            start = self.position()
            text = self.check(self.pieces[self.index].text, "the string", start)
            self.advance()
        if not self.at(self.wire.escape):
            raise self.error(f"expected {self.wire.escape} at the end of a string")
        self.advance()
        return text

    # The cursor.

    def more(self) -> bool:
        return self.index < len(self.pieces)

    def control(self) -> bool:
        return self.more() and self.pieces[self.index].control

    def position(self) -> int:
        return self.before + self.offset

    def at(self, spelling: str) -> bool:
        return self.control() and self.pieces[self.index].text == spelling

    def ended(self) -> bool:
        return self.at(self.wire.end_turn) or self.at(self.wire.eos)

    def advance(self) -> None:
        """Go on to the next piece."""
        self.before += len(self.pieces[self.index].text)
        self.index += 1
        self.offset = 0

    def expect(self, spelling: str) -> None:
        if not self.at(spelling):
            raise self.error(f"expected {spelling}")
        self.advance()

    def match(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        """Match in the current text piece and go past it."""
        if not self.more() or self.control():
            return None
        piece = self.pieces[self.index].text
        found = pattern.match(piece, self.offset)
        if found:
            self.offset = found.end()
            if self.offset == len(piece):
                self.advance()
        return found

    def space(self) -> None:
        self.match(_SPACE)

    def peek(self, literal: str) -> bool:
        return self.more() and not self.control() and self.pieces[self.index].text.startswith(literal, self.offset)

    def literal(self, literal: str, *, required: bool = True) -> bool:
        if not self.peek(literal):
            if required:
                raise self.error(f"expected {literal!r}")
            return False
        self.offset += len(literal)
        if self.offset == len(self.pieces[self.index].text):
            self.advance()
        return True

    def enter(self, bracket: str, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise self.error(f"lists and objects are nested more than {MAX_DEPTH} deep")
        self.literal(bracket)

    def close(self, bracket: str) -> bool:
        self.space()
        return self.literal(bracket, required=False)

    def comma(self, bracket: str) -> None:
        if not self.literal(",", required=False):
            raise self.error(f"expected ',' or {bracket!r}")

    def check(self, text: str, what: str, position: int) -> str:
        try:
            return check_unicode(text, what)
        except WireError as error:
            raise WireError(str(error), position) from None

    def error(self, message: str) -> WireError:
        if not self.more():
            found = "the end"
        elif self.control():
            found = self.pieces[self.index].text
        else:
            found = repr(self.pieces[self.index].text[self.offset : self.offset + 20])
        return WireError(f"{message}, found {found}", self.position())


def _number(word: str, position: int) -> int | float:
    found = _NUMBER.fullmatch(word) if len(word) <= MAX_DIGITS else None
    if not found:
        raise WireError(f"{word[:40]!r} is no value; strings are escaped, numbers written as in JSON", position)
    fraction, exponent = found.groups()
    if fraction is None and exponent is None:
        return int(word)
    value = float(word)
    if not math.isfinite(value) or (value == 0 and re.search("[1-9]", re.split("[eE]", word)[0])):
        raise WireError(f"the number {word[:40]} is out of range", position)
    return value
