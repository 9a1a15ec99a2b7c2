"""`bench all-runtimes` from beginning to end: choose, export, open, judge, compare, time, report."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import report as reports
from bench.cold import Start, context_for, first_calls
from bench.fleet import Fleet, Member, try_open
from bench.folder import check_out, workplace, write_cases, write_lines
from bench.judging import agreement, answers
from bench.machine import describe
from bench.markdown import render
from bench.parity import USUAL_WINDOW, window_of
from bench.plot import draw
from bench.records import Run, Settings, Variant
from bench.screen import Screen
from bench.suites import Suite, load_files, load_suite, subset
from bench.tables import ms
from bench.timing import floor_case, latency, speeds
from bench.variants import REFERENCE, Missing, choose, export, made_from, merge, on_devices
from export.atomic import write_json
from router.toolset import Toolset
from router.toolset_load import load_toolset
from runtimes import runtime
from runtimes.artifact import Artifact
from runtimes.base import default_threads
from runtimes.errors import UserError

STAGES = 6
COLD = 0.1
"""Part of the budget that fresh processes may take, of all runs together; each run has one of each kind at least."""
JUDGING = 0.6
"""Part of the time left after opening that accuracy and parity may take; latency gets the rest and what they leave."""
MEASURING = 0.4
"""Part of the budget that is kept for measuring, however long the exports took."""


@dataclass(frozen=True)
class Outcome:
    """The report and the folder that it was written to."""

    report: dict[str, Any]
    folder: Path


@dataclass(eq=False)
class Bench:
    """The state of one bench: what is run on what, and the clock."""

    settings: Settings
    toolset: Toolset
    suite: Suite
    screen: Screen
    runs: list[Run]
    scratch: Path
    logs: Path
    deadline: float = 0.0
    reference: Run | None = None
    window: int = USUAL_WINDOW
    stages_s: dict[str, float] = field(default_factory=dict)
    blocks: list[dict[str, Any]] = field(default_factory=list)

    def stage(self, number: int, stages: int, title: str, detail: str, work: Callable[[], Any]) -> Any:
        """Announce a stage, do its work and note how long it took."""
        self.screen.stage(number, stages, title, detail)
        begun = time.monotonic()
        result = work()
        self.stages_s[title.lower()] = time.monotonic() - begun
        return result

    def context(self, model: dict[str, Any], started: datetime) -> reports.Context:
        """What the report says beside its runs; the bench has just ended."""
        return reports.Context(
            settings=self.settings, suite=self.suite, toolset=self.toolset.name,
            toolset_sha256=self.toolset.sha256, model=model, machine=describe(), started=started,
            finished=datetime.now(UTC), blocks=self.blocks, stages_s=self.stages_s,
        )  # fmt: skip

    @property
    def left(self) -> float:
        """Seconds until the budget is used up; never less than one."""
        return max(1.0, self.deadline - time.monotonic())


def all_runtimes(
    settings: Settings,
    screen: Screen,
    *,
    out: Path | None = None,
    artifacts: dict[str, Artifact | Missing] | None = None,
    reference: Variant = REFERENCE,
) -> Outcome:
    """Run the bench and write its report. `artifacts` gives made ones by name, and then nothing is exported.

    Raises `UserError` for what the user can mend before anything is measured; a runtime that fails later is
    reported, never raised.
    """
    settings = replace(settings, threads=settings.threads or default_threads())
    started, clock = datetime.now(UTC), time.monotonic()
    if out is not None:
        check_out(out)
    toolset = load_toolset(settings.toolset)
    suite = suite_asked(settings, toolset)
    variants = on_devices(choose(settings, emulated="always"), settings)
    with workplace(out, started, reports.git_state()[0]) as place:
        bench = Bench(settings, toolset, suite, screen, [Run(v) for v in variants], place.scratch, place.logs)
        bench.deadline = clock + settings.budget_s
        _introduce(bench, variants)
        model = _provide(bench, artifacts, reference)
        # A first run spends much of its time on exports; measuring gets a fair part all the same.
        bench.deadline = max(bench.deadline, time.monotonic() + MEASURING * settings.budget_s)
        with Fleet(bench.logs, settings) as fleet:
            _measure(bench, fleet)
        report = reports.build(bench.context(model, started), bench.runs, bench.reference)
        _write(place.staging, report, bench)
    return Outcome(report, place.target)


def suite_asked(settings: Settings, toolset: Toolset) -> Suite:
    """The cases of a file, or of the suite that is named; of them a part with ``--quick``. Raises `UserError`."""
    if settings.cases is not None:
        suite = load_files([settings.cases], name=settings.cases.stem)
    else:
        suite = load_suite(settings.suite, toolset.name)
    return subset(suite) if settings.quick else suite


def _introduce(bench: Bench, variants: Sequence[Variant]) -> None:
    suite, settings = bench.suite, bench.settings
    bench.screen.say(
        f"Bench of {settings.model} on toolset {bench.toolset.name}: {len(variants)} variants, "
        f"{len(suite.cases)} cases (suite {suite.name}), {settings.takes}"
    )
    for note in suite.notes:
        bench.screen.say(f"  note: {note}")


def _provide(bench: Bench, artifacts: dict[str, Artifact | Missing] | None, reference: Variant) -> dict[str, Any]:
    """Export what is missing and note which runs cannot be; returns the report's `model`."""
    begun = time.monotonic()
    own = next((run for run in bench.runs if run.variant == reference), None)
    # Not chosen, the reference still runs, on the side, for parity alone.
    bench.reference = own or Run(reference)
    wanted = list(dict.fromkeys([*(run.variant for run in bench.runs), reference]))
    if artifacts is None:
        bench.screen.stage(1, STAGES, "Export", "what is missing; the rest is taken from the cache")
        artifacts, model = export_all(bench, wanted)
    else:
        model = model_of(artifacts)
    for run in [*bench.runs, *([] if own else [bench.reference])]:
        equip(bench, run, artifacts.get(run.variant.artifact, Missing("there is no artifact of it", True)))
    bench.stages_s["export"] = time.monotonic() - begun
    return model


