"""Requests that are nearly the same: word sets whose overlap is at least a given share (Jaccard), found exactly.

Only sets that share one of their rarest words can reach the share, so few pairs are compared (prefix filtering:
Bayardo, Ma and Srikant, "Scaling Up All Pairs Similarity Search", 2007). MinHash, the usual way, estimates the overlap
and misses pairs by chance; it pays where both sides are too large to index. Here one side is a test set of some hundred
or thousand requests: the index holds those alone, and training rows pass by one at a time, each held against the few
requests that share a rare word with it. Memory does not grow with the training rows; time grows as their number does.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from train.data.leakage import normalised

NEAR: Final = 0.8
"""Share of the words of both requests together that both have."""


@dataclass(frozen=True)
class NearIndex:
    """Word sets of some requests, found by their rarest words."""

    sets: tuple[frozenset[str], ...]
    texts: tuple[tuple[str, ...], ...]
    """The requests with each set."""
    frequency: Counter[str]
    postings: dict[str, list[int]]
    share: float


def near_index(texts: Iterable[str], share: float = NEAR) -> NearIndex:
    """An index over requests. `share` is between 0 and 1."""
    with_set: dict[frozenset[str], dict[str, None]] = defaultdict(dict)
    for text in texts:
        with_set[frozenset(normalised(text).split())][text] = None
    sets = tuple(with_set)
    frequency = Counter(word for words in sets for word in words)
    postings: dict[str, list[int]] = defaultdict(list)
    for number, words in enumerate(sets):
        for word in _prefix(words, frequency, share):
            postings[word].append(number)
    return NearIndex(sets, tuple(tuple(found) for found in with_set.values()), frequency, dict(postings), share)


def near(index: NearIndex, text: str) -> list[str]:
    """The requests of the index that have nearly the words of `text`."""
    words = frozenset(normalised(text).split())
    candidates = {n for word in _prefix(words, index.frequency, index.share) for n in index.postings.get(word, ())}
    return [
        request
        for n in sorted(candidates)
        if len(words & index.sets[n]) >= index.share * len(words | index.sets[n])
        for request in index.texts[n]
    ]


def _prefix(words: frozenset[str], frequency: Counter[str], share: float) -> list[str]:
    ordered = sorted(words, key=lambda word: (frequency[word], word))
    # The tolerance keeps 0.8 * 5 at 4: one word too many in the prefix costs nothing, one too few loses pairs.
    return ordered[: len(ordered) - math.ceil(share * len(ordered) - 1e-9) + 1]
