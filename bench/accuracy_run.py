"""What `bench accuracy` does: find adapters and cases, export what is missing, ask, judge, write."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from bench.accuracy import About, Measured, build, validate
from bench.accuracy_cases import Subject, subject, wanted
from bench.accuracy_page import render
from bench.accuracy_plot import draw
from bench.answering import LabelledRun, Provided, ask, check_runs_here, exportable, provide
from bench.folder import write_lines
from bench.machine import describe
from bench.records import Settings, Variant
from bench.report import samples
from bench.screen import Screen
from bench.suites import Suite
from export.atomic import staged, write_json
from router.toolset import Toolset
from runtimes.errors import UserError

UNHURRIED_S: Final = 24 * 3600.0
"""Time for the cases of one toolset: enough to decode them all pass by pass on any runtime."""
ANSWERS: Final = "samples.jsonl"


def accuracy(
    settings: Settings,
    adapters: Sequence[str],
    screen: Screen,
    out: Path,
    *,
    variant: str,
    data: Path | None = None,
    limit: int | None = None,
) -> dict[str, Any]:
    """Measure the adapters of ``settings.model`` and write `out`; returns the report.

    Raises `UserError` for what can be mended before anything is asked; a toolset whose worker fails later is told in
    the report, and the others are there all the same.
    """
    chosen = exportable(variant)
    check_runs_here(chosen, variant)
    if data is not None and not data.is_dir():
        raise UserError(f"--data {data}: no such folder; it holds a folder for each public corpus")
    subjects = []
    with screen.progress() as bars:
        for one in wanted(settings.model, adapters):
            bars.describe("cases", one.name)
            subjects.append(subject(settings.model, one, settings.suite, data, limit))
        bars.end("cases")
    twice = [one.name for one in subjects if sum(other.name == one.name for other in subjects) > 1]
    if twice:
        raise UserError(f"--adapters: {twice[0]} is the toolset of two of them; compare those with `bench lift`")
    if not any(one.suite for one in subjects):
        raise UserError(f"nothing to measure: {'; '.join(f'{one.name}: {one.reason}' for one in subjects)}")
    with staged(out) as staging:
        scratch = staging / "scratch"
        logs = scratch / "logs"
        logs.mkdir(parents=True)
        measured = _measure(subjects, chosen, settings, screen, scratch, logs)
        shutil.rmtree(scratch, ignore_errors=True)
        about = About(
            settings.model, chosen.artifact, settings.suite, data.name if data else None, limit, describe(),
            settings.command,
        )  # fmt: skip
        report = build(about, measured)
        validate(report)
        _write(staging, report, measured)
    return report


def _measure(
    subjects: Sequence[Subject], variant: Variant, settings: Settings, screen: Screen, scratch: Path, logs: Path
) -> list[Measured]:
    """All exported first, then each asked its cases in a process of its own."""
    screen.stage(1, 2, "Export", f"{variant.artifact}: what is missing; the rest is taken from the cache")
    provided: dict[str, Provided] = {}
    for one in subjects:
        if one.suite and one.toolset:
            own = replace(settings, toolset=one.wanted.name)
            provided[one.name] = provide(
                settings.model, one.wanted.adapter, variant, one.toolset, own, screen, logs, label=one.name,
                part=one.wanted.name,
            )  # fmt: skip
        else:
            screen.skipped(one.name, str(one.reason))
    how = "with the grammar" + (" and without" if "unconstrained" in settings.modes else "")
    screen.stage(2, 2, "Answer", f"suite {settings.suite}, {how}")
    out = []
    for one in subjects:
        if one.suite is None or one.toolset is None:
            out.append(Measured(one))
            continue
        own = replace(settings, toolset=one.wanted.name)
        out.append(_answers(one, one.suite, one.toolset, provided[one.name], own, screen, scratch, logs))
    return out


def _answers(
    one: Subject, suite: Suite, toolset: Toolset, made: Provided, settings: Settings, screen: Screen, scratch: Path,
    logs: Path,
) -> Measured:  # fmt: skip
    run = LabelledRun(made.variant, artifact=made.artifact, label=one.name)
    for note in suite.notes:
        screen.say(f"  note: {one.name}: {note}")
    try:
        ask(run, one.name, suite, toolset, settings, screen, scratch, logs, seconds=UNHURRIED_S)
    except UserError as failure:
        reason = str(failure).removeprefix(f"{one.name}: ")
        if run.status == "ok":  # it failed before it was asked, so nobody has told yet
            screen.failed(one.name, reason)
        return Measured(one, model=made.model, reason=reason, failed=True)
    return Measured(one, run, made.model)


def _write(folder: Path, report: dict[str, Any], measured: Sequence[Measured]) -> None:
    drawn = draw(report, folder / "accuracy.png")
    write_json(folder / "report.json", report)
    (folder / "accuracy.md").write_text(render(report, plot="accuracy.png" if drawn else None), encoding="utf-8")
    write_lines(folder / ANSWERS, _samples(measured))


def _samples(measured: Sequence[Measured]) -> Iterator[dict[str, Any]]:
    """Every answer with its toolset and set."""
    for one in measured:
        if one.run is None or one.subject.suite is None or one.subject.sets is None:
            continue
        for line in samples([one.run], one.subject.suite):
            yield {"toolset": one.subject.name, "set": one.subject.sets[line["case"]], **line}
