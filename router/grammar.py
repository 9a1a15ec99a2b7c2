"""The grammar of a toolset's completions, compiled once with llguidance; each request takes a copy and walks it.

Strings that must be spans of the request are not known when the toolset is compiled. In their place stands a mark,
the bos token and a number, which is forced whenever it is reached; `Matcher` never hands it out, but lets a walk
through the request's spans (`router.spans`) take over until the string ends. So nothing is compiled per request, and
outside of such strings most requests go where others went before (`router.walk`). Keys that are not declared come once
in an object, which `router.keys` sees to.

Free-form keys leave out the character that opens control tokens (``<``). What ends by itself and what is stopped by the
decoder's limit, with an error, `router.productions` says.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property
from types import MappingProxyType
from typing import Any, Final

import numpy as np

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
from router.grammar_tokenizer import native_tokenizer
from router.keys import Keys, Spellings
from router.language import Language
from router.productions import Productions, productions
from router.request import Request, SpanKind
from router.spans import SpanWalk
from router.tokenizer import RouterTokenizer
from router.toolset import MOMENTS, Toolset
from router.walk import GrammarError, Ids, Places, Walk, line
from runtimes.errors import UserError

_QUIET: Final = 0


@dataclass(frozen=True)
class Grammar:
    """A compiled toolset. `matcher` gives each request its own walk; compiled parts are shared."""

    toolset: Toolset
    tokenizer: RouterTokenizer
    lark: str
    """The grammar as text."""
    copies: tuple[SpanKind, ...]
    """The kinds of span that strings may be held to."""
    loose: bool
    """Whether strings may come out longer or shorter than their schema says (see `router.productions`)."""
    further: bool
    """Whether objects may have keys that are not declared (see `router.keys`)."""
    _compiled: dict[frozenset[int], Places] = field(repr=False)

    @cached_property
    def spellings(self) -> Spellings:
        """What `Keys` reads tokens with."""
        return Spellings(self.toolset, self.tokenizer)

    @cached_property
    def probes(self) -> list[int]:
        """Two tokens that are both allowed in free strings, hardly elsewhere; none where one is missing."""
        ids = [self.tokenizer.vocabulary.find(letter) for letter in "qZ"]
        return [token for token in ids if token is not None] if None not in ids else []

    @classmethod
    def compile(cls, toolset: Toolset, tokenizer: RouterTokenizer) -> Grammar:
        """Compile what `toolset` allows. Raises `UserError` naming the tool and parameter that cannot be decoded."""
        rules = productions(toolset, tokenizer.wire)
        lark = lark_text(rules, tokenizer)
        compiled = {frozenset[int](): _compile(lark, tokenizer)}
        return cls(toolset, tokenizer, lark, rules.copies, rules.loose, rules.further, compiled)

    def matcher(self, user: str, context: Mapping[str, Any] = MappingProxyType({})) -> Matcher:
        """A walk through the grammar for one request. Its days are counted from the context's ``date``.

        Raises `UserError` where that is no day as ISO 8601 writes one, and arguments are counted from it.
        """
        today = _day(context.get("date")) if any(kind.copying in MOMENTS for kind in self.copies) else None
        request = Request(user.strip() if self.copies else "", self.tokenizer.wire, today)
        barred = frozenset(n for n, kind in enumerate(self.copies) if not request.offers(kind))
        if barred not in self._compiled:
            lark = lark_text(productions(self.toolset, self.tokenizer.wire, barred), self.tokenizer)
            self._compiled[barred] = _compile(lark, self.tokenizer)
        keys = Keys(self.spellings, user) if self.further else None
        return Matcher(self, self._compiled[barred].walk(), request, keys)


class Matcher:
    """Where one completion stands in the grammar. Not thread-safe."""

    def __init__(self, grammar: Grammar, walk: Walk, request: Request, keys: Keys | None) -> None:
        self.grammar = grammar
        self._walk = walk
        self._request = request
        self._keys = keys
        self._span: SpanWalk | None = None

    def copy(self) -> Matcher:
        """Another walk that stands where this one does."""
        other = copy(self)
        other._walk = self._walk.copy()
        other._span = None if self._span is None else self._span.copy()
        other._keys = None if self._keys is None else self._keys.copy()
        return other

    @property
    def copied(self) -> int | None:
        """How many tokens the string that is copied from the request has so far; None outside of one."""
        return None if self._span is None else self._span.length

    def likely_copy(self) -> int | None:
        """The token with which the string that is copied goes on, where it goes on as the request first does."""
        return None if self._span is None else self._span.likely()

    @property
    def finished(self) -> bool:
        """Whether the completion is complete, its stop included."""
        return self._span is None and self._walk.stopped

    def forced(self) -> list[int]:
        """The tokens that the grammar leaves no choice about, walked past already. Empty where there is a choice."""
        out: list[int] = []
        while not self.finished:
            if self._span is None:
                found = self._walk.forced()
                out += found.ids
                if self._keys is not None:
                    for token in found.ids:
                        self._keys.take(token)
                if found.kind is None:
                    break
                self._span = SpanWalk(self._request, self.grammar.copies[found.kind], self.grammar.tokenizer)
            ids = self._span.forced()
            if not ids:
                break
            for token in ids:
                self.accept(token)
            out += ids
        return out

    def allows(self, token: int) -> bool:
        """Whether `token` may come next."""
        if self._span is not None:
            return self._span.allows(token)
        return (self._keys is None or self._keys.allows(token)) and self._walk.allows(token)

    def allowed(self, width: int) -> Ids:
        """The ids below `width` that may come next, ascending; `forced` must have gone as far as it can before."""
        if self._span is not None:
            return np.array(sorted(i for i in self._span.options() if i < width), dtype=np.intp)
        # Where many may come, reading every bit is faster than looking for those that are set.
        ids = self._walk.ids(self.grammar.tokenizer.vocab_size // 64)
        if ids is None:
            bits = self._walk.bits()
            ids = np.flatnonzero(np.unpackbits(bits, count=min(width, 8 * len(bits)), bitorder="little"))
        return self._unbarred(ids[: np.searchsorted(ids, width)])

    def few(self, most: int) -> Ids | None:
        """What `allowed` says of the whole vocabulary where it is `most` ids or fewer; None where it is more."""
        if self._span is not None:
            ids: Ids | None = self.allowed(self.grammar.tokenizer.vocab_size)
        else:
            # In a free string almost anything goes; two tokens tell, where the mask of 262,144 takes milliseconds.
            probes = self.grammar.probes
            if probes and all(self._walk.allows(probe) for probe in probes):
                return None
            ids = self._walk.ids(most)
            ids = None if ids is None else self._unbarred(ids)
        return ids if ids is not None and 0 < len(ids) <= most else None

    def take(self, token: int) -> bool:
        """Walk past `token` if it may come next; whether it did."""
        if self._span is None:
            if self._keys is None:
                return self._walk.take(token)
            return self._keys.allows(token) and self._walk.take(token) and self._keys.take(token)
        if not self._span.accept(token):
            return False
        if self._span.finished:
            self._span = None
            self.accept(token)  # which ends the mark too
        return True

    def _unbarred(self, ids: Ids) -> Ids:
        """`ids` without those that would give a key twice."""
        barred = [] if self._keys is None else self._keys.barred()
        return ids[~np.isin(ids, barred)] if barred else ids

    def accept(self, token: int) -> None:
        """Walk past `token`. Raises `GrammarError` where it is not allowed."""
        if not self.take(token):
            self._walk.check()
            raise GrammarError(f"the grammar does not allow the token {token}")


def _day(said: object) -> date | None:
    if said is None or isinstance(said, date):
        return said
    try:
        return date.fromisoformat(str(said))
    except ValueError:
        raise UserError(f"context date: {str(said)[:40]!r} is no day; give one as YYYY-MM-DD") from None


def lark_text(rules: Productions, tokenizer: RouterTokenizer) -> str:
    """The productions in llguidance's Lark dialect; control tokens by their ids, languages as terminals."""
    terminals: dict[Language, str] = {}
    lines = [f"{name}: {_lark(body, tokenizer, terminals)}" for name, body in rules.rules.items()]
    for language, name in terminals.items():
        lines += language.lark(name)
    return "\n".join(lines) + "\n"


