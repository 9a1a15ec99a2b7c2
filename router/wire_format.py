"""The spellings of the wire format as data, and what can be written in it at all.

One structure, FunctionGemma's, in the spellings of two model families. Rendering is `router.render`, parsing
`router.parse`; `router.wire` offers both under one name.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from runtimes.errors import UserError

MAX_DEPTH: Final = 64
"""Lists and objects within each other, in what is written and in what is read."""
MAX_CHARACTERS: Final = 1 << 18
"""Length of a completion, above what a context of 32,768 tokens holds in words."""
MAX_DIGITS: Final = 400
"""Characters of a number."""

NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-]*")
"""What a tool may be called."""


class WireError(UserError):
    """Something that cannot be written in the wire format, or a completion that cannot be read.

    `position` is the offset in characters in the text that was read (with control tokens spelled out), or None when
    writing.
    """

    def __init__(self, message: str, position: int | None = None) -> None:
        super().__init__(message if position is None else f"{message} (at character {position})")
        self.position = position


@dataclass(frozen=True)
class WireFormat:
    """How one model family spells the parts of a prompt and of a completion."""

    name: str
    start_turn: str
    end_turn: str
    start_declaration: str
    end_declaration: str
    start_call: str
    end_call: str
    start_response: str
    end_response: str
    escape: str
    developer: str = "developer"
    """The role of the turn that carries the declarations."""
    user: str = "user"
    model: str = "model"
    bos: str = "<bos>"
    eos: str = "<eos>"
    pad: str = "<pad>"
    unk: str = "<unk>"

    @cached_property
    def control_tokens(self) -> tuple[str, ...]:
        """The nine tokens that give a prompt its structure; ``bos`` and its like are not among them."""
        return (
            self.start_turn, self.end_turn, self.start_declaration, self.end_declaration, self.start_call,
            self.end_call, self.start_response, self.end_response, self.escape,
        )  # fmt: skip

    @cached_property
    def reserved(self) -> tuple[str, ...]:
        """Every spelling that a tokenizer turns into one token and that therefore no string may contain."""
        return (*self.control_tokens, self.bos, self.eos, self.pad, self.unk)

    @cached_property
    def stops(self) -> tuple[str, str]:
        """What ends a completion: after calls, and without one."""
        return (self.start_response, self.end_turn)

    @cached_property
    def splitter(self) -> re.Pattern[str]:
        """Matches any reserved spelling, as one group (so that `split` keeps it)."""
        longest_first = sorted(self.reserved, key=len, reverse=True)
        return re.compile("(" + "|".join(re.escape(t) for t in longest_first) + ")")


FUNCTIONGEMMA: Final = WireFormat(
    name="functiongemma",
    start_turn="<start_of_turn>",
    end_turn="<end_of_turn>",
    start_declaration="<start_function_declaration>",
    end_declaration="<end_function_declaration>",
    start_call="<start_function_call>",
    end_call="<end_function_call>",
    start_response="<start_function_response>",
    end_response="<end_function_response>",
    escape="<escape>",
)

GEMMA4: Final = WireFormat(
    name="gemma4",
    start_turn="<|turn>",
    end_turn="<turn|>",
    start_declaration="<|tool>",
    end_declaration="<tool|>",
    start_call="<|tool_call>",
    end_call="<tool_call|>",
    start_response="<|tool_response>",
    end_response="<tool_response|>",
    escape='<|"|>',
    developer="system",
)

WIRES: Final[dict[str, WireFormat]] = {w.name: w for w in (FUNCTIONGEMMA, GEMMA4)}


def wire_format(name: str) -> WireFormat:
    """The wire format called `name`. Raises `WireError` for an unknown one."""
    if name not in WIRES:
        raise WireError(f"unknown wire format {name!r}; there are {', '.join(WIRES)}")
    return WIRES[name]


def check_text(text: str, what: str, wire: WireFormat) -> str:
    """`text`, if it can be written; `what` names it in the error."""
    found = wire.splitter.search(text)
    if found:
        raise WireError(f"{what} contains the control token {found.group()!r}; it cannot be written")
    return check_unicode(text, what)


def check_unicode(text: str, what: str) -> str:
    """`text`, if it has no null character and no half of a surrogate pair."""
    if "\0" in text:
        raise WireError(f"{what} contains a null character; it cannot be written")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise WireError(f"{what} contains half a surrogate pair at {error.start}; it is not text") from None
    return text


def check_name(name: str, what: str) -> str:
    """`name`, if a tool can be called so."""
    if not NAME.fullmatch(name):
        raise WireError(f"{what} {name!r} cannot be written; allowed are letters, digits, '_', '.' and '-'")
    return name


def key_problem(key: str) -> str:
    """Why `key` cannot be a bare key (empty when it can)."""
    if not key:
        return "is empty"
    for character in key:
        if character in ":{}[],":
            return f"contains {character!r}"
        if character < " " or character == "\x7f":
            return "contains a control character"
    if key != key.strip():
        return "begins or ends with a space"
    return ""


def check_key(key: object, wire: WireFormat) -> str:
    """`key`, if it can be written bare."""
    if not isinstance(key, str):
        raise WireError(f"key {key!r} is {type(key).__name__}, not a string")
    problem = key_problem(key)
    if problem:
        raise WireError(f"key {key!r} {problem}; it cannot be written")
    return check_text(key, f"key {key!r}", wire)


def check_number(value: int | float) -> str:
    """`value` as JSON writes it."""
    if isinstance(value, float):
        if not math.isfinite(value):
            raise WireError(f"{value!r} is not a number that JSON can write")
        return float.__repr__(value)
    if value.bit_length() > 1300 or len(text := int.__repr__(value)) > MAX_DIGITS:
        raise WireError(f"an integer of more than {MAX_DIGITS - 1} digits cannot be written")
    return text
