"""Passes one behind another, as a bare loop takes them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from runtimes.base import Pass


def consecutive(start: int, parts: Iterable[Sequence[int]]) -> list[Pass]:
    """Each of the parts behind those before it, the first behind `start` cached tokens."""
    out = []
    for tokens in parts:
        out.append(Pass(start, tokens))
        start += len(tokens)
    return out
