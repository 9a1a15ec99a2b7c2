"""A recipe's public corpora: their requests as training, validation and test cases, or as requests for no tool.

    corpora:
      - {source: snips, swap: 0.5, times: 3}
      - {source: clinc150, no_call: true, without: [weather, play_music], rows: 3000}

What an importer calls its development portion is the recipe's *test* side: it is never trained on. A fortieth of the
training rows, chosen by their text, chooses the checkpoint (*dev*).
"""

from __future__ import annotations

import random
import re
import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

from router.cases import Case
from router.toolset import Call, Toolset
from runtimes.errors import UserError
from train.data.importers import NAMES, find
from train.data.importers.base import Options, Row, rows
from train.data.leakage import normalised
from train.data.recipe_file import Fault, expect, mapping, nearest, texts

DEV_SHARE: Final = 40
"""One in so many training rows goes to validation."""
_KEYS: Final[Mapping[str, type]] = {
    "source": str, "folder": str, "no_call": bool, "without": list, "rows": int, "times": int, "swap": float,
    "samples": int,
}  # fmt: skip


@dataclass(frozen=True)
class Corpus:
    """One corpus of a recipe."""

    source: str
    folder: str = ""
    """Where it lies below ``--data``; the source's name unless given."""
    no_call: bool = False
    """Its requests are for no tool of this toolset, whatever upstream's intent is."""
    without: frozenset[str] = frozenset()
    """Upstream's intents that this toolset does serve, left out with `no_call`."""
    rows: int | None = None
    """So many training rows at most, drawn from the seed; of the others a tenth as many."""
    times: int = 1
    """Passes over the training rows; with `swap` each says other values."""
    swap: float = 0.0
    """Share of the training rows whose values are exchanged for others of the same tool and parameter."""
    samples: int = 8
    """Sentences per template, for corpora that consist of templates."""


def read_corpora(data: Any) -> tuple[Corpus, ...]:
    """A recipe's ``corpora``. Raises `Fault` for an unknown source or setting, or one of the wrong kind."""
    expect(data, list, "corpora", "corpora")
    for n, entry in enumerate(data):
        keys = ("corpora", n)
        mapping(entry, "corpora", _KEYS, ("source",), *keys)
        if entry["source"] not in NAMES:
            raise Fault(f"corpora: no source {entry['source']!r}{nearest(entry['source'], NAMES)}", *keys, "source")
        for key, value in entry.items():
            expect(value, _KEYS[key], f"corpora: {entry['source']}: {key}", *keys, key)
        texts(entry.get("without", []), f"corpora: {entry['source']}: without", *keys, "without")
    return tuple(Corpus(**{**entry, "without": frozenset(entry.get("without", ()))}) for entry in data)


def corpus_cases(
    corpus: Corpus, folder: Path, toolset: Toolset, split: Literal["train", "dev", "test"], seed: int
) -> Iterator[Case]:
    """The cases that `corpus` gives to a split, from upstream's files below `folder`."""
    upstream = folder / (corpus.folder or corpus.source)
    if not upstream.is_dir():
        raise UserError(f"{upstream}: no such folder; it should hold {corpus.source} ({find(corpus.source).address})")
    cases = [
        row.case if not corpus.no_call else replace(row.case, calls=(), accept=(), bucket="no-call")
        for row in _rows(corpus, upstream, toolset, seed)
        if row.split == ("dev" if split == "test" else "train")
        and (split == "test" or _validates(row.case) == (split == "dev"))
    ]
    rng = random.Random(f"{seed}/{corpus.source}/{split}")
    most = None if corpus.rows is None else corpus.rows if split == "train" else max(1, corpus.rows // 10)
    if most is not None and len(cases) > most:
        cases = rng.sample(cases, most)
    values = _values(cases) if split == "train" and corpus.swap else None
    for number in range(corpus.times if split == "train" else 1):
        for case in cases:
            again = _swapped(case, values, rng) if values is not None and rng.random() < corpus.swap else case
            yield replace(again, id=f"{case.id}/{number}") if number else again


def _rows(corpus: Corpus, upstream: Path, toolset: Toolset, seed: int) -> Iterator[Row]:
    held = None if corpus.no_call else toolset
    absent = set(corpus.without)
    for row in rows(find(corpus.source), upstream, Options(seed, corpus.samples), toolset=held, keep_going=True):
        if not isinstance(row, Row):
            continue
        intents = {c.name for c in row.case.calls}
        absent -= intents
        if not (corpus.no_call and intents & corpus.without):
            yield row
    if absent:
        raise UserError(f"{upstream}: {corpus.source} has no intent {sorted(absent)[0]!r}; mend the recipe's 'without'")


def _validates(case: Case) -> bool:
    return zlib.crc32(normalised(case.user).encode()) % DEV_SHARE == 0


def _values(cases: Sequence[Case]) -> dict[tuple[str, str], list[str]]:
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for case in cases:
        for call in case.calls:
            for key, value in call.arguments.items():
                if isinstance(value, str):
                    found[call.name, key].append(value)
    return found


def _swapped(case: Case, values: Mapping[tuple[str, str], Sequence[str]], rng: random.Random) -> Case:
    """The case with other values, where each stands in the request once and alone; as it was otherwise."""
    if len(case.calls) != 1 or case.accept:
        return case
    (call,) = case.calls
    places: list[tuple[int, int, str]] = []
    for key, value in call.arguments.items():
        if not isinstance(value, str):
            return case
        found = [m.span() for m in re.finditer(rf"(?<!\w){re.escape(value)}(?!\w)", case.user)]
        if len(found) != 1 or any(a < found[0][1] and found[0][0] < b for a, b, _ in places):
            return case
        places.append((*found[0], key))
    user, arguments = case.user, dict(call.arguments)
    for start, end, key in sorted(places, reverse=True):
        if rng.random() < 0.6:
            value = rng.choice(values[call.name, key])
            user, arguments[key] = user[:start] + value + user[end:], value
    return replace(case, user=user, calls=(Call(call.name, arguments),))
