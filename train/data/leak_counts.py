"""How much of a test set a training set gives away: every test request counted once, as the worst that holds.

The comparison is with every training row, and exact: also the near-duplicates are found by a join over word sets
(`train.data.importers.duplicates`), where MinHash would only estimate how many there are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from router.cases import Case
from train.data.formats import stream_cases
from train.data.importers.duplicates import near, near_index
from train.data.leakage import bare, normalised

KINDS: Final = ("exact", "normalised", "near", "template", "wording")
REQUESTS: Final = KINDS[:3]
"""The kinds that requests alone show: the only ones to count for a validation split, which has training's templates."""
EXAMPLES: Final = 5
"""Leaks of a kind that are written out."""


@dataclass
class Leakage:
    """What one training file gives away of one test file: test requests by kind, each counted once, as the worst kind.

    `exact`: the same request; `normalised`: the same but for case, marks and spaces; `near`: four words of five in
    common; `template`: from the same template; `wording`: from a template that differs in slots and stop words only.
    """

    train: Path
    test: Path
    rows: int
    counts: dict[str, int]
    examples: dict[str, list[tuple[str, str]]]
    """Kind -> test request and training request (or templates)."""

    def summary(self) -> dict[str, int]:
        """Test requests (``rows``), and how many of them each kind gives away."""
        return {"rows": self.rows, **self.counts}

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain data; a test request and what shows it for each example."""
        return {
            "train": str(self.train), "test": str(self.test), "test_rows": self.rows, **self.counts,
            "examples": {kind: [list(pair) for pair in pairs] for kind, pairs in self.examples.items() if pairs},
        }  # fmt: skip


def leakage(train: Path, tests: Sequence[Path]) -> list[Leakage]:
    """What a training file gives away of each test file, found in one pass over it."""
    seekers = [Seeker(path) for path in tests]
    for _, case in stream_cases(train):
        for seeker in seekers:
            seeker.look(case)
    return [seeker.found(train) for seeker in seekers]


class Seeker:
    """The requests of one test file, and the worst way in which the training rows that were looked at show each.

    Memory holds the test file's cases; training rows pass by.
    """

    def __init__(self, path: Path, kinds: Sequence[str] = KINDS) -> None:
        self.path, self.kinds = path, kinds
        self.cases = [case for _, case in stream_cases(path)]
        self.by_text = _group((c.user, c.user) for c in self.cases)
        self.by_normal = _group((normalised(c.user), c.user) for c in self.cases)
        self.by_template = _group((c.template, c.user) for c in self.cases if c.template)
        self.by_wording = _group((w, c.user) for c in self.cases if c.template and (w := wording(c.template)))
        self.index = near_index(c.user for c in self.cases)
        self.worst: dict[str, tuple[int, str]] = {}

    def look(self, case: Case) -> None:
        """Take a training row into account."""
        self._mark(0, self.by_text.get(case.user, ()), case.user)
        self._mark(1, self.by_normal.get(normalised(case.user), ()), case.user)
        self._mark(2, near(self.index, case.user), case.user)
        if case.template and "template" in self.kinds:
            self._mark(3, self.by_template.get(case.template, ()), case.template)
            self._mark(4, self.by_wording.get(wording(case.template), ()), case.template)

    def _mark(self, kind: int, users: Iterable[str], shown: str) -> None:
        for user in users:
            if user not in self.worst or kind < self.worst[user][0]:
                self.worst[user] = (kind, shown)

    def found(self, train: Path) -> Leakage:
        """What was seen; `train` is the name to give to the rows."""
        counts = dict.fromkeys(self.kinds, 0)
        examples: dict[str, list[tuple[str, str]]] = {kind: [] for kind in self.kinds}
        for case in self.cases:
            if case.user in self.worst:
                number, shown = self.worst[case.user]
                counts[KINDS[number]] += 1
                if len(examples[KINDS[number]]) < EXAMPLES:
                    examples[KINDS[number]].append((case.user, shown))
        return Leakage(train, self.path, len(self.cases), counts, examples)


@lru_cache(maxsize=4096)
def wording(template: str) -> str:
    """A template's own words: without its pattern's name, slots, macros and stop words. Empty where none are left."""
    text = re.sub(r"^[\w-]+: ", "", template)
    return bare(re.sub(r"[{<][^{}<>]*[}>]", " ", text))


def _group(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    out: dict[str, list[str]] = {}
    for key, value in pairs:
        if value not in out.setdefault(key, []):
            out[key].append(value)
    return out
