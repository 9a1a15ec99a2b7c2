"""Which cases a bench runs: suites from ``configs/bench/*.yaml``, or any JSONL file of cases."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from configs import path as config
from router.cases import Case, case_from_dict, load_cases
from runtimes.errors import UserError

QUICK_CASES = 72
"""Size of the subset that `--quick` uses on every runtime."""


class NoCases(UserError):
    """A suite has no cases for a toolset, or lacks a file that it must have; `brief` says it without paths."""

    def __init__(self, message: str, brief: str) -> None:
        super().__init__(message)
        self.brief = brief


@dataclass(frozen=True)
class Suite:
    """Cases and where they come from. `notes` says what is missing or left out, for the report."""

    name: str
    cases: tuple[Case, ...]
    sha256: str
    files: tuple[str, ...] = ()
    templates: dict[str, str] = field(default_factory=dict)
    """Case id -> template, for cases that were made from one."""
    origins: dict[str, str] = field(default_factory=dict)
    """Case id -> name of its file."""
    of: int | None = None
    """Size of the whole suite where this is a subset of it."""
    notes: tuple[str, ...] = ()

    def describe(self) -> dict[str, Any]:
        """The `suite` entry of the report."""
        buckets: dict[str, int] = {}
        for case in self.cases:
            buckets[case.bucket] = buckets.get(case.bucket, 0) + 1
        return {
            "name": self.name,
            "cases": len(self.cases),
            "of": self.of if self.of is not None else len(self.cases),
            "sha256": self.sha256,
            "files": list(self.files),
            "buckets": buckets,
            "notes": list(self.notes),
        }


def suite_names() -> list[str]:
    """The suites that are shipped, in alphabetical order."""
    return sorted(path.stem for path in config("bench").glob("*.yaml"))


def load_suite(name: str, toolset: str) -> Suite:
    """The suite called `name` for a toolset. Raises `UserError` for an unknown suite, `NoCases` for one without any."""
    import yaml

    names = suite_names()
    if name not in names:
        raise UserError(f"unknown suite {name!r}; there are {', '.join(names)} (or give a file: --cases FILE)")
    source = config("bench", f"{name}.yaml")
    try:
        spec = yaml.safe_load(source.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"{source}: not readable as YAML ({' '.join(str(error).split())})") from None
    entries = spec.get("cases") if isinstance(spec, dict) else None
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{source}: needs a list 'cases' of {{file: NAME, optional: true|false}}")
    folder = config("cases", toolset)
    found: list[Path] = []
    notes: list[str] = []
    for number, entry in enumerate(entries, 1):
        if not isinstance(entry, dict) or not isinstance(entry.get("file"), str):
            raise UserError(f"{source}: entry {number} of 'cases' needs 'file', the name of a JSONL file")
        path = folder / entry["file"]
        if path.is_file():
            found.append(path)
        elif entry.get("optional"):
            notes.append(f"{entry['file']} is not there (configs/cases/{toolset}); the suite runs without it")
        else:
            raise NoCases(
                f"{path}: missing; suite {name!r} needs it (make it with `edgecall data`, or use --cases)",
                f"no {path.name} in configs/cases/{toolset}, which suite {name!r} needs",
            )
    if not found:
        raise NoCases(
            f"suite {name!r} has no cases for toolset {toolset!r} in {folder}; give a file: --cases FILE",
            f"no cases of suite {name!r} in configs/cases/{toolset}",
        )
    suite = load_files(found, name=name)
    return replace(suite, notes=tuple(notes))


def load_files(paths: Sequence[Path], *, name: str) -> Suite:
    """All cases of some JSONL files as one suite. Raises `UserError` for a duplicate id or an empty file."""
    cases: list[Case] = []
    templates: dict[str, str] = {}
    seen: dict[str, Path] = {}
    for path in paths:
        found, patterns = _read(path)
        templates.update(patterns)
        for case in found:
            if case.id in seen:
                raise UserError(f"{path}: case id {case.id!r} is also in {seen[case.id]}; ids must differ")
            seen[case.id] = path
            cases.append(case)
    if not cases:
        raise UserError(f"{', '.join(map(str, paths))}: no cases")
    origins = {case: path.name for case, path in seen.items()}
    return Suite(name, tuple(cases), digest(cases), tuple(path.name for path in paths), templates, origins)


def order(cases: Iterable[Case]) -> list[Case]:
    """The cases in an order that depends on their ids alone, so that any beginning of it is a fair sample."""
    return sorted(cases, key=lambda case: hashlib.sha256(case.id.encode()).digest())


def subset(suite: Suite, size: int = QUICK_CASES) -> Suite:
    """A fixed part of a suite, the same everywhere: each bucket in proportion, and at least one case of each.

    Largest remainders fill the places that rounding leaves; within a bucket the choice follows `order`.
    """
    total = len(suite.cases)
    if total <= size:
        return suite
    buckets: dict[str, list[Case]] = {}
    for case in order(suite.cases):
        buckets.setdefault(case.bucket, []).append(case)
    exact = {name: len(members) * size / total for name, members in buckets.items()}
    places = {name: max(1, int(share)) for name, share in exact.items()}
    for name in sorted(exact, key=lambda n: (-(exact[n] - int(exact[n])), n)):
        if sum(places.values()) >= size:
            break
        places[name] += 1
    chosen = {case.id for name, members in buckets.items() for case in members[: places[name]]}
    cases = tuple(case for case in suite.cases if case.id in chosen)
    note = f"a fixed subset of {len(cases)} of {total} cases, the same on every runtime; the full run uses all"
    return replace(suite, cases=cases, sha256=digest(cases), of=total, notes=(*suite.notes, note))


def digest(cases: Iterable[Case]) -> str:
    """Names the content of some cases, in their order."""
    out = hashlib.sha256()
    for case in cases:
        out.update(json.dumps(case.to_dict(), sort_keys=True, ensure_ascii=False).encode() + b"\n")
    return out.hexdigest()


def _read(path: Path) -> tuple[list[Case], dict[str, str]]:
    """The cases of a file, and the template of each that names one.

    `template` is a key of this room alone: intervals over cases made from one pattern need it, routing does not.
    """
    templates: dict[str, str] = {}
    stripped: list[tuple[str, dict[str, Any]]] = []
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
        rows = [(number, json.loads(line)) for number, line in enumerate(lines, 1) if line.strip()]
    except (OSError, ValueError, RecursionError):
        rows = []  # load_cases says what is wrong
    for number, row in rows:
        if isinstance(row, dict) and isinstance(row.get("template"), str):
            templates[str(row.get("id"))] = row.pop("template")
        stripped.append((f"{path}:{number}", row))
    if not templates:
        return load_cases(path), {}
    cases = [case_from_dict(row, place) for place, row in stripped]
    return cases, templates
