"""An imported source on disk: written in one go with its report, and read back.

==================  =================================================================================
``train.jsonl``     cases; requests that repeat a development or test row are left out
``dev.jsonl``       the development portion; ``test.jsonl`` the test portion, where there is one
``toolset.json``    the toolset of all cases, or, where requests bring their own tools,
``toolsets.jsonl``  one toolset a line, and
``assigned.jsonl``  ``{"case": id, "toolset": name}`` for every case
``report.json``     counts, what was left out and why, duplicates, licence, checksums
==================  =================================================================================
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

from router.cases import Case, case_from_dict
from router.toolset import Toolset, to_dict
from router.toolset_load import from_dict, load_toolset
from runtimes.errors import UserError
from train.data.importers.base import Importer, Options, Row, Skipped, Split, rows
from train.data.importers.duplicates import NEAR, near, near_index
from train.data.importers.files import check, json_lines, replacing
from train.data.leakage import normalised

SPLITS: Final[tuple[Split, ...]] = ("train", "dev", "test")
_CASES: Final = tuple(f"{split}.jsonl" for split in SPLITS)
_ONE: Final = ("toolset.json",)
_SEVERAL: Final = ("toolsets.jsonl", "assigned.jsonl")
_NAMED: Final = 5
"""Places that the report names per reason."""


@dataclass
class _Counts:
    """What is counted while rows pass."""

    rows: Counter[str] = field(default_factory=Counter)
    tools: dict[str, Counter[str]] = field(default_factory=lambda: {s: Counter() for s in SPLITS})
    buckets: dict[str, Counter[str]] = field(default_factory=lambda: {s: Counter() for s in SPLITS})
    skipped: dict[str, list[str]] = field(default_factory=dict)
    skipped_rows: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    near: int = 0


def write_import(
    importer: Importer,
    folder: Path,
    out: Path,
    options: Options | None = None,
    *,
    toolset: Toolset | None = None,
    any_version: bool = False,
    keep_going: bool = False,
) -> dict[str, Any]:
    """Import a source from its upstream files below `folder` into the folder `out`; returns the report.

    Rows are streamed: memory holds the development requests and one upstream file. Raises `UserError` for missing
    or unknown files and, without `keep_going`, at the first faulty row; then `out` is as it was before.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; it should hold {importer.name} from {importer.address}")
    options = options or Options()
    status = check(importer, folder, any_version=any_version)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out}: cannot be made a folder ({error.strerror})") from None
    counts = _Counts()
    toolsets: dict[str, Toolset] = {}
    spool = out / f".tmp-{os.getpid()}-spool.jsonl"
    try:
        with ExitStack() as stack:
            names = (*_CASES, *(_ONE if importer.toolset else _SEVERAL))
            files: dict[str, IO[str]] = {name: stack.enter_context(replacing(out / name)) for name in names}
            found = rows(importer, folder, options, toolset=toolset, keep_going=keep_going)
            kept = _first_pass(found, files, spool, toolsets, counts)
            _second_pass(spool, files, kept, counts)
            if not counts.rows:
                raise UserError(f"{folder}: no row of {importer.name} could be read; nothing is written")
            _write_toolsets(files, toolsets)
    finally:
        spool.unlink(missing_ok=True)
    for name in (*_CASES, *_ONE, *_SEVERAL):  # splits without rows, and what an earlier import of another kind left
        if (out / name).exists() and (name not in names or not (out / name).stat().st_size):
            (out / name).unlink()
    report = _report(importer, options, status, toolsets, counts)
    with replacing(out / "report.json") as file:
        file.write(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    return report


def read_import(folder: Path, split: Split) -> Iterator[tuple[Case, Toolset]]:
    """The cases of a split with their toolsets, from what `write_import` wrote."""
    toolset_of = toolset_lookup(folder / ("toolset.json" if (folder / "toolset.json").is_file() else "toolsets.jsonl"))
    for place, data in json_lines(folder / f"{split}.jsonl"):
        case = case_from_dict(data, place)
        yield case, toolset_of[case.id]


class ToolsetLookup:
    """Case id -> toolset: the same for all, or as assigned. `name` is the one's, or that of all together."""

    def __init__(
        self, name: str, default: Toolset | None, toolsets: dict[str, Toolset], assigned: dict[str, str]
    ) -> None:
        self.name, self.default, self.toolsets, self.assigned = name, default, toolsets, assigned

    def __getitem__(self, case: str) -> Toolset:
        if self.default is not None:
            return self.default
        if case not in self.assigned or self.assigned[case] not in self.toolsets:
            raise UserError(
                f"case {case!r} has no toolset in toolsets.jsonl and assigned.jsonl; import the source again"
            )
        return self.toolsets[self.assigned[case]]


def toolset_lookup(path: str | Path) -> ToolsetLookup:
    """The toolset of every case: a name, a file, or ``toolsets.jsonl`` with ``assigned.jsonl`` beside it."""
    if Path(path).suffix != ".jsonl":
        return ToolsetLookup((one := load_toolset(path)).name, one, {}, {})
    built = (from_dict(data, place) for place, data in json_lines(Path(path)))
    toolsets = {toolset.name: toolset for toolset in built}
    assigned = {}
    for place, line in json_lines(Path(path).with_name("assigned.jsonl")):
        try:
            assigned[line["case"]] = line["toolset"]
        except (KeyError, TypeError):
            raise UserError(f"{place}: a line has 'case' and 'toolset'; import the source again") from None
    return ToolsetLookup(Path(path).resolve().parent.name, None, toolsets, assigned)


def _first_pass(
    found: Iterator[Row | Skipped],
    files: dict[str, IO[str]],
    spool: Path,
    toolsets: dict[str, Toolset],
    counts: _Counts,
) -> dict[str, str]:
    """Development and test rows to their files, training rows to the spool. Returns normalised -> exact request."""
    kept: dict[str, str] = {}
    ids: set[str] = set()
    with spool.open("w", encoding="utf-8") as later:
        for item in found:
            if isinstance(item, Skipped):
                counts.skipped_rows[item.reason] += 1
                places = counts.skipped.setdefault(item.reason, [])
                if len(places) < _NAMED:
                    places.append(item.place + (f": {item.detail}" if item.detail else ""))
                continue
            if item.case.id in ids:
                raise UserError(f"{item.place}: {item.case.id!r} comes twice; the file holds a row twice")
            ids.add(item.case.id)
            if toolsets.setdefault(item.toolset.name, item.toolset) != item.toolset:
                raise AssertionError(f"two toolsets called {item.toolset.name}")
            counts.notes.update(item.notes)
            line = {"toolset": item.toolset.name, "case": item.case.to_dict()}
            if item.split == "train":
                later.write(json.dumps(line, ensure_ascii=False) + "\n")
            else:
                kept[normalised(item.case.user)] = item.case.user
                _write(files, item.split, line, counts)
    return kept


def _second_pass(spool: Path, files: dict[str, IO[str]], kept: dict[str, str], counts: _Counts) -> None:
    """Training rows to their file, less those that repeat a kept request."""
    index = near_index(kept)
    exact = set(kept.values())
    with spool.open(encoding="utf-8") as earlier:
        for text in earlier:
            line = json.loads(text)
            user = line["case"]["user"]
            if user in exact or normalised(user) in kept:
                counts.dropped["exact" if user in exact else "normalised"] += 1
                continue
            counts.near += bool(near(index, user))
            _write(files, "train", line, counts)


def _write(files: dict[str, IO[str]], split: Split, line: dict[str, Any], counts: _Counts) -> None:
    case = line["case"]
    files[f"{split}.jsonl"].write(json.dumps(case, ensure_ascii=False) + "\n")
    if "assigned.jsonl" in files:
        files["assigned.jsonl"].write(json.dumps({"case": case["id"], "toolset": line["toolset"]}) + "\n")
    counts.rows[split] += 1
    counts.tools[split]["+".join(call["name"] for call in case["calls"]) or "no call"] += 1
    counts.buckets[split][case["bucket"]] += 1


def _write_toolsets(files: dict[str, IO[str]], toolsets: dict[str, Toolset]) -> None:
    for toolset in toolsets.values():
        if "toolset.json" in files:
            files["toolset.json"].write(json.dumps(to_dict(toolset), indent=1, ensure_ascii=False) + "\n")
        else:
            files["toolsets.jsonl"].write(json.dumps(to_dict(toolset), ensure_ascii=False) + "\n")


def _report(
    importer: Importer, options: Options, status: dict[str, str], toolsets: dict[str, Toolset], counts: _Counts
) -> dict[str, Any]:
    return {
        "source": importer.name,
        "title": importer.title,
        "licence": importer.licence,
        "address": importer.address,
        "seed": options.seed,
        "samples": options.samples,
        "files": {
            **Counter(status.values()),
            "unverified_files": sorted(name for name, s in status.items() if s == "unverified")[:20],
        },
        "toolsets": len(toolsets),
        "splits": {
            split: {
                "rows": counts.rows[split],
                "by_bucket": dict(sorted(counts.buckets[split].items())),
                "by_tool": dict(sorted(counts.tools[split].items())),
            }
            for split in SPLITS
            if counts.rows[split]
        },
        "left_out": {
            reason: {"rows": counts.skipped_rows[reason], "first": places} for reason, places in counts.skipped.items()
        },
        "notes": dict(counts.notes),
        "dropped_from_training": {kind: counts.dropped[kind] for kind in ("exact", "normalised")},
        "near_duplicates_in_training": {"jaccard_of_words": NEAR, "rows": counts.near},
    }
