"""What was asked of a vocabulary's trimming, and what a trimmed checkpoint says of itself; `export.trim` makes one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

from export.checkpoint import read_json
from runtimes.errors import UserError

RECORD: Final = "trimmed.json"
"""Written last into a trimmed folder: what was kept, and the sha256 of what came out."""

ENGLISH: Final = "english"
"""The rule that needs no text."""

Form = Literal["full", "output"]
FORMS: Final[tuple[Form, ...]] = get_args(Form)

_SHOWN: Final = ("form", "rule", "tokens", "of", "needed", "selection_sha256", "source_sha256")


@dataclass(frozen=True)
class Trim:
    """Which tokens to keep, besides what every router and its toolset need, how many, and where others go."""

    rules: tuple[str, ...]
    """``english``, and files of text."""
    tokens: int | None = None
    """The size aimed at."""
    form: Form = "full"
    """``full``: input, output and tokenizer. ``output``: the rows of the output matrix alone."""
    called: str | None = None
    """What messages call the files, where they are not the user's own; None: by their names."""


def recorded_trim(folder: Path) -> dict[str, Any] | None:
    """The manifest's entry on a trimmed checkpoint: form, rule, tokens kept of how many, hashes. None for others.

    ``selection_sha256`` is over the kept tokens' ids in the original, ascending, one a line; ``source_sha256`` names
    the original checkpoint.
    """
    try:
        record = read_json(folder / RECORD)
    except UserError:
        return None
    return {key: record[key] for key in _SHOWN if key in record}
