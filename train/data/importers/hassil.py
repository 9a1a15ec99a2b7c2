r"""Sentence templates as Home Assistant writes them: parsed once, then sampled with the values of their slots.

==================  ==============================================================
``[the]``           optional
``(a|b)``           one of several; ``[a|b]`` one of them or nothing
``(a;b)``           all of them, in any order, with spaces between
``{area}``          a value of the list ``area``, which fills the slot ``area``
``{steps:volume}``  a value of the list ``steps``, which fills the slot ``volume``
``<turn>``          an expansion rule
``\[``              a sign that is meant as it stands
==================  ==============================================================

White space counts where it stands (``minute[s]``, ``( |-)``); runs of it are one space in the end. Source: the README
and ``hassil/parse_expression.py`` of github.com/home-assistant/hassil.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

_CLOSING: Final = {"(": ")", "[": "]", "{": "}", "<": ">"}


class TemplateError(Exception):
    """A template that cannot be read or expanded."""


@dataclass(frozen=True)
class Text:
    text: str


@dataclass(frozen=True)
class Sequence:
    items: tuple[Node, ...]


@dataclass(frozen=True)
class Choice:
    items: tuple[Node, ...]


@dataclass(frozen=True)
class Permutation:
    items: tuple[Node, ...]


@dataclass(frozen=True)
class ListRef:
    """A value of the list `name`, which fills `slot`."""

    name: str
    slot: str


@dataclass(frozen=True)
class RuleRef:
    name: str


Node = Text | Sequence | Choice | Permutation | ListRef | RuleRef


@dataclass(frozen=True)
class Said:
    """A sampled piece of a sentence; `slot` is filled with `value` where it came from a list."""

    text: str
    slot: str | None = None
    value: Any = None


Values = Callable[[str, random.Random], tuple[str, Any]]
"""List name -> the words of one of its values, and what the slot gets."""
Rules = Callable[[str], Node]
"""Rule name -> its template."""


def parse(template: str) -> Node:
    """The template as a tree. Raises `TemplateError` for what is not well formed."""
    node, end = _group(template, 0, "")
    if end != len(template):
        raise TemplateError(f"{template!r}: {template[end]!r} closes nothing (character {end + 1})")
    return node


def sample(node: Node, rules: Rules, values: Values, rng: random.Random) -> list[Said]:
    """One sentence, piece by piece, every choice drawn from `rng`."""
    match node:
        case Text():
            return [Said(node.text)]
        case Sequence():
            return [said for item in node.items for said in sample(item, rules, values, rng)]
        case Choice():
            return sample(rng.choice(node.items), rules, values, rng)
        case Permutation():
            out = [Said(" ")]
            for item in rng.sample(node.items, len(node.items)):
                out += [*sample(item, rules, values, rng), Said(" ")]
            return out
        case ListRef():
            text, value = values(node.name, rng)
            return [Said(text, node.slot, value)]
        case RuleRef():
            return sample(rules(node.name), rules, values, rng)


def references(node: Node) -> tuple[set[str], set[str]]:
    """Names of the lists and of the rules that a template uses itself."""
    match node:
        case ListRef():
            return {node.name}, set()
        case RuleRef():
            return set(), {node.name}
        case Text():
            return set(), set()
        case _:
            found = [references(item) for item in node.items]
            return set().union(*(lists for lists, _ in found)), set().union(*(rules for _, rules in found))


def _group(text: str, at: int, closing: str) -> tuple[Node, int]:
    """What stands up to `closing` (the end of the text where it is empty), and the position of `closing`."""
    parts: list[list[Node]] = [[]]
    separators: set[str] = set()
    words = ""

    def flush() -> None:
        nonlocal words
        if words:
            parts[-1].append(Text(words))
        words = ""

    while at < len(text):
        sign = text[at]
        if sign == "\\" and at + 1 < len(text):
            words, at = words + text[at + 1], at + 2
            continue
        if sign in ")]}>":
            break
        if sign in "|;":
            flush()
            separators.add(sign)
            parts.append([])
        elif sign in _CLOSING:
            flush()
            node, at = _bracket(text, at)
            parts[-1].append(node)
        else:
            words += sign
        at += 1
    if closing and text[at : at + 1] != closing:
        raise TemplateError(f"{text!r}: {closing!r} is missing (character {at + 1})")
    flush()
    if len(separators) > 1:
        raise TemplateError(f"{text!r}: '|' and ';' in one group; use brackets")
    items = tuple(part[0] if len(part) == 1 else Sequence(tuple(part)) for part in parts)
    if not separators:
        return items[0], at
    return (Choice(items) if separators == {"|"} else Permutation(items)), at


def _bracket(text: str, at: int) -> tuple[Node, int]:
    """The node of the bracket that opens at `at`, and the position of its closing sign."""
    opening = text[at]
    closing = _CLOSING[opening]
    if opening in "([":
        node, end = _group(text, at + 1, closing)
        if opening == "(":
            return node, end
        return Choice((*node.items, Text("")) if isinstance(node, Choice) else (node, Text(""))), end
    end = text.find(closing, at)
    name = text[at + 1 : end].strip() if end >= 0 else ""
    if not name:
        raise TemplateError(f"{text!r}: {opening!r} without a name and {closing!r} (character {at + 1})")
    if opening == "<":
        return RuleRef(name), end
    listed, _, slot = name.partition(":")
    return ListRef(listed.strip(), (slot or listed).strip()), end