def export_all(bench: Bench, wanted: list[Variant]) -> tuple[dict[str, Artifact | Missing], dict[str, Any]]:
    """Artifacts of the bench's model by name, made or found in the cache, and the report's `model`."""
    settings, screen = bench.settings, bench.screen
    with screen.progress() as bars:

        def say(name: str, line: str) -> None:
            bars.describe(name, line)

        def finished(name: str, made: Artifact | Missing) -> None:
            bars.end(name)
            if isinstance(made, Artifact):
                screen.done(name, f"{made.size_bytes / 1e6:7.1f} MB  {made.folder}")
            else:
                (screen.skipped if made.unavailable else screen.failed)(name, made.reason)

        checkpoint, parameters = merge(settings, bench.logs / "merge.log", say)
        bars.end("merge")
        parts = (checkpoint.name, checkpoint.sha256[:8], bench.toolset.name, bench.toolset.sha256[:8])
        out = settings.cache / "-".join(parts)
        artifacts = export(checkpoint, wanted, out, settings, bench.logs, say, finished)
    bench.window = window_of(checkpoint.config)
    model = {"name": checkpoint.name, "sha256": checkpoint.sha256, "parameters": parameters}
    return artifacts, model | made_from(checkpoint)


def model_of(artifacts: dict[str, Artifact | Missing]) -> dict[str, Any]:
    """The report's `model` of artifacts that were given, from their manifests."""
    source: dict[str, Any] = next((a.manifest["source"] for a in artifacts.values() if isinstance(a, Artifact)), {})
    return {
        "name": str(source.get("name", "unknown")),
        "sha256": str(source.get("sha256", "")),
        "parameters": source.get("parameters"),
    }


def equip(bench: Bench, run: Run, made: Artifact | Missing) -> None:
    """Give a run its artifact, or its reason for having none, or for not running here."""
    if isinstance(made, Artifact):
        run.artifact = made
        state = runtime(run.variant.runtime).availability()
        if not state.available:
            run.skip(state.reason, state.fix)
    elif made.unavailable:
        run.skip(made.reason)
    else:
        run.fail(made.reason, "export")


