"""The grammar of a toolset's completions as GBNF, for stock llama.cpp (``llama-server``, ``llama-completion``).

What llama.cpp does with it (``src/llama-grammar.cpp`` and ``src/llama-vocab.cpp`` of the sources that llama-cpp-python
0.3.36 is built from):

- Rules match the text of tokens. Every token has its text there, CONTROL ones too, so a control token in a call is the
  literal that it spells. But the server leaves CONTROL tokens out of the text that it returns, which is why a GGUF must
  type those of calls USER_DEFINED.
- End-of-generation tokens match no rule. They are allowed exactly where the grammar may end, all of them alike. So the
  completion's stop is not part of the grammar, and no call is the empty string. ``<end_of_turn>``, ``<turn|>`` and
  ``<|tool_response>`` end generation by their names, ``<start_function_response>`` only where the GGUF says so; so it
  may also follow the calls as text.
- ``<token>`` names a token and is not used: older builds do not know it, and in this one a token whose text began as
  that of a string is let through and then fails. So a control token may be spelled by other tokens too, which a model
  that was trained on the token does not do.
- A repeat above 2,000 is refused or silently unlimited, and there is no intersection.

The language is that of `router.grammar`, except for what this notation cannot say: strings that are bound to spans of
the request may be any string; strings limited to more than some ten characters have no ``<`` in them, and no upper
limit above 1,000; of a pattern and a length that take more than 2,000 states together, only the pattern counts; strings
within free-form values, which may have a ``<``, have no limit.
"""

from __future__ import annotations

from typing import Final

from router.expressions import (
    NONE,
    Choice,
    Control,
    Copy,
    Expression,
    Ref,
    Seq,
    Stop,
    Text,
    Times,
    Word,
)
from router.free import free_text
from router.language import Language
from router.productions import productions
from router.regular import ANY, Alt, Cat, Chars, Node, Repeat, but, nonempty, repeat
from router.toolset import Toolset
from router.wire_format import FUNCTIONGEMMA, WireFormat

MAX_LENGTH: Final = 1000
"""Characters up to which a string's length can be limited; each is a rule in llama.cpp."""
_SMALL: Final = 4000
"""Characters up to which an expression is written out."""
_STATES: Final = 600
_MORE_STATES: Final = 2000


def gbnf(toolset: Toolset, wire: WireFormat = FUNCTIONGEMMA) -> str:
    """The grammar as text, its rule ``root`` first. Raises `UserError` for what cannot be decoded."""
    return _Printer(wire).print(toolset)


class _Printer:
    def __init__(self, wire: WireFormat) -> None:
        self.wire = wire
        self.words: dict[Language, str] = {}
        self.lines: list[str] = []

    def print(self, toolset: Toolset) -> str:
        rules = productions(toolset, self.wire, free_length=None).rules
        body = [f"{self.name(name)} ::= {self.expression(expression)}" for name, expression in rules.items()]
        head = f"# Completions of the toolset {toolset.name} in the {self.wire.name} wire format."
        return "\n".join([head, *body, *self.lines]) + "\n"

    def name(self, name: str) -> str:
        return "root" if name == "start" else name

    def expression(self, expression: Expression) -> str:
        if expression == NONE:
            return '""'
        match expression:
            case Text(text):
                return _quote(text)
            case Control(spelling):
                return _quote(spelling)
            case Stop(spelling):
                return '""' if spelling == self.wire.end_turn else f"({_quote(spelling)})?"
            case Word(language) | Copy(_, language):
                return self.word(language)
            case Ref(name):
                return self.name(name)
            case Seq(parts):
                return "(" + " ".join(self.expression(p) for p in parts) + ")"
            case Choice(parts):
                return "(" + " | ".join(self.expression(p) for p in parts) + ")"
            case Times(Word(language), 0, 1) if language.empty:
                return self.word(language)
            case Times(part, low, high):
                inner = self.expression(part)
                return (inner if isinstance(part, Seq | Choice | Ref) else f"({inner})") + _times(low, high)

    def word(self, language: Language) -> str:
        """The name of the rule for a language; several strings may share it."""
        if language not in self.words:
            name = f"t{len(self.words)}"
            self.words[language] = name
            self.lines += self.word_rules(language, name)
        return self.words[language]

    def word_rules(self, language: Language, name: str) -> list[str]:
        """Rules for a language: written out where it is one small expression, else by its automaton."""
        free = (free_text(self.wire), nonempty(free_text(self.wire)))
        parts = language.parts
        if len(parts) == 1 and parts[0] not in free and len(text := _node(parts[0])) <= _SMALL:
            return [f"{name} ::= {text}"]
        rules = _automaton(language, name, _STATES)
        if rules:
            return rules
        plain = but(self.wire.escape[0])
        others = tuple(p for p in parts if p not in free)
        lengths = [p for p in others if isinstance(p, Repeat) and p.node == ANY]
        rest = tuple(p for p in others if p not in lengths)
        if lengths and not rest:
            low, high = lengths[0].low, lengths[0].high
            return [f"{name} ::= {_node(repeat(plain, min(low, MAX_LENGTH), _limit(high)))}"]
        for fewer in ((*others, repeat(plain)), (*rest, repeat(plain))):
            rules = _automaton(Language(fewer), name, _MORE_STATES)
            if rules:
                return rules
        return [f"{name} ::= {_node(rest[0])}"]


def _limit(high: int | None) -> int | None:
    return high if high is not None and high <= MAX_LENGTH else None


def _automaton(language: Language, name: str, limit: int) -> list[str]:
    """One rule per state of the language's automaton; none where it has more than `limit`."""
    automaton = language.automaton(limit)
    if automaton is None:
        return []
    names = [name if state == 0 else f"{name}-{state}" for state in range(len(automaton.accepting))]
    used, todo = {0}, [0]
    lines = []
    while todo:
        state = todo.pop()
        options = [f"{_chars(ranges)} {names[target]}" for ranges, target in automaton.edges[state]]
        if automaton.accepting[state]:
            options.append('""')
        lines.append(f"{names[state]} ::= {' | '.join(options)}")
        for _, target in automaton.edges[state]:
            if target not in used:
                used.add(target)
                todo.append(target)
    return lines


def _node(node: Node) -> str:
    match node:
        case Chars(ranges):
            return _chars(ranges)
        case Cat(parts):
            return "(" + " ".join(_node(p) for p in parts) + ")" if parts else '""'
        case Alt(parts):
            return "(" + " | ".join(_node(p) for p in parts) + ")"
        case Repeat(inner, low, high):
            return f"{_node(inner)}{_times(low, high)}"


def _times(low: int, high: int | None) -> str:
    times = {(0, None): "*", (1, None): "+", (0, 1): "?", (1, 1): ""}.get((low, high))
    if times is None:
        times = f"{{{low}}}" if low == high else f"{{{low},{'' if high is None else high}}}"
    return times


def _chars(ranges: tuple[tuple[int, int], ...]) -> str:
    return "[" + "".join(_point(a) if a == b else f"{_point(a)}-{_point(b)}" for a, b in ranges) + "]"


def _point(point: int) -> str:
    character = chr(point)
    if character.isascii() and character.isalnum():
        return character
    return f"\\x{point:02X}" if point < 0x100 else f"\\u{point:04X}" if point < 0x10000 else f"\\U{point:08X}"


def _quote(text: str) -> str:
    return '"' + "".join(c if c.isprintable() and c not in '"\\' else _point(ord(c)) for c in text) + '"'
