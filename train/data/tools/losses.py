"""What gets lost on the way from a tool's description to a toolset, each loss by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from router.wire_format import NAME, WIRES

KINDS: Final[dict[str, str]] = {
    "all-of": "parts of an allOf that contradict each other: the first stands",
    "bound": "a bound that the toolset cannot carry, or that makes no sense",
    "body": "a request body that is not JSON, or that may be left out as a whole",
    "choice": "anyOf, oneOf or several types: one is kept",
    "condition": "not, if, dependentRequired and the like: dropped",
    "default": "a default that does not hold to its own schema, or that makes a required parameter optional",
    "depth": "objects within objects beyond what a toolset can nest",
    "description": "a description that is missing, or of which only the first paragraph is kept",
    "enum": "values that cannot be chosen from: of another type, null, lists or objects",
    "format": "a format that the toolset does not know",
    "keyword": "another keyword that the toolset cannot carry",
    "name": "a name that cannot be written, replaced",
    "never": "a property that can never be given",
    "null": "null as a value: leaving the parameter out stands for it",
    "open": "keys that are not named: their schemas, or the keys themselves",
    "parameter": "a parameter that a call cannot carry (cookies)",
    "pattern": "a regular expression that no grammar can hold",
    "required": "a required key that has no schema",
    "text": "characters that cannot be written, taken out",
    "tool": "a whole tool, left out",
    "tuple": "a list whose places have schemas of their own",
    "untyped": "a schema without a type: one that fits is taken",
}
"""Name of a loss -> what it means."""


@dataclass(frozen=True)
class Loss:
    """Something a source says that a toolset cannot: what was dropped, or what stands in its place."""

    kind: str
    """One of `KINDS`."""
    place: str
    """Tool, parameter and so on: ``create_user.tags[].name``."""
    message: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.place}: {self.message}"


Lost = Callable[[Loss], None]


def clean_name(name: str, place: str, lost: Lost) -> str:
    """`name`, or what is left of it where a toolset cannot have it so."""
    if NAME.fullmatch(name):
        return name
    new = re.sub(r"_{2,}", "_", re.sub(r"[^A-Za-z0-9_.\-]+", "_", name)).strip("_.-") or "unnamed"
    new = new if NAME.fullmatch(new) else f"_{new}"
    lost(Loss("name", place, f"{name!r} cannot be written and is called {new!r}"))
    return new


def distinct_name(name: str, taken: set[str], place: str, lost: Lost) -> str:
    """`name`, with a number where it is taken; the name is then in `taken`."""
    number, new = 1, name
    while new in taken:
        number += 1
        new = f"{name}_{number}"
    if new != name:
        lost(Loss("name", place, f"there is another {name!r}; this one is called {new!r}"))
    taken.add(new)
    return new


def clean_text(text: object, place: str, lost: Lost) -> str:
    """`text` without what cannot be written in any wire format."""
    if not isinstance(text, str):
        lost(Loss("text", place, f"{_short(text)} is not text; dropped"))
        return ""
    out = text.replace("\0", "").encode("utf-8", "ignore").decode()
    before = None
    while out != before:  # what is left may spell another token
        before = out
        for wire in WIRES.values():
            out = wire.splitter.sub("", out)
    if out != text:
        lost(Loss("text", place, f"control tokens or half characters taken out of {_short(text)}"))
    return out


def summary(text: object, place: str, lost: Lost) -> str:
    """The first paragraph of a description as one line: the model reads all of it with every request."""
    paragraphs = [" ".join(p.split()) for p in re.split(r"\n\s*\n", clean_text(text, place, lost)) if p.strip()]
    if len(paragraphs) > 1:
        rest = sum(len(p) for p in paragraphs[1:])
        lost(Loss("description", place, f"only the first paragraph is kept, {rest} characters are not"))
    return paragraphs[0] if paragraphs else ""


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
