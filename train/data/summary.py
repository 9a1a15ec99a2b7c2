"""What was trained on, in numbers: rows by tool of each split, a digest of its cases, corpora, and what was kept out.

``data.json`` beside an adapter and ``report.json`` of ``edgecall data build`` have this form:

    {"toolset": name, "seed": n, "train": {"rows": n, "by_tool": {…}, "sha256": …}, "dev": {…}, "test": {…},
     "corpora": [names], "against": [{"file": name, "rows": n}], "shared": [names],
     "leaks": [{"test": file, "rows": n, "exact": n, "normalised": n, "near": n, "template": n, "wording": n}, …]}

``leaks`` counts the requests of each held-out file that training gives away, each once, as the worst kind that holds
(`train.data.leak_counts`); a validation file has the first three. ``shared`` are the fillers that both sides may say.
An adapter's has neither ``test``, ``leaks`` nor ``shared``, and, where it was trained on case files, ``files`` like
``against``.
The digest is that of ``training.json``, so that one can be told to be about the other.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from router.cases import Case
from train.data.corpora import Corpus


class Tally:
    """Counts and the digest of cases that pass by."""

    def __init__(self) -> None:
        self._tools: Counter[str] = Counter()
        self._digest = hashlib.sha256()

    def over(self, cases: Iterable[Case]) -> Iterator[Case]:
        """The same cases, counted."""
        for case in cases:
            self.add(case.to_dict(), "+".join(c.name for c in case.calls) or "no call")
            yield case

    def add(self, case: dict[str, Any], tools: str) -> None:
        """Count a case that is given as plain data, with the names of its tools."""
        text = json.dumps(case, sort_keys=True)
        self._digest.update((f"\n{text}" if self._tools else text).encode())
        self._tools[tools] += 1

    @property
    def rows(self) -> int:
        return self._tools.total()

    def to_dict(self) -> dict[str, Any]:
        """Rows, rows by tool (several calls joined by ``+``), sha256."""
        by_tool = dict(sorted(self._tools.items()))
        return {"rows": self.rows, "by_tool": by_tool, "sha256": self._digest.hexdigest()}


def tally(cases: Iterable[Case]) -> dict[str, Any]:
    """`Tally.to_dict` of all the cases."""
    counts = Tally()
    for _ in counts.over(cases):
        pass
    return counts.to_dict()


def origins(corpora: Iterable[Corpus], against: Iterable[tuple[str, int]]) -> dict[str, Any]:
    """The entries ``corpora`` (names, each once) and ``against`` (file names with their rows)."""
    return {
        "corpora": sorted({corpus.source for corpus in corpora}),
        "against": [{"file": name, "rows": rows} for name, rows in against],
    }
