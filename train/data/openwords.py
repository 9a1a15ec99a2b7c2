"""Words that take the places of others in fillers, so that what is copied cannot be known by heart.

A list of fillers is closed, however long: seen a thousand times, its entries are remembered, and what stands around
them is not looked at. An adapter that knew fifty keys could not copy a fifty-first. With `open: 0.3` a slot's fillers
have, in three of ten rows that are trained on, some of their words exchanged for others, of the recipe's ``open_words``
or invented ones. These have nothing of the fillers of the test side, nor of what templates say around slots.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from runtimes.errors import UserError
from train.data.fillers import invent
from train.data.leakage import bare

_WORD: Final = re.compile(r"[^\W\d_]{3,}")
_STEM: Final = 4
"""Words are kin where the shorter one, of this many letters or more, begins the longer one."""
_RATE: Final = 0.5
"""Share of the words of a filler that are exchanged."""
_INVENTED: Final = 0.15
"""Share of the words put in their places that nobody knows."""


@dataclass(frozen=True)
class OpenWords:
    """Words that may stand for others."""

    words: tuple[str, ...]

    @classmethod
    def read(cls, path: Path, without: Iterable[str]) -> OpenWords:
        """The words of a text file less those that are kin to a word of the texts `without`.

        Raises `UserError` where fewer than a hundred are left.
        """
        try:
            listed = path.read_text(encoding="utf-8").split()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: cannot read the open words ({error})") from None
        barred = {word.lower() for text in without for word in _WORD.findall(text)}
        stems = {word[:n] for word in barred for n in range(_STEM, len(word) + 1)}
        kept = tuple(w for w in dict.fromkeys(listed) if not _kin(w.lower(), barred, stems))
        if len(kept) < 100:
            raise UserError(f"{path}: {len(kept)} words are left to stand for others; at least 100 are needed")
        return cls(kept)

    def draw(self, rng: random.Random) -> str:
        """A word."""
        return invent(rng) if rng.random() < _INVENTED else rng.choice(self.words)

    def exchange(self, text: str, rng: random.Random) -> str:
        """`text` with about half of its words of three letters or more, but at least one of those that there are,
        exchanged; capitals and function words stay."""
        places = [m for m in _WORD.finditer(text) if bare(m.group())]
        chosen = [m for m in places if rng.random() < _RATE] or places[-1:]
        for m in reversed(chosen):
            word = self.draw(rng)
            word = word.upper() if m.group().isupper() else word.capitalize() if m.group()[0].isupper() else word
            text = text[: m.start()] + word + text[m.end() :]
        return text


def _kin(word: str, barred: set[str], stems: set[str]) -> bool:
    return word in barred or word in stems or any(word[:n] in barred for n in range(_STEM, len(word)))
