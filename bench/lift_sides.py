"""The two sides of a lift: one model's answers each, from a finished bench (`from_report`) or run now (`from_run`)."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from bench.metrics import Verdict
from bench.records import MODES, RUN_KEYS, Mode, Run, described
from bench.report import SCHEMA, samples, validate
from bench.suites import Suite
from router.toolset import Toolset
from runtimes.errors import UserError

ANSWERS: Final = "samples.jsonl"

Label = Literal["base", "tuned"]


@dataclass(frozen=True)
class Side:
    """One model's answers. `answers` holds lines of ``samples.jsonl`` by mode and case; `suite` is a report's entry."""

    label: Label
    source: str
    model: dict[str, Any]
    run: dict[str, Any]
    machine: dict[str, Any]
    toolset: str
    toolset_sha256: str
    suite: dict[str, Any]
    answers: dict[Mode, dict[str, dict[str, Any]]]
    warnings: tuple[str, ...] = ()

    def describe(self) -> dict[str, Any]:
        """The side's entry in the report."""
        return {"source": self.source, "model": self.model, "run": self.run, "machine": self.machine}


def from_run(
    label: Label,
    source: str,
    run: Run,
    model: dict[str, Any],
    machine: dict[str, Any],
    suite: Suite,
    toolset: Toolset,
) -> Side:
    """The side of a run whose cases have just been answered and judged."""
    return Side(
        label, source, model, described(run), machine, toolset.name, toolset.sha256, suite.describe(),
        _by_mode(samples([run], suite)), tuple(run.warnings),
    )  # fmt: skip


def from_report(label: Label, path: Path, variant: str | None = None) -> Side:
    """The side of one run of a finished bench: ``report.json`` (or its folder) and the ``samples.jsonl`` beside it.

    Raises `UserError` where one is missing or broken, the two do not belong together, or the run is not in them.
    """
    report, path = read_report(path), report_file(path)
    runs = {run["artifact"]: run for run in report["runs"]}
    run = runs.get(variant) if variant else next(iter(runs.values()), None)
    if run is None or (variant is None and len(runs) != 1):
        asked = f"has no run {variant!r}" if variant else "says nothing of which run is meant"
        raise UserError(f"{path}: {asked}; there are {', '.join(runs) or 'none'}: choose with --variant")
    if run["accuracy"] is None:
        raise UserError(f"{path}: {run['artifact']} answered nothing ({run['status']}: {run['reason']})")
    answers = _by_mode(_read_answers(path.with_name(ANSWERS), run["artifact"]))
    for mode, key in zip(MODES, ("accuracy", "accuracy_unconstrained"), strict=True):
        told, rows = run[key] or {"n": 0, "exact": None}, answers[mode].values()
        share = sum(right(row, "exact") for row in rows) / len(rows) if rows else None
        if told["n"] != len(rows) or (share is not None and not math.isclose(share, told["exact"], abs_tol=1e-9)):
            raise UserError(
                f"{path.with_name(ANSWERS)}: {len(rows)} answers of {run['artifact']} ({mode}) that do not make the "
                f"figures of {path.name} beside it; keep the two files of one bench together"
            )
    known = {key: run.get(key) for key in RUN_KEYS}
    return Side(
        label, str(path), report["model"], known, report["machines"][0], report["toolset"],
        str(report.get("toolset_sha256", "")), report["suite"], answers, tuple(run["warnings"]),
    )  # fmt: skip


def report_file(path: Path) -> Path:
    """The report that a path means: itself, or the one in the folder."""
    return path / "report.json" if path.is_dir() else path


def read_report(path: Path) -> dict[str, Any]:
    """A checked ``report.json``. Raises `UserError` where it is none of `bench all-runtimes`."""
    path = report_file(path)
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable as a report ({error})") from None
    if not isinstance(report, dict) or report.get("schema") != SCHEMA:
        raise UserError(f"{path}: not a report of `bench all-runtimes` ({SCHEMA}); give one, or a model")
    try:
        validate(report)
    except ValueError as error:
        raise UserError(f"{path}: {error}; make it again") from None
    return report


def right(line: dict[str, Any], metric: str) -> bool:
    """Whether an answer, a line of ``samples.jsonl``, is right by `metric`, one of `bench.metrics.FIGURES`."""
    return bool(line["verdict"][metric])


def _by_mode(lines: Iterable[dict[str, Any]]) -> dict[Mode, dict[str, dict[str, Any]]]:
    out: dict[Mode, dict[str, dict[str, Any]]] = {mode: {} for mode in MODES}
    for line in lines:
        if line["mode"] in MODES:
            out[line["mode"]][line["case"]] = line
    return out


def _read_answers(path: Path, run: str) -> list[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = "missing" if isinstance(error, FileNotFoundError) else f"not readable ({error})"
        raise UserError(f"{path}: {reason}; a report is compared case by case: keep its {ANSWERS} beside it") from None
    lines = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if row["run"] == run and row["mode"] in MODES:
                Verdict(**row["verdict"])
                lines.append({key: row[key] for key in ("run", "mode", "case", "bucket", "calls", "verdict")} | row)
        except (ValueError, TypeError, KeyError, RecursionError):
            raise UserError(f"{path}:{number}: not an answer as a bench writes it; run the bench again") from None
    return lines