def _measure(bench: Bench, fleet: Fleet) -> None:
    members = bench.stage(
        2, STAGES, "Open", "one process per variant; load, then a first request", lambda: _open(bench, fleet)
    )
    reference = next((m for m in members if m.run is bench.reference), None)
    bench.stage(
        3,
        STAGES,
        "Accuracy",
        f"{len(bench.suite.cases)} cases with the grammar and without; logits against torch's",
        lambda: _judge(bench, members, reference),
    )
    timed = [member for member in members if member.run in bench.runs and member.alive and not member.run.emulated]
    latency(bench, 4, STAGES, timed)
    bench.stage(5, STAGES, "Speeds", "prefill and decode", lambda: speeds(bench, timed))
    if bench.settings.cold:
        told = "fresh processes up to their first call, with the prefix saved and without"
        bench.stage(6, STAGES, "Cold", told, lambda: _cold(bench, [member.run for member in timed if member.alive]))


def _cold(bench: Bench, runs: Sequence[Run]) -> None:
    """The time from the start of a process to its first call, of a typical case."""
    settings, case = bench.settings, floor_case(bench, runs)
    context = context_for(bench.toolset, case.context)
    for run in runs:
        assert run.artifact is not None
        start = Start(
            run.artifact.folder, run.variant.runtime, case.user, context, run.variant.device or settings.device,
            settings.threads,
            settings.plugins,
        )  # fmt: skip
        try:
            run.first_call = first_calls(start, settings.cold, COLD * settings.budget_s / len(runs))
        except UserError as error:
            run.warnings.append(f"no time to a first call: {error}")
            bench.screen.failed(run.name, str(error))
            continue
        walls = (found and found["wall_ms"] for found in (run.first_call["saved"], run.first_call["computed"]))
        told = " / ".join(ms(wall) for wall in walls)
        bench.screen.done(run.name, f"{told} ms, prefix restored / computed, of {run.first_call['n']} processes each")


def _judge(bench: Bench, members: list[Member], reference: Member | None) -> None:
    answers(bench, members, reference, time.monotonic() + bench.left * JUDGING)
    if reference is None or not reference.alive:
        bench.screen.say("  no reference: torch in 32 bits could not run, so there are no parity figures")
    else:
        agreement(bench, members, reference)


def _open(bench: Bench, fleet: Fleet) -> list[Member]:
    """A worker for every run that can run; the reference first, on the CPU."""
    members: list[Member] = []
    cases = write_cases(bench.scratch / "cases.jsonl", bench.suite.cases)
    reference = bench.reference
    first = [run for run in bench.runs if run is reference] + [run for run in bench.runs if run is not reference]
    for run in first:
        if run in bench.runs and run.status == "ok":
            members += try_open(bench.screen, fleet, run, bench.settings.device, cases)
    if reference is not None and reference.artifact is not None and not _on_cpu(members, reference):
        # The measured torch run is on another device, or torch was not chosen: a process for parity alone.
        elsewhere = bench.settings.device not in ("auto", "cpu")
        if reference not in bench.runs and reference.status == "ok":
            members += try_open(bench.screen, fleet, reference, "cpu", cases)
        elif reference in bench.runs and (reference.status == "ok" or elsewhere):
            bench.reference = Run(reference.variant, artifact=reference.artifact)
            members += try_open(bench.screen, fleet, bench.reference, "cpu", cases)
    return members


def _on_cpu(members: Sequence[Member], reference: Run) -> bool:
    return any(member.run is reference and member.run.opened["device"] == "cpu" for member in members)


def _write(folder: Path, report: dict[str, Any], bench: Bench) -> None:
    reports.validate(report)
    drawn = draw(report, folder / "accuracy-vs-p95.png")
    write_json(folder / "report.json", report)
    (folder / "report.md").write_text(render(report, plot="accuracy-vs-p95.png" if drawn else None), encoding="utf-8")
    write_lines(folder / "samples.jsonl", reports.samples(bench.runs, bench.suite))
