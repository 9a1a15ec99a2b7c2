"""What `bench lift` does: find out what base and tuned are, get the answers that no report has, compare, write."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.answering import LabelledRun, Provided, check_runs_here, exportable, provide
from bench.answering import ask as answer
from bench.folder import write_lines
from bench.lift import build, validate
from bench.lift_page import draw, render, write_csv
from bench.lift_sides import ANSWERS, Label, Side, from_report, from_run, read_report
from bench.machine import describe
from bench.records import MODES, Mode, Settings, Variant
from bench.screen import Screen
from bench.suites import Suite, load_files, load_suite, subset
from bench.variants import choose
from export.atomic import staged, write_json
from router.toolset import Toolset
from router.toolset_load import load_json, load_toolset
from runtimes import FORMATS, runtime
from runtimes.artifact import Artifact, is_artifact, open_artifact
from runtimes.errors import UserError

DEFAULT_VARIANT: Final = "gguf-q8_0"


@dataclass(frozen=True)
class Asked:
    """What one option names: a report, an artifact or a model (with `adapter`, if one was given)."""

    label: Label
    source: str
    adapter: str | None
    report: dict[str, Any] | None = None
    artifact: Artifact | None = None


def lift(
    asked: Sequence[Asked],
    settings: Settings,
    screen: Screen,
    out: Path,
    *,
    variant: str | None = None,
    runtime: str | None = None,
    mode: Mode = "grammar",
) -> dict[str, Any]:
    """Compare base and tuned and write `out`; returns the report. Raises `UserError`, and then `out` is not there."""
    name = _variant_name(asked, variant, runtime)
    known = {
        one.label: from_report(one.label, Path(one.source), name if variant or len(one.report["runs"]) > 1 else None)
        for one in asked
        if one.report
    }
    running = [one for one in asked if one.label not in known]
    toolset = load_toolset(settings.toolset) if running else None
    described = next((side.suite for side in known.values()), None)
    named = toolset.name if toolset else next(iter(known.values())).toolset
    suite = _suite(settings, named, described, needed=bool(running))
    if toolset is not None:
        for one in asked:
            _check_toolset(one, known.get(one.label), toolset, settings.toolset)
    variants = {one.label: _variant(one, name, runtime) for one in running}
    with staged(out) as staging:
        if toolset is not None and suite is not None and running:
            known |= _run(running, variants, suite, toolset, settings, screen, staging / "scratch")
            shutil.rmtree(staging / "scratch", ignore_errors=True)
        report = build(known["base"], known["tuned"], suite, mode=mode, command=settings.command)
        validate(report)
        _write(staging, report, [known["base"], known["tuned"]])
    return report


def ask(label: Label, source: str, adapter: str | None) -> Asked:
    path = Path(source)
    if path.is_file() or ((path / "report.json").is_file() and (path / ANSWERS).is_file()):
        found = Asked(label, source, adapter, report=read_report(path))
    elif is_artifact(path):
        found = Asked(label, source, adapter, artifact=open_artifact(path))
    else:
        return Asked(label, source, adapter)
    if adapter is not None:
        kind = "a report" if found.report else "an exported artifact"
        raise UserError(f"--{label}-adapter: {source} is {kind}, whose weights are settled; give a model folder")
    return found


def toolset_of(asked: Sequence[Asked]) -> str:
    """The toolset where none is named: an artifact's own, a report's, else kiwi."""
    for one in asked:
        if one.artifact is not None:
            return str(one.artifact.toolset)
    return next((str(one.report["toolset"]) for one in asked if one.report), "kiwi")


def _variant_name(asked: Sequence[Asked], variant: str | None, runtime_name: str | None) -> str:
    """What models are exported as, and which run counts of a report that has several.

    As named, or what the other side is (like is compared with like), or a runtime's 8 bits, its 32 where it has none.
    """
    if variant is not None:
        return variant
    fixed = [one.artifact.name for one in asked if one.artifact]
    runs = [{run["artifact"] for run in one.report["runs"]} for one in asked if one.report]
    fixed += [next(iter(names)) for names in runs if len(names) == 1]
    if fixed:
        return fixed[0]
    if runtime_name is not None:
        return choose(Settings(runtimes=(runtime_name,), quick=True))[-1].name
    return DEFAULT_VARIANT


def _variant(one: Asked, name: str, runtime_name: str | None) -> Variant:
    """How a side that is to be run is run here. Raises `UserError` where that cannot be."""
    if one.artifact is None:
        found = exportable(name or DEFAULT_VARIANT, runtime_name)
    else:
        held = one.artifact
        found = Variant(runtime_name or FORMATS[held.format], held.format, held.quant, held.precision)
        opens = runtime(found.runtime).FORMAT
        if opens != held.format:
            raise UserError(f"{one.source}: is {held.format}, {found.runtime} opens {opens}; leave --runtime out")
    check_runs_here(found, one.source)
    return found


def _suite(settings: Settings, toolset: str, described: dict[str, Any] | None, *, needed: bool) -> Suite | None:
    """The cases; those of a report, if there is one. None where they are not at hand and nobody `needed` them."""
    told = settings.cases is not None or bool(settings.suite)
    try:
        if settings.cases is not None:
            suite = load_files([settings.cases], name=settings.cases.stem)
        else:
            suite = load_suite(settings.suite or (described["name"] if described else "default"), toolset)
    except UserError:
        if told or described is None:
            raise
        suite = None
    if described is None:
        return suite
    # A report of `--quick` answered the fixed part of its suite.
    for found in (suite, subset(suite)) if suite else ():
        if found.sha256 == described["sha256"]:
            return found
    if told or needed:
        raise UserError(
            f"the report answered {described['cases']} cases of {described['name']} "
            f"(sha256 {described['sha256'][:8]}), which are not those here; give its own with --cases FILE"
        )
    return None


def _check_toolset(one: Asked, side: Side | None, toolset: Toolset, named: str) -> None:
    if one.artifact is not None:
        found = load_json(one.artifact.toolset)
        where, sha256, name = str(one.artifact.folder), found.sha256, found.name
    elif side is not None:
        where, sha256, name = side.source, side.toolset_sha256, side.toolset
    else:
        return
    if sha256 != toolset.sha256:
        raise UserError(
            f"{where}: made with toolset {name} ({sha256[:8]}), not with {named} ({toolset.sha256[:8]}); give its own "
            "with --toolset, or make it again"
        )


def _run(
    running: Sequence[Asked],
    variants: dict[Label, Variant],
    suite: Suite,
    toolset: Toolset,
    settings: Settings,
    screen: Screen,
    scratch: Path,
) -> dict[Label, Side]:
    """The sides that no report has: all exported first, then asked every case, each in a process of its own."""
    logs = scratch / "logs"
    logs.mkdir(parents=True)
    screen.stage(1, 2, "Export", "what is missing; the rest is taken from the cache")
    provided = {one.label: _provide(one, variants[one.label], toolset, settings, screen, logs) for one in running}
    screen.stage(2, 2, "Answer", f"{len(suite.cases)} cases of {suite.name}, with the grammar and without")
    deadline = time.monotonic() + settings.budget_s
    sides: dict[Label, Side] = {}
    for waiting, one in zip(range(len(running), 0, -1), running, strict=True):
        made = provided[one.label]
        run = LabelledRun(made.variant, artifact=made.artifact, label=one.label)
        share = max(1.0, deadline - time.monotonic()) / waiting
        answer(run, one.source, suite, toolset, settings, screen, scratch, logs, seconds=share)
        sides[one.label] = from_run(one.label, one.source, run, made.model, describe(), suite, toolset)
    return sides


def _provide(
    one: Asked, variant: Variant, toolset: Toolset, settings: Settings, screen: Screen, logs: Path
) -> Provided:
    """The artifact of a side: the one that was given, or the model's."""
    if one.artifact is not None:
        source = one.artifact.manifest["source"]
        known = {"name": str(source.get("name", one.artifact.folder.name)), "sha256": str(source.get("sha256", ""))}
        return Provided(one.artifact, variant, {**known, "parameters": source.get("parameters")})
    return provide(one.source, one.adapter, variant, toolset, settings, screen, logs, label=one.label)


def _write(folder: Path, report: dict[str, Any], sides: Sequence[Side]) -> None:
    drawn = draw(report, folder / "lift.png")
    write_json(folder / "report.json", report)
    (folder / "lift.md").write_text(render(report, plot="lift.png" if drawn else None), encoding="utf-8")
    write_csv(report, folder / "lift.csv")
    write_lines(
        folder / ANSWERS,
        (line | {"run": side.label} for side in sides for mode in MODES for line in side.answers[mode].values()),
    )
