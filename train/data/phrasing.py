"""How a row of a recipe is said: typing noise, politeness and spaces, and its wording without slots."""

from __future__ import annotations

import random
import re

from train.data.leakage import bare
from train.data.noise import polite, roughen, surface
from train.data.recipe import Recipe

_IMPERATIVE = re.compile(
    r"(find|search|look|show|list|get|check|load|open|read|run|execute|start|launch|trigger|create|make|add|write|update|edit|"
    r"modify|delete|remove|publish|share|upload|copy|pull|import|sync|bootstrap|bring|fetch|view|display|use|set|drop)\b"
)


def say(recipe: Recipe, parts: list[tuple[str, bool]], rng: random.Random, *, plain: bool) -> str:
    """The request that pieces (each with whether it is a slot's) make: roughly typed, unless it is to be `plain`."""
    if not plain and rng.random() < recipe.noise_share:
        parts = [(t if is_slot else roughen(t, rng, rate=recipe.noise_rate * 3), is_slot) for t, is_slot in parts]
    kept: list[str] = []
    text = _squeezed("".join(_held(t, kept) if is_slot else t for t, is_slot in parts))
    if plain:
        return _given_back(text, kept)
    text = polite(text, rng, imperative=_IMPERATIVE.match(text) is not None)
    out = surface(text, rng)
    first = next(((t, is_slot) for t, is_slot in parts if t.strip()), ("", False))
    if first[1] and " " not in first[0] and text.startswith(first[0]):  # an identifier keeps its case
        out = first[0] + out[len(first[0]) :]
    return _given_back(out, kept)


def wording(skeleton: str, *, stop: bool) -> str:
    """What a row's template says, spaces and case aside; with `stop`, without slots and stop words too."""
    words = skeleton.lower().split()
    if not stop:
        return " ".join(words)
    return bare(skeleton.replace("{}", " "))


_AS_IT_STANDS = re.compile(r"\s\s|[^\S ]| [?.,;]")
"""What squeezing would change: line breaks, indentation, ``ls .``."""


def _held(text: str, kept: list[str]) -> str:
    """A slot's text, or a mark in its place (a private character, which no case or spacing rule touches)."""
    if not _AS_IT_STANDS.search(text):
        return text
    kept.append(text)
    return chr(0xE000 + len(kept) - 1)


def _given_back(text: str, kept: list[str]) -> str:
    for number, one in enumerate(kept):
        text = text.replace(chr(0xE000 + number), one)
    return text


def _squeezed(text: str) -> str:
    """Single spaces, none before a mark nor at either end; line breaks stay."""
    text = re.sub(r"[^\S\n]+", " ", re.sub(r"[^\S\n]*\n[^\S\n]*", "\n", text)).strip()
    return re.sub(r" ([?.,;])", r"\1", text)
