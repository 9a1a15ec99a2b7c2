"""What a template consists of: choices ``(a|b|)``, macros ``<find>``, slots ``{topic}``, and the text around them."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from typing import Final

CHOICE: Final = re.compile(r"\(([^()]*\|[^()]*)\)")
"""An innermost choice; brackets without a ``|`` are text."""
MACRO: Final = re.compile(r"<([a-z_]+)>")
SLOT: Final = re.compile(r"\{([+a-z_0-9]+)\}")
"""A slot; ``{+source}`` is a modifier that must be said."""
INNER: Final = re.compile(r"\{([a-z_0-9]+)\}")
"""A slot in another slot's fillers."""
ARGUMENT: Final = re.compile(r"\{([+a-z_0-9.|]+)(?:=([^}]*))?\}")
"""A slot in an argument: ``{x}``, ``{x=default}``, ``{x|y}`` (the first that was said), ``{context.key}``."""


def expand(text: str, macros: Mapping[str, Sequence[str]], rng: random.Random) -> list[tuple[str, str | None]]:
    """Choices and macros resolved: literal pieces, and slots by name, in order."""
    while True:
        inner = CHOICE.search(text)
        if inner:
            text = text[: inner.start()] + rng.choice(inner.group(1).split("|")) + text[inner.end() :]
            continue
        macro = MACRO.search(text)
        if not macro:
            break
        text = text[: macro.start()] + rng.choice(macros[macro.group(1)]) + text[macro.end() :]
    out: list[tuple[str, str | None]] = []
    position = 0
    for found in SLOT.finditer(text):
        out += [(text[position : found.start()], None), ("", found.group(1))]
        position = found.end()
    return [*out, (text[position:], None)]


def without_choices(text: str) -> str:
    """What every way to say `text` has: its text outside of choices."""
    while CHOICE.search(text):
        text = CHOICE.sub("", text)
    return text
