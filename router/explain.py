"""Saying what is wrong with a file that somebody wrote: where, what, what is allowed, and what was perhaps meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from runtimes.errors import UserError

KeyPath = tuple[str | int, ...]
"""The keys and list positions that lead to a value."""


class ToolsetError(UserError):
    """A toolset that cannot be used: where, what is wrong, what is allowed."""


@dataclass(frozen=True)
class Where:
    """Where data came from: a name for messages and, when a reader knew them, the line of every key path."""

    source: str = "toolset"
    lines: Mapping[KeyPath, int] = field(default_factory=dict)

    def error(self, path: KeyPath, message: str) -> ToolsetError:
        """The error at a key path; the line is the nearest known one."""
        return ToolsetError(
            f"{self.place(path)}: {spell(path)}: {message}" if path else f"{self.place(path)}: {message}"
        )

    def place(self, path: KeyPath) -> str:
        """``source:line`` of a key path, or of the nearest one above it whose line is known."""
        line = next((self.lines[path[:n]] for n in range(len(path), -1, -1) if path[:n] in self.lines), None)
        return f"{self.source}:{line}" if line is not None else self.source


def spell(path: KeyPath) -> str:
    """A key path as people write it: ``tools[0].parameters``."""
    return "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in path).removeprefix(".")


def near(word: object, known: Iterable[str]) -> str:
    """``; did you mean 'x'?`` where something is near, else nothing."""
    close = difflib.get_close_matches(str(word), list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
