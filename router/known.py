"""What is known of a toolset's completions before the first request: strings that it lists, and what was proved."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from typing import Final

from router.grammar import Grammar
from router.guess import Example
from router.toolset import Schema, Toolset
from runtimes.artifact import Artifact

MOST: Final = 256
"""Strings, or requests."""

_CONTEXT: Final = {"date": "2026-03-11", "weekday": "Wednesday", "time": "09:41", "datetime": "2026-03-11T09:41:00"}


def sample_context(toolset: Toolset) -> dict[str, str]:
    """A value for every context key that a toolset shows, the same every time; what artifacts are proved with."""
    return {key: _CONTEXT.get(key, "a value") for key in toolset.shown}


def listed_strings(toolset: Toolset) -> tuple[str, ...]:
    """Enumerated values, defaults, and what may stand besides the request's words, of all parameters; each once.

    Where one parameter holds to its own, another that is free often says one of them too.
    """
    found = dict.fromkeys(text for tool in toolset for text in _strings(tool.parameters) if text)
    return tuple(islice(found, MOST))


def _strings(schema: Schema) -> Iterator[str]:
    values = (*(schema.enum or ()), *schema.also, schema.default)
    yield from (value for value in values if isinstance(value, str))
    for part in (*schema.properties.values(), *([schema.items] if schema.items else [])):
        yield from _strings(part)


def proved(artifact: Artifact, grammar: Grammar) -> Iterator[Example]:
    """What an artifact was proved with (`export.proof_file`), where it was with this toolset; nothing where that cannot
    be read. The file is not opened before the first is asked for."""
    if artifact.manifest.get("toolset", {}).get("sha256") != grammar.toolset.sha256:
        return
    with suppress(OSError, ValueError, TypeError, KeyError), artifact.proof.open(encoding="utf-8") as lines:
        for line in islice(lines, 1, MOST + 1):
            row = json.loads(line)
            if "request" in row:
                matcher = grammar.matcher(row["request"], sample_context(grammar.toolset))
                yield matcher, row["request"], [int(token) for token in row["completion"]]