def _lark(expression: Expression, tokenizer: RouterTokenizer, terminals: dict[Language, str]) -> str:
    def inner(part: Expression) -> str:
        return _lark(part, tokenizer, terminals)

    if expression == NONE:
        return '""'
    match expression:
        case Text(text):
            return _quote(text)
        case Control(spelling) | Stop(spelling):
            return f"<[{tokenizer.control_id(spelling)}]>"
        case Word(language):
            return terminals.setdefault(language, f"T{len(terminals)}")
        case Copy(number, _):
            return f'<[{tokenizer.bos_id}]> "{number}"'
        case Ref(name):
            return name
        case Seq(parts):
            return "(" + " ".join(inner(p) for p in parts) + ")"
        case Choice(parts):
            return "(" + " | ".join(inner(p) for p in parts) + ")"
        case Times(part, low, high):
            times = {(0, None): "*", (1, None): "+", (0, 1): "?"}.get((low, high))
            body = inner(part) if isinstance(part, Seq | Choice | Ref) else f"({inner(part)})"
            return body + (times or f"{{{low},{'' if high is None else high}}}")


def _quote(text: str) -> str:
    return json.dumps(text).replace("\x7f", "\\u007f")


def _compile(lark: str, tokenizer: RouterTokenizer) -> Places:
    from llguidance import LLMatcher

    matcher = LLMatcher(native_tokenizer(tokenizer), lark, log_level=_QUIET)
    if matcher.is_error():
        raise GrammarError(f"the grammar cannot be compiled: {line(matcher.get_error())}")
    return Places(matcher, tokenizer)
