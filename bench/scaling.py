"""`bench scaling`: p50 against the number of tools, the length of prompt and argument, the size of the vocabulary.

The same call is taken at every size (`bench.forced`), so that what grows is what was made to grow. Every sweep is a
bench of its own: a process for each variant, turns in shuffled blocks, the floor beside each point.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from bench import scaling_page, scaling_plot, scaling_report
from bench.answering import LabelledRun
from bench.fleet import Fleet, open_all
from bench.folder import check_out, workplace, write_lines
from bench.judging import answers
from bench.predict import weights_of
from bench.records import Run, Settings, Variant
from bench.report import git_state
from bench.routing import tokens_of
from bench.run import JUDGING, Bench, Outcome, equip
from bench.scaling_floor import predicted_ms
from bench.scaling_points import Point, Sweep, argument_tokens, branches, points
from bench.scaling_report import Measured, row
from bench.screen import Screen
from bench.shape_checkpoint import outline
from bench.shape_making import Artifacts, Machine, check_context, exported, made_checkpoint, probe, tokenizer_of
from bench.shapes import Shape, changed, of_config
from bench.suites import Suite, digest
from bench.timing import timing
from bench.variants import Missing, choose, merge
from export.atomic import write_json
from router.tokenizer import RouterTokenizer
from router.toolset import Toolset, to_dict
from router.toolset_load import load_toolset
from router.wire_format import wire_format
from runtimes.artifact import Artifact
from runtimes.base import default_threads
from runtimes.errors import UserError

WORKER: Final = "bench.scaling_worker"
VARIANTS: Final = ("gguf-q8_0", "onnx-int8")
CONTEXT_STEP: Final = 256
"""Contexts are multiples of it, as llama.cpp rounds them."""


@dataclass(frozen=True)
class Asked:
    """Which sweeps, over which sizes, of which model."""

    sizes: dict[Sweep, tuple[int, ...]]
    shape: Shape | None = None
    """Random weights; None: the model that `Settings` name."""
    tokenizer: Path | None = None
    """Of the shape."""
    masked: bool = False


@dataclass(eq=False)
class State:
    """What is measured so far, and on what."""

    bench: Bench
    asked: Asked
    artifacts: Artifacts
    shape: Shape | None
    """Whose vocabulary is made to grow; None where artifacts were given."""
    tokenizer: Path
    machine: Machine | None = None
    """What predicted floors are made of; None where there is no shape to predict for, or no CPU."""
    measured: list[Measured] = field(default_factory=list)
    runs: list[tuple[Sweep, Run]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(eq=False)
class SizedRun(LabelledRun):
    """One variant of the shape with so many rows."""

    rows: int = 0


def scaling(
    settings: Settings,
    asked: Asked,
    screen: Screen,
    *,
    out: Path | None = None,
    artifacts: Artifacts | None = None,
) -> Outcome:
    """Measure and write the report. `artifacts` gives made ones by name (for vocabularies: ``NAME@ROWS``), and then
    nothing is made.

    Raises `UserError` for what can be mended before anything is measured; a run that fails later is reported.
    """
    variants = settings.variants or VARIANTS
    settings = replace(
        settings, threads=settings.threads or default_threads(), modes=("grammar",), variants=tuple(variants),
        proved=() if asked.shape else None,
    )  # fmt: skip
    started = datetime.now(UTC)
    if out is not None:
        check_out(out)
    chosen = choose(settings, emulated="never")
    toolset = load_toolset(settings.toolset)
    if artifacts is None and asked.shape is not None:
        _check_smallest(asked.shape, asked, toolset)
    with workplace(out, started, git_state()[0]) as place:
        suite = Suite("scaling", (), digest([]))
        bench = Bench(settings, toolset, suite, screen, [Run(v) for v in chosen], place.scratch, place.logs)
        screen.say(
            f"{asked.shape.name if asked.shape else settings.model}, {', '.join(v.artifact for v in chosen)}: "
            f"{', '.join(asked.sizes)}; {settings.takes}"
        )
        model, state = _prepared(bench, asked, chosen, artifacts)
        for number, sweep in enumerate(asked.sizes, 1):
            screen.stage(number, len(asked.sizes), sweep.title(), f"p50 against {_AGAINST[sweep]}")
            begun = time.monotonic()
            _sweep(state, sweep, chosen)
            bench.stages_s[sweep] = time.monotonic() - begun
        context = bench.context(model, started)
        report = scaling_report.build(
            context, state.measured, masked=asked.masked, notes=state.notes, machine=state.machine
        )
        _write(place.staging, report, state)
    return Outcome(report, place.target)


def _check_smallest(shape: Shape, asked: Asked, toolset: Toolset) -> None:
    """Raise `UserError` for a tokenizer that does not do, and for a context that has no room for the smallest size of a
    sweep, or for the declarations of `toolset`, which exports must hold.
    """
    with TemporaryDirectory() as scratch:
        tokenizer = tokenizer_of(outline(shape, asked.tokenizer, Path(scratch)))
    check_context(shape, len(tokenizer.prefix_ids(toolset)) + 1, f"toolset {toolset.name}, which exports hold,")
    for sweep, sizes in asked.sizes.items():
        (point,) = points(sweep, [min(sizes)], tokenizer)
        check_context(shape, tokens_of(tokenizer, point.toolset, point.case), f"{point.id}, the smallest of its sweep,")


_AGAINST: Final[dict[Sweep, str]] = {
    "tools": "the number of tools",
    "prompt": "the length of the cached prompt",
    "argument": "the length of the argument",
    "vocabulary": "the size of the vocabulary",
}


def _prepared(
    bench: Bench, asked: Asked, variants: Sequence[Variant], artifacts: Artifacts | None
) -> tuple[dict[str, Any], State]:
    """The report's `model`, and what all sweeps share. Raises `UserError` where there is no artifact at all."""
    shape, model = asked.shape, {"name": bench.settings.model, "sha256": "", "parameters": None}
    found = artifacts or {}
    if artifacts is None and shape is not None:
        checkpoint = made_checkpoint(bench, shape, asked.tokenizer)
        model = {"name": shape.name, "sha256": checkpoint.sha256, "parameters": shape.parameters}
        found = exported(bench, checkpoint, variants)
    elif artifacts is None:
        with bench.screen.progress() as bars:
            checkpoint, parameters = merge(bench.settings, bench.logs / "merge.log", bars.describe)
        shape = of_config(checkpoint.config, checkpoint.name)
        model = {"name": checkpoint.name, "sha256": checkpoint.sha256, "parameters": parameters}
        found = exported(bench, checkpoint, variants)
    known = [made for made in found.values() if isinstance(made, Artifact)]
    if not known:
        reasons = "; ".join(f"{name}: {made.reason}" for name, made in found.items() if isinstance(made, Missing))
        raise UserError(f"nothing to measure: {reasons}")
    state = State(bench, asked, found, shape, asked.tokenizer or known[0].tokenizer)
    if shape is not None and bench.settings.device in ("auto", "cpu"):
        runs = [(found.get(variant.artifact), variant) for variant in variants]
        reads = (weights_of(made, variant).reads for made, variant in runs if isinstance(made, Artifact))
        state.machine = probe(shape, set().union(*reads), bench.settings.threads or 1, bench.logs)
    return model, state


