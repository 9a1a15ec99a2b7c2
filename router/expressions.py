"""What a production is made of: context-free expressions over text, control tokens and regular languages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from router.language import Language


@dataclass(frozen=True)
class Text:
    """Exactly these characters, none of them a control token."""

    text: str


@dataclass(frozen=True)
class Control:
    """One control token, by its spelling."""

    spelling: str


@dataclass(frozen=True)
class Stop:
    """The control token that ends the completion."""

    spelling: str


@dataclass(frozen=True)
class Word:
    """A string of a language."""

    language: Language


@dataclass(frozen=True)
class Copy:
    """A span of the request; `number` counts the toolset's kinds of span, `language` is what holds of any."""

    number: int
    language: Language


@dataclass(frozen=True)
class Ref:
    """A rule, by its name."""

    name: str


@dataclass(frozen=True)
class Seq:
    """One after another."""

    parts: tuple[Expression, ...]


@dataclass(frozen=True)
class Choice:
    """Any one of them."""

    parts: tuple[Expression, ...]


@dataclass(frozen=True)
class Times:
    """`low` to `high` times (None: without limit)."""

    part: Expression
    low: int
    high: int | None


NONE: Final = Seq(())
"""Nothing at all."""

Expression = Text | Control | Stop | Word | Copy | Ref | Seq | Choice | Times


def seq(*parts: Expression) -> Expression:
    """One after another. Neighbouring text stays apart: of two lexemes that begin alike, a lexer takes the longer."""
    flat = tuple(p for part in parts for p in (part.parts if isinstance(part, Seq) else (part,)))
    return flat[0] if len(flat) == 1 else Seq(flat)


def choice(*parts: Expression) -> Expression:
    """Any one of them, without doubles."""
    flat = dict.fromkeys(p for part in parts for p in (part.parts if isinstance(part, Choice) else (part,)))
    return next(iter(flat)) if len(flat) == 1 else Choice(tuple(flat))


def maybe(part: Expression) -> Expression:
    return Times(part, 0, 1)
