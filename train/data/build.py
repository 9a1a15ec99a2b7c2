"""`edgecall data build`: three splits, their toolset and a report, in one pass, with memory for the test sides only."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

from router.cases import Case, load_cases
from router.toolset import to_dict
from runtimes.errors import UserError
from train.data.blocks import Row, Source, made_here, to_row
from train.data.formats import stream_cases
from train.data.leak_counts import REQUESTS, Seeker
from train.data.leakage import HeldOut, Leak, Sieve, normalised
from train.data.recipe import SPLITS, Recipe, Split
from train.data.rows import EARLIER, corpora_rows, rows
from train.data.summary import Tally, origins

REPORT: Final = "report.json"
TOOLSET: Final = "toolset.json"


def build_data(recipe: Recipe, out: Path, against: Sequence[Path], source: Source | None = None) -> dict[str, Any]:
    """Write the three splits, ``toolset.json`` and ``report.json`` into the folder `out`; returns the report.

    `source` makes the patterns' rows (default: this process); what is written does not depend on it. Memory holds
    requests of the test and validation sides and of `against`, the rows of public corpora, and the blocks on their way.
    Raises `UserError` on a leak and where no training row is left; then, as after any failure, `out` is as it was.

    A leak is a training row with a held-out request (of test, validation or `against`; case, marks and spaces aside),
    with a template of the test side, or, where the recipe is strict, with the wording of one. The report's ``leaks``
    count what else is given away. Near-duplicates do not fail a build, not even a strict one: where requests are short,
    two of them with other values and other calls ("track order 4521", "track order 887") share most of their words, and
    a recipe is honest if its templates and fillers differ. Templates that imported corpora share are counted too.
    """
    loaded = {path: load_cases(path) for path in against}
    extra = [case for cases in loaded.values() for case in cases]
    names = {split: f"{split}.jsonl" for split in SPLITS}
    with replacing_all(out, [*names.values(), TOOLSET, REPORT]) as files:
        held = HeldOut.of(extra)
        held.templates = {t.text: f"pattern {p.name}" for p in recipe.patterns for t in p.templates["test"]}
        groups = recipe.hard.groups if recipe.hard else ()
        held.templates |= {t.text: "the frames of hard" for group in groups for t in group.frames["test"]}
        build = _Build(recipe, source or made_here(recipe), files, held, frozenset(held.loose))
        for split in ("test", "dev", "train"):
            build.write(split, names[split])
            files[names[split]].flush()
        if not build.counts["train"].rows:
            raise UserError(f"{out}: no training row is left; mend the recipe's rows, or what it may not repeat")
        written = {split: Path(files[name].name) for split, name in names.items()}
        seekers = {names["dev"]: Seeker(written["dev"], REQUESTS), names["test"]: Seeker(written["test"])}
        build.check(out, written["train"], [*seekers.values(), *(others := [Seeker(path) for path in against])])
        report: dict[str, Any] = {"toolset": recipe.toolset.name, "seed": recipe.seed, "shared": sorted(recipe.shared)}
        report |= origins(recipe.corpora, ((path.name, len(cases)) for path, cases in loaded.items()))
        report |= {split: build.counts[split].to_dict() for split in SPLITS}
        found = [*seekers.items(), *((seeker.path.name, seeker) for seeker in others)]
        report["leaks"] = [{"test": name, **seeker.found(Path("train.jsonl")).summary()} for name, seeker in found]
        files[TOOLSET].write(json.dumps(to_dict(recipe.toolset), indent=1, ensure_ascii=False) + "\n")
        files[REPORT].write(json.dumps(report, indent=1) + "\n")
    return report


def training_cases(recipe: Recipe, split: Split, against: Sequence[Case] = ()) -> Iterator[Case]:
    """The cases of a split, less those that repeat a case of `against` (dropped even where only marks differ)."""
    forbidden = {normalised(c.user) for c in against}
    if split == "train":
        forbidden |= {normalised(c.user) for s in EARLIER[split] for c in rows(recipe, s)}
    return (c for c in rows(recipe, split) if split == "test" or normalised(c.user) not in forbidden)


@contextmanager
def replacing_all(out: Path, names: Sequence[str]) -> Iterator[dict[str, IO[str]]]:
    """Text files that together take the places of `names` in the folder `out`, made where it is missing.

    When the block fails, or one of the files cannot be put into its place, nothing has changed and no trace is left.
    Raises `UserError` where `out` cannot be a folder.
    """
    there = out.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise UserError(f"{out}: is no folder; give --out another name") from None
    temporaries = {name: out / f".tmp-{os.getpid()}-{name}" for name in names}
    files: dict[str, IO[str]] = {}
    try:
        for name, path in temporaries.items():
            files[name] = path.open("w", encoding="utf-8")
        yield files
        for file in files.values():
            file.close()
        _put_into_place(out, temporaries)
    except BaseException as error:
        for file in files.values():
            with suppress(OSError):  # what is still buffered may not fit either
                file.close()
        for path in temporaries.values():
            with suppress(OSError):
                path.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(out)  # a write does not say where
        if not there:
            with suppress(OSError):
                out.rmdir()
        raise


def _put_into_place(out: Path, temporaries: dict[str, Path]) -> None:
    """Rename each to its name; where one fails, the earlier ones are taken back."""
    kept: dict[Path, Path] = {}
    done: list[Path] = []
    try:
        for name, path in temporaries.items():
            target = out / name
            if target.is_dir():
                raise UserError(f"{target}: is a folder; move it away, or give --out another name")
            if target.exists():
                kept[target] = target.replace(out / f".old-{os.getpid()}-{name}")
            path.replace(target)
            done.append(target)
    except BaseException:
        for target in done:
            target.unlink()
        for target, old in kept.items():
            old.replace(target)
        raise
    for old in kept.values():
        old.unlink()


@dataclass
class _Build:
    """What is known while rows pass: what they may not repeat, and counts."""

    recipe: Recipe
    source: Source
    files: dict[str, IO[str]]
    held: HeldOut
    """What a training row must not show; grows by the test and validation sides."""
    extra: frozenset[str]
    """Normalised requests that neither training nor validation may have."""
    sieve: Sieve = field(default_factory=Sieve)
    normal: set[str] = field(default_factory=set)
    """Normalised requests of the validation and test side, as written."""
    counts: dict[str, Tally] = field(default_factory=dict)
    leaks: int = 0
    first: Leak | None = None

    def write(self, split: Split, name: str) -> None:
        """Pass a split's rows on to its file. The splits come in the order test, dev, train."""
        counts = self.counts[split] = Tally()
        write = self.files[name].write
        for row in self._rows(split):
            if split != "test" and row.normal in self.extra:
                continue
            if split == "train":
                if row.normal in self.normal:
                    continue
                self._count(self.held.said(row.id, row.wordings))
            else:
                self.normal.add(row.normal)
                self.held.hold(row.id, row.user)
            if split == "test" and self.recipe.strict:
                self.held.wordings.update((wording, row.id) for wording in row.wordings if wording)
            counts.add(json.loads(row.line), row.tools)
            write(row.line + "\n")

    def check(self, out: Path, train: Path, seekers: Sequence[Seeker]) -> None:
        """Read the training file again, row by row, for what no training row may show. Raises `UserError`.

        `seekers` see every row too, for what they count.
        """
        for _, case in stream_cases(train):
            self._count(self.held.leak(case))
            for seeker in seekers:
                seeker.look(case)
        if self.first is None:
            return
        if self.first.kind in ("exact", "normalised"):
            what = f"{self.leaks} held-out requests were about to be trained on, first {self.first.text!r}"
        else:
            what = (
                f"{self.leaks} training rows have a template of the test side or its wording, first "
                f"{self.first.train_id} ({self.first.kind} {self.first.text!r} of {self.first.test_id}); "
                "the sides need templates of their own"
            )
        raise UserError(f"{out}: {what}; nothing written")

    def _rows(self, split: Split) -> Iterator[Row]:
        """The patterns' rows that nothing forbids, then the corpora's; the sieve takes up what later splits need."""
        made, said = Sieve(), Sieve()
        for block in self.source(split):
            for row in block:
                if split != "train":
                    made.forbid(row.user, row.wordings if split == "test" else ())
                if self.sieve.passes(row.user, row.wordings) and said.passes(row.user, ()):
                    if split != "train":
                        said.forbid(row.user)
                    yield row
        self.sieve.join(made)
        ids: set[str] = set()
        for case in corpora_rows(self.recipe, split):
            if case.id in ids:
                raise UserError(f"{split}: case {case.id!r} comes twice; name each corpus of the recipe once")
            ids.add(case.id)
            yield to_row(case)

    def _count(self, leak: Leak | None) -> None:
        if leak is not None:
            self.leaks += 1
            self.first = self.first or leak