def _sweep(state: State, sweep: Sweep, variants: Sequence[Variant]) -> None:
    """Measure one sweep on all variants."""
    whole = state.bench
    artifact = next(made for made in state.artifacts.values() if isinstance(made, Artifact))
    tokenizer = RouterTokenizer.load(artifact.tokenizer, wire_format(artifact.wire))
    there, context = _fitting(state, points(sweep, state.asked.sizes[sweep], tokenizer), artifact, tokenizer)
    settings = replace(
        whole.settings,
        requests=whole.settings.requests * len(there),
        budget_s=whole.settings.budget_s / len(state.asked.sizes),
    )
    if sweep == "vocabulary":
        runs = [run for rows in _vocabularies(state, tokenizer) for run in _cut(state, rows, variants)]
    else:
        runs = [_equipped(whole, Run(variant), state.artifacts.get(variant.artifact)) for variant in variants]
    cases = tuple(point.case for point in there)
    scratch = whole.scratch / sweep
    scratch.mkdir()
    for run in runs:
        run.worker = WORKER
        run.more = {"toolsets": _toolsets(scratch, there), "context": context, "masked": state.asked.masked}
    suite = Suite(sweep, cases, digest(cases))
    bench = Bench(settings, whole.toolset, suite, whole.screen, runs, scratch, whole.logs)
    bench.deadline = time.monotonic() + settings.budget_s
    with Fleet(whole.logs, settings) as fleet:
        members = open_all(bench, fleet)
        answers(bench, members, None, time.monotonic() + settings.budget_s * JUDGING)
        timing(bench, [member for member in members if member.alive])
    state.runs += [(sweep, run) for run in runs]
    for variant in variants:
        own = [run for run in runs if run.variant == variant]
        one = Measured(sweep, variant.artifact, runs=own, blocks=bench.blocks)
        one.rows = [
            row(
                point, index, run, size=point.size or _rows(run), rows=_rows(run) or artifact.vocab_size,
                argument=argument_tokens(point.case, tokenizer), parts=branches(point.toolset),
                predicted=predicted_ms(run, point.id, state.shape, state.machine),
            )
            for run in own
            for index, point in enumerate(there)
        ]  # fmt: skip
        state.measured.append(one)


