"""What `bench lift` does: find out what base and tuned are, get the answers that no report has, compare, write."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.fleet import Fleet
from bench.judging import answers
from bench.lift import build, validate
from bench.lift_page import draw, render, write_csv
from bench.lift_sides import ANSWERS, Label, Side, from_report, from_run, read_report
from bench.machine import describe
from bench.process import WorkerFailure
from bench.records import MODES, Mode, Run, Settings, Variant
from bench.run import Bench
from bench.screen import Screen
from bench.suites import Suite, load_files, load_suite, subset
from bench.variants import Missing, choose, export
from export.atomic import staged
from export.checkpoint import count_parameters
from export.pipeline import merge_checkpoint
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


@dataclass(eq=False)
class LabelledRun(Run):
    """A run called by its side, so that the two have logs and lines of their own."""

    label: Label = "base"

    @property
    def name(self) -> str:
        return self.label


@dataclass(frozen=True)
class Provided:
    """A side that is to be run: its artifact, how, and the report's entry on its model."""

    artifact: Artifact
    variant: Variant
    model: dict[str, Any]


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
        return choose(Settings(runtimes=(runtime_name,), quick=True))[-1].artifact
    return DEFAULT_VARIANT


def _variant(one: Asked, name: str, runtime_name: str | None) -> Variant:
    """How a side that is to be run is run here. Raises `UserError` where that cannot be."""
    if one.artifact is None:
        found = choose(Settings(runtimes=(runtime_name,) if runtime_name else (), variants=(name or DEFAULT_VARIANT,)))[
            0
        ]
    else:
        held = one.artifact
        found = Variant(runtime_name or FORMATS[held.format], held.format, held.quant, held.precision)
        opens = runtime(found.runtime).FORMAT
        if opens != held.format:
            raise UserError(f"{one.source}: is {held.format}, {found.runtime} opens {opens}; leave --runtime out")
    state = runtime(found.runtime).availability()
    if not state.available:
        raise UserError(f"{one.source}: {found.runtime} cannot run here: {state.reason}; {state.fix}")
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
    cases = scratch / "cases.jsonl"
    cases.write_text("".join(json.dumps(case.to_dict()) + "\n" for case in suite.cases), encoding="utf-8")
    screen.stage(1, 2, "Export", "what is missing; the rest is taken from the cache")
    provided = {one.label: _provide(one, variants[one.label], toolset, settings, screen, logs) for one in running}
    screen.stage(2, 2, "Answer", f"{len(suite.cases)} cases of {suite.name}, with the grammar and without")
    deadline = time.monotonic() + settings.budget_s
    sides: dict[Label, Side] = {}
    for waiting, one in zip(range(len(running), 0, -1), running, strict=True):
        made = provided[one.label]
        run = LabelledRun(made.variant, artifact=made.artifact, label=one.label)
        bench = Bench(settings, toolset, suite, screen, [run], scratch, logs)
        until = time.monotonic() + max(1.0, deadline - time.monotonic()) / waiting
        with Fleet(logs, settings) as fleet:
            try:
                member = fleet.open(run, settings.device, cases)
            except WorkerFailure as failure:
                raise UserError(f"{one.source}: {_plain(str(failure))}") from None
            answers(bench, [member], None, until)
        if run.status != "ok":
            raise UserError(f"{one.source}: {_plain(str(run.reason))}")
        sides[one.label] = from_run(one.label, one.source, run, made.model, describe(), suite, toolset)
    return sides


def _provide(
    one: Asked, variant: Variant, toolset: Toolset, settings: Settings, screen: Screen, logs: Path
) -> Provided:
    """The artifact of a side, exported to where `bench all-runtimes` keeps its own."""
    if one.artifact is not None:
        source = one.artifact.manifest["source"]
        known = {"name": str(source.get("name", one.artifact.folder.name)), "sha256": str(source.get("sha256", ""))}
        return Provided(one.artifact, variant, {**known, "parameters": source.get("parameters")})
    with screen.progress() as bars:
        checkpoint = merge_checkpoint(
            one.source, settings.cache / "merged", adapter=one.adapter, toolset=toolset.name,
            progress=lambda line: bars.describe("merge", line),
        )  # fmt: skip
        bars.end("merge")
        parts = (checkpoint.name, checkpoint.sha256[:8], toolset.name, toolset.sha256[:8])
        out = settings.cache / "-".join(parts)
        made = export(checkpoint, [variant], out, settings, logs, bars.describe, lambda name, _: bars.end(name))
    artifact = made[variant.artifact]
    if isinstance(artifact, Missing):
        raise UserError(f"{one.source}: {variant.artifact}: {_plain(artifact.reason)}")
    screen.done(one.label, f"{artifact.size_bytes / 1e6:7.1f} MB  {artifact.folder}")
    entry = {"name": checkpoint.name, "sha256": checkpoint.sha256, "parameters": count_parameters(checkpoint.folder)}
    return Provided(artifact, variant, entry)


def _plain(failure: str) -> str:
    """A worker's failure without the log that goes when the bench fails; its last line stays."""
    return re.sub(r"; see logs/\S+?\.log(: )?", lambda m: "; its last line: " if m[1] else "", failure)


def _write(folder: Path, report: dict[str, Any], sides: Sequence[Side]) -> None:
    drawn = draw(report, folder / "lift.png")
    (folder / "report.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "lift.md").write_text(render(report, plot="lift.png" if drawn else None), encoding="utf-8")
    write_csv(report, folder / "lift.csv")
    with (folder / ANSWERS).open("w", encoding="utf-8") as out:
        for side in sides:
            for mode in MODES:
                for line in side.answers[mode].values():
                    out.write(json.dumps(line | {"run": side.label}, ensure_ascii=False) + "\n")