def _rows(run: Run) -> int:
    """Rows of a run's vocabulary where that is what grows; 0 elsewhere."""
    return run.rows if isinstance(run, SizedRun) else 0


def _fitting(
    state: State, all_points: Sequence[Point], artifact: Artifact, tokenizer: RouterTokenizer
) -> tuple[list[Point], int]:
    """The points that the model's context has room for, and the context that the longest of them needs."""
    there, longest = [], 0
    for point in all_points:
        need = tokens_of(tokenizer, point.toolset, point.case)
        if need <= artifact.context_length:
            there.append(point)
            longest = max(longest, need)
        else:
            state.notes.append(
                f"{point.id}: left out, it takes {need:,} tokens and the model has {artifact.context_length:,}"
            )
    return there, min(artifact.context_length, -(-longest // CONTEXT_STEP) * CONTEXT_STEP)


def _vocabularies(state: State, tokenizer: RouterTokenizer) -> list[int]:
    """The numbers of rows that the tokenizer's entries leave."""
    sizes = sorted(set(state.asked.sizes["vocabulary"]))
    small = [rows for rows in sizes if rows < tokenizer.vocab_size]
    if small:
        told = ", ".join(f"{rows:,}" for rows in small)
        state.notes.append(f"vocabulary: {told} left out, the tokenizer has {tokenizer.vocab_size:,} entries")
    return [rows for rows in sizes if rows not in small]


def _cut(state: State, rows: int, variants: Sequence[Variant]) -> list[Run]:
    """The variants of the model's shape with so many rows, weights random."""
    bench, artifacts = state.bench, state.artifacts
    if state.shape is not None:
        shape = changed(state.shape, {"vocab": rows})
        own = Bench(
            replace(bench.settings, proved=()), bench.toolset, bench.suite, bench.screen, [], bench.scratch, bench.logs
        )
        made = exported(own, made_checkpoint(own, shape, state.tokenizer), variants)
        artifacts = {f"{name}@{rows}": artifact for name, artifact in made.items()}
    return [
        _equipped(bench, SizedRun(v, label=f"{v.artifact}@{rows}", rows=rows), artifacts.get(f"{v.artifact}@{rows}"))
        for v in variants
    ]


def _equipped(bench: Bench, run: Run, made: Artifact | Missing | None) -> Run:
    equip(bench, run, made or Missing("there is no artifact of it", True))
    if run.status != "ok":
        (bench.screen.failed if run.status == "failed" else bench.screen.skipped)(run.name, str(run.reason))
    return run


def _toolsets(folder: Path, there: Sequence[Point]) -> str:
    """A file that says where each point's toolset lies."""
    paths = {}
    for point in there:
        paths[point.id] = str(folder / f"{point.id}.json")
        (folder / f"{point.id}.json").write_text(json.dumps(to_dict(point.toolset)), encoding="utf-8")
    (folder / "toolsets.json").write_text(json.dumps(paths), encoding="utf-8")
    return str(folder / "toolsets.json")


def _write(folder: Path, report: dict[str, Any], state: State) -> None:
    scaling_report.validate(report)
    drawn = scaling_plot.draw(report, folder)
    write_json(folder / "scaling.json", report)
    (folder / "scaling.md").write_text(scaling_page.render(report, plots=drawn), encoding="utf-8")
    write_lines(folder / "samples.jsonl", _samples(state))


def _samples(state: State) -> Iterator[dict[str, Any]]:
    for sweep, run in state.runs:
        for timed in run.timed:
            yield {"sweep": sweep, "run": run.name, "case": timed.case, "block": timed.block, "ms": timed.ms}
